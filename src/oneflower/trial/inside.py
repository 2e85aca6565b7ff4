"""What is done in the namespaces of a trial: a federation deploys, trains, heals, scales, and is removed."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower.api import opennebula_cloud
from oneflower.cloud import Federation
from oneflower.cloud.register import Registration
from oneflower.cloud.tunnel import SshOptions, make_key
from oneflower.cloud.wishes import Wishes
from oneflower.images.app_image import contents, manifest_of, read_image
from oneflower.local import daemon
from oneflower.local.home import LocalHome
from oneflower.local.host.bridge import NAMESPACES
from oneflower.process import run
from oneflower.trial import virtual
from oneflower.trial.lessons import lesson_of
from oneflower.trial.plan import Machines, Plan
from oneflower.trial.progress import Diary, Watcher, show
from oneflower.trial.readiness import wait_back
from oneflower.trial.shell import ssh
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.roles import NODES

if TYPE_CHECKING:
    from oneflower.cloud import Cloud
    from oneflower.trial.lessons import Lesson

DIARY = "tried.json"  # in the folder of the state
_PYTHON = "/opt/oneflower/bin/python"


def main() -> None:
    """Run the trial in this process, which is the first in its namespaces."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--machines", type=Machines, required=True)
    parser.add_argument("--whole", action="store_true")
    for name in ("image", "state", "cache"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    isolate()
    home = LocalHome(given.state, given.cache).make()
    os.environ["ONEFLOWER_HOME"] = str(home.state)
    try:
        found = daemon.start(home, ["--stay", "--image", str(given.image)])
        os.environ |= {"ONE_XMLRPC": found.xmlrpc, "ONEFLOW_URL": found.oneflow, "ONE_AUTH": str(home.one_auth)}
        try:
            cloud = opennebula_cloud(ssh=SshOptions(key=home.state / "key"))
            diary = Diary()
            _live(cloud, home.state, given.image, Plan(given.machines, given.whole), diary)
            diary.write(home.state / DIARY)
        finally:
            daemon.stop(home)
    except OneflowerError as error:
        sys.stderr.write(f"{error.sentence}\n")
        sys.exit(error.code)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)


def isolate() -> None:
    """Set up what only this process's namespaces have. However they end, nothing of it is left on this machine."""
    what, hint = "set up the network of the trial", "It needs namespaces of its own: unshare --net --mount."
    NAMESPACES.mkdir(exist_ok=True)
    run(["mount", "-t", "tmpfs", "-o", "mode=755", "oneflower", str(NAMESPACES)], what, hint)
    run(["ip", "link", "set", "lo", "up"], what, hint)


def _live(cloud: Cloud, state: Path, image: Path, plan: Plan, diary: Diary) -> None:
    """Take a federation through its life."""
    known = contents(image) if image.is_dir() else read_image(manifest_of(image)).contents
    lesson = lesson_of(known)
    settings = {"FLOWER_VERSION": known.flower, **lesson.settings, **plan.settings}
    cloud.core.set_user_attribute("SSH_PUBLIC_KEY", make_key(state / "key"))
    registered = Registration(cloud, Wishes()).apply()
    if plan.machines is Machines.QEMU:
        virtual.choose_hardware(cloud, registered.vm_templates, image)
    federation = Federation.begin(cloud, "trial", settings, plan.bounds)
    try:
        with diary.timed(f"deploy 1 SuperLink and {plan.nodes} SuperNode{'s' if plan.nodes > 1 else ''}"):
            federation.wait_ready(plan.limit, Watcher(), plan.grace)
        if plan.machines is Machines.QEMU:
            with diary.timed("look into the machines") as tell:
                virtual.look_into(federation, state, image, tell)
            with diary.timed("cut the power of the SuperLink"):
                virtual.cut_power(federation, state, plan.limit)
        if plan.whole:
            _work(federation, state, lesson, plan, diary)
    except OneflowerError:
        show(federation)
        raise
    with diary.timed("take it away"):
        federation.delete(plan.limit)
        _nothing_left(state)


def _work(federation: Federation, state: Path, lesson: Lesson, plan: Plan, diary: Diary) -> None:
    """Do what a federation is for, and what happens to one."""
    _train(federation, lesson, state / "first", diary)
    with diary.timed("reboot each machine"):
        for vm in federation.status().vms:
            federation.cloud.core.act_on_vm(vm.id, "reboot")
            wait_back(federation, vm, plan.limit)
    with diary.timed("kill each agent"):
        for vm in federation.status().vms:
            ssh(vm.ip, state, "systemctl", "kill", "--kill-who=main", "--signal=KILL", "oneflower-agent")
            wait_back(federation, vm, plan.limit)
    with diary.timed(f"scale to {plan.nodes + 1} SuperNodes and back"):
        federation.scale(plan.nodes + 1, plan.limit)
        federation.scale(plan.nodes, plan.limit)
    _train(federation, lesson, state / "second", diary)


def _train(federation: Federation, lesson: Lesson, folder: Path, diary: Diary) -> None:
    if lesson.prepare:
        with diary.timed(f"prepare {lesson.app}"):
            for number, vm in enumerate(vm for vm in federation.status().vms if vm.role == NODES):
                with lesson.prepare.open("rb") as program:
                    ssh(vm.ip, folder.parent, _PYTHON, "-", lesson.folder, str(number), stdin=program)
    rounds = f"{lesson.rounds} rounds" if lesson.rounds > 1 else "1 round"
    with diary.timed(f"train {Path(lesson.app).name} for {rounds}") as told:
        result = federation.run(lesson.app, lesson.rounds, lesson.config, folder)
        told(lesson.check(result))


def _nothing_left(state: Path) -> None:
    """Raise `OneflowerError` if a machine left a mount, a network interface or files on this machine."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    left = [mount for mount in mounts if mount.startswith(str(state / "machines"))]
    left += [name for _, name in socket.if_nameindex() if fnmatch(name, "of*x*")]
    left += [path.name for path in (state / "machines").glob("*")]
    if left:
        raise OneflowerError(f"The machines left behind: {', '.join(left)}.", "", ExitCode.CLOUD)


if __name__ == "__main__":
    main()
