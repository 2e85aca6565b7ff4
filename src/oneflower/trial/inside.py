"""What is done in the namespaces of a trial: a federation deploys, trains, heals, scales, and is removed."""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, TYPE_CHECKING

from oneflower.api import opennebula_cloud
from oneflower.cloud import Federation
from oneflower.cloud.register import Registration, Wishes
from oneflower.cloud.tunnel import SshOptions, make_key
from oneflower.images.app_image import contents
from oneflower.local import daemon
from oneflower.local.home import LocalHome
from oneflower.local.host.bridge import NAMESPACES
from oneflower.process import run
from oneflower.trial.lessons import lesson_of
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.roles import NODES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oneflower.cloud import Cloud, FederationStatus
    from oneflower.images.app_image import Contents
    from oneflower.trial.lessons import Lesson

_NODES = 2
_PYTHON = "/opt/oneflower/bin/python"
_LIMIT = 180.0  # seconds for a federation to be ready, on a busy machine too
_PULSE = 0.2


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
            _live(opennebula_cloud(ssh=SshOptions(key=state / "key")), state, contents(root))
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


def _live(cloud: Cloud, state: Path, image: Contents) -> None:
    """Take a federation through its life."""
    lesson = lesson_of(image)
    settings = {"FLOWER_VERSION": image.flower, **lesson.settings}
    cloud.core.set_user_attribute("SSH_PUBLIC_KEY", make_key(state / "key"))
    Registration(cloud, Wishes()).apply()
    with _timed(f"deploy 1 SuperLink and {_NODES} SuperNodes"):
        federation = Federation.deploy(cloud, _NODES, settings, "trial", timeout=_LIMIT, keep=True)
    try:
        _train(federation, lesson, state / "first")
        _reboot(federation)
        _kill_agents(federation, state)
        with _timed(f"scale to {_NODES + 1} SuperNodes and back"):
            federation.scale(_NODES + 1, _LIMIT)
            federation.scale(_NODES, _LIMIT)
        _train(federation, lesson, state / "second")
    except OneflowerError:
        for text in federation.logs():
            sys.stderr.write(f"    {text}\n")
        raise
    with _timed("take it away"):
        federation.delete()
        _nothing_left(state)


def _train(federation: Federation, lesson: Lesson, folder: Path) -> None:
    if lesson.prepare:
        with _timed(f"prepare {lesson.app}"):
            for number, vm in enumerate(vm for vm in federation.status().vms if vm.role == NODES):
                with lesson.prepare.open("rb") as program:
                    _ssh(vm.ip, folder.parent, _PYTHON, "-", lesson.folder, str(number), stdin=program)
    rounds = f"{lesson.rounds} rounds" if lesson.rounds > 1 else "1 round"
    with _timed(f"train {Path(lesson.app).name} for {rounds}") as told:
        result = federation.run(lesson.app, lesson.rounds, lesson.config, folder)
        told(lesson.check(result))


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


def _ssh(ip: str, state: Path, *command: str, stdin: IO[bytes] | None = None) -> None:
    """Run a command as root on a machine. Its host keys are not checked: it is ours, in a network of ours."""
    options = ("BatchMode=yes", "StrictHostKeyChecking=no", f"UserKnownHostsFile={os.devnull}", "LogLevel=ERROR")
    flags = [word for option in options for word in ("-o", option)]
    words = ["ssh", *flags, "-i", str(state / "key"), f"root@{ip}", *command]
    run(words, f"run a command on {ip}", "See its log.", stdin=stdin)


def _nothing_left(state: Path) -> None:
    """Raise `OneflowerError` if a machine left a mount, a network interface or files on this machine."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    left = [mount for mount in mounts if mount.startswith(str(state / "machines"))]
    left += [name for _, name in socket.if_nameindex() if fnmatch(name, "of*x*")]
    left += [path.name for path in (state / "machines").glob("*")]
    if left:
        raise OneflowerError(f"The machines left behind: {', '.join(left)}.", "", ExitCode.CLOUD)


@contextmanager
def _timed(what: str) -> Iterator[Callable[[str], None]]:
    """Say what is done and how long it took. What is yielded takes what else to say of it."""
    sys.stderr.write(f"  {what} ...\n")
    start, more = time.monotonic(), list[str]()
    try:
        yield more.append
    except BaseException:
        sys.stderr.write(f"✗ {what} ({time.monotonic() - start:.1f} s)\n")
        raise
    sys.stderr.write(f"✓ {': '.join((what, *more))} ({time.monotonic() - start:.1f} s)\n")


if __name__ == "__main__":
    main()
