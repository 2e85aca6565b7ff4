"""Tries an image: a federation of machines that boot it deploys, trains, heals, scales, and goes.

The machines are containers, each with the image's own systemd as process 1. They and the local cloud that runs them are
in network, mount and process namespaces of their own, which end with the trial and everything in them. All that is done
is done as an operator of OpenNebula does it, through the same client: the SuperLink is reached over SSH.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower.api import opennebula_cloud
from oneflower.cloud import Federation
from oneflower.cloud.register import Registration, Wishes
from oneflower.cloud.tunnel import SshOptions
from oneflower.images.app_image import checked_image, contents
from oneflower.images.scratch import scratch
from oneflower.images.tools import WITH_US
from oneflower.images.unpack import NEEDED as UNPACK_NEEDS
from oneflower.images.unpack import unpack
from oneflower.local import daemon
from oneflower.local.home import LocalHome
from oneflower.local.host.bridge import NAMESPACES
from oneflower.local.host.container_driver import NEEDED as CONTAINER_NEEDS
from oneflower.prerequisites import require_packages, require_root
from oneflower.process import attend, run
from oneflower.runtimes import runtime
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import private_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from oneflower.cloud import Cloud, FederationStatus

    Step = Callable[[str], AbstractContextManager[object]]

_APP, _GOAL, _ROUNDS = "image-classification", 0.95, 3
_NODES = 2
_LIMIT = 180.0  # seconds for a federation to be ready, on a busy machine too
NAMESPACED = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_PULSE = 0.2
NEEDED = {
    **CONTAINER_NEEDS, **UNPACK_NEEDS, "unshare": "util-linux", "setpriv": "util-linux", "ssh": "openssh-client"
}  # fmt: skip


def try_image(image: Path, step: Step) -> None:
    """Try an image, which is a file or the folder of its root file system. Raises `OneflowerError` when it fails."""
    require_packages("Trying an image", NEEDED)
    require_root("Trying an image", "its machines run as containers")
    home = LocalHome.of_user()
    with scratch(private_directory(home.cache / "trials"), "trial-") as folder:
        root = image
        if not image.is_dir():
            with step(f"compare {image.name} with its manifest"):
                checked_image(image)
            with step(f"unpack {image.name}"):
                root = unpack(image, folder)
        flower = contents(root).flower
        with step(f"the client's own runtime for Flower {flower}"):  # there is no network for it in the namespaces
            runtime.ensure(home.runtimes, flower, "sklearn")
        inner = [sys.executable, "-m", "oneflower.trial", str(root), str(folder / "cloud"), str(home.cache)]
        if attend([*WITH_US, *NAMESPACED, *inner]):
            raise OneflowerError(f"The image {image} failed its trial.", "The lines above say where.", ExitCode.CLOUD)


def main() -> None:
    """Run the trial in this process, which is the first in its namespaces."""
    root, state, cache = map(Path, sys.argv[1:])
    isolate()
    home = LocalHome(state, cache).make()
    os.environ["ONEFLOWER_HOME"] = str(state)
    try:
        found = daemon.start(home, ["--stay", "--image", str(root)])
        os.environ |= {"ONE_XMLRPC": found.xmlrpc, "ONEFLOW_URL": found.oneflow, "ONE_AUTH": str(home.one_auth)}
        try:
            _live(opennebula_cloud(ssh=SshOptions(key=_key(state))), state)
        finally:
            daemon.stop(home)
    except OneflowerError as error:
        sys.stderr.write(f"{error.sentence}\n")
        sys.exit(error.code)


def isolate() -> None:
    """Set up what only this process's namespaces have. However they end, nothing of it is left on this machine."""
    what, hint = "set up the network of the trial", "It needs namespaces of its own: unshare --net --mount."
    NAMESPACES.mkdir(exist_ok=True)
    run(["mount", "-t", "tmpfs", "-o", "mode=755", "oneflower", str(NAMESPACES)], what, hint)
    run(["ip", "link", "set", "lo", "up"], what, hint)


def _live(cloud: Cloud, state: Path) -> None:
    """Take a federation through its life."""
    cloud.core.set_user_attribute("SSH_PUBLIC_KEY", (state / "key.pub").read_text(encoding="ascii").strip())
    Registration(cloud, Wishes()).apply()
    with _timed(f"deploy 1 SuperLink and {_NODES} SuperNodes"):
        federation = Federation.deploy(cloud, _NODES, name="trial", timeout=_LIMIT, keep=True)
    try:
        _train(federation, state / "first")
        _reboot(federation)
        _kill_agents(federation, state)
        with _timed(f"scale to {_NODES + 1} SuperNodes and back"):
            federation.scale(_NODES + 1, _LIMIT)
            federation.scale(_NODES, _LIMIT)
        _train(federation, state / "second")
    except OneflowerError:
        for text in federation.logs():
            sys.stderr.write(f"    {text}\n")
        raise
    with _timed("take it away"):
        federation.delete()
        _nothing_left(state)


def _train(federation: Federation, folder: Path) -> None:
    with _timed(f"train {_APP} for {_ROUNDS} rounds"):
        result = federation.run(_APP, _ROUNDS, save=folder)
    accuracy = result.rows[-1].accuracy or 0.0
    if accuracy < _GOAL:
        raise OneflowerError(f"The model reached an accuracy of {accuracy:.3f}, less than {_GOAL}.", "")


def _reboot(federation: Federation) -> None:
    with _timed("reboot each machine"):
        for vm in federation.status().vms:
            federation.cloud.core.act_on_vm(vm.id, "reboot")
            _wait_back(federation, vm.name)


def _kill_agents(federation: Federation, state: Path) -> None:
    with _timed("kill each agent"):
        for vm in federation.status().vms:
            _ssh(vm.ip, state, "systemctl", "kill", "--kill-who=main", "--signal=KILL", "oneflower-agent")
            _wait_back(federation, vm.name)


def _wait_back(federation: Federation, name: str) -> None:
    """Wait until a machine has been seen not to be ready, or a few seconds, then until everything is."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _is_ready(federation.status(), name):
        time.sleep(_PULSE)
    federation.wait_ready(_LIMIT, grace=_LIMIT)


def _is_ready(status: FederationStatus, name: str) -> bool:
    return all(vm.ready for vm in status.vms if vm.name == name)


def _ssh(ip: str, state: Path, *command: str) -> None:
    """Run a command as root on a machine. Its host keys are not checked: it is ours, in a network of ours."""
    options = ("BatchMode=yes", "StrictHostKeyChecking=no", f"UserKnownHostsFile={os.devnull}", "LogLevel=ERROR")
    flags = [word for option in options for word in ("-o", option)]
    run(["ssh", *flags, "-i", str(state / "key"), f"root@{ip}", *command], f"run a command on {ip}", "See its log.")


def _key(state: Path) -> Path:
    key = state / "key"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)]
    run(command, "make an SSH key", "See that there is disk space.")
    return key


def _nothing_left(state: Path) -> None:
    """Raise `OneflowerError` if a machine left a mount, a network interface or files on this machine."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    left = [mount for mount in mounts if mount.startswith(str(state / "machines"))]
    left += [path.name for path in Path("/sys/class/net").glob("of*x*")]
    left += [path.name for path in (state / "machines").glob("*")]
    if left:
        raise OneflowerError(f"The machines left behind: {', '.join(left)}.", "", ExitCode.CLOUD)


@contextmanager
def _timed(what: str) -> Iterator[None]:
    sys.stderr.write(f"  {what} ...\n")
    start = time.monotonic()
    try:
        yield
    except BaseException:
        sys.stderr.write(f"✗ {what} ({time.monotonic() - start:.1f} s)\n")
        raise
    sys.stderr.write(f"✓ {what} ({time.monotonic() - start:.1f} s)\n")


if __name__ == "__main__":
    main()
