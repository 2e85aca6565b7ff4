"""Tries an image: makes its files ready, then starts `inside` in namespaces of their own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oneflower.images.app_image import checked_image, contents
from oneflower.images.scratch import scratch
from oneflower.images.tools import APART, WITH_US
from oneflower.images.unpack import NEEDED as UNPACK_NEEDS
from oneflower.images.unpack import unpack
from oneflower.local.home import LocalHome
from oneflower.local.host.container_driver import NEEDED as CONTAINER_NEEDS
from oneflower.local.host.qemu import has_kvm
from oneflower.local.host.qemu_driver import NEEDED as QEMU_NEEDS
from oneflower.prerequisites import require_packages, require_root
from oneflower.process import attend
from oneflower.runtimes import runtime
from oneflower.runtimes.runtime import NO_FRAMEWORK
from oneflower.trial.inside import DIARY
from oneflower.trial.plan import Machines, Plan
from oneflower.trial.progress import Diary, Tried
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import private_directory
from oneflower_appliance.parameters import PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from oneflower.images.app_image import Contents

    Step = Callable[[str], AbstractContextManager[object]]

NAMESPACED = (*APART, "--net")
_USUAL = {"unshare": "util-linux", "setpriv": "util-linux", "ssh": "openssh-client", "ip": "iproute2"}
NEEDS = {
    Machines.CONTAINER: {**CONTAINER_NEEDS, **UNPACK_NEEDS, **_USUAL},
    Machines.QEMU: {**QEMU_NEEDS, **_USUAL},
}


@dataclass(frozen=True)
class Outcome:
    """What was tried of an image that passed, and by which machines. Only a `whole` trial trains."""

    image: Path
    machines: Machines
    whole: bool
    tried: tuple[Tried, ...]
    passed: bool = True


def try_image(image: Path, step: Step, machines: Machines = Machines.CONTAINER, *, whole: bool = False) -> Outcome:
    """Try an image, which is a file, or for containers the folder of its root file system.

    Machines whose processor is emulated are tried for their boot only, unless the `whole` trial is asked for.
    Raises `OneflowerError` when the trial fails.
    """
    require_packages("Trying an image", NEEDS[machines])
    require_root("Trying an image", "its machines are on a network of their own")
    plan = Plan(machines, whole or machines is not Machines.QEMU or has_kvm())
    home = LocalHome.of_user()
    with scratch(private_directory(home.cache / "trials"), "trial-") as folder:
        prepare = _of_folder if image.is_dir() else _of_file
        boots, known = prepare(image, machines, folder, step)
        if plan.whole:
            _make_client(home, known, step)
        inner = ["oneflower.trial.inside", *plan.words(), str(boots), str(folder / "cloud"), str(home.cache)]
        if attend([*WITH_US, *NAMESPACED, sys.executable, "-m", *inner]):
            raise OneflowerError(f"The image {image} failed its trial.", "The lines above say where.", ExitCode.CLOUD)
        return Outcome(image, machines, plan.whole, tuple(Diary.read(folder / "cloud" / DIARY)))


def _of_folder(image: Path, machines: Machines, _folder: Path, _step: Step) -> tuple[Path, Contents]:
    """Return what machines boot, and what it carries, for the folder of a root file system."""
    if machines is Machines.QEMU:
        raise OneflowerError(
            f"{image} is a folder, from which no virtual machine boots.", "Give the .qcow2.", ExitCode.USAGE
        )
    return image, contents(image)


def _of_file(image: Path, machines: Machines, folder: Path, step: Step) -> tuple[Path, Contents]:
    """Return the same for the file of an image. For containers it is unpacked into `folder`."""
    with step(f"compare {image.name} with its manifest"):
        known = checked_image(image).contents
    if machines is Machines.QEMU:
        return image, known
    with step(f"unpack {image.name}"):
        boots = unpack(image, folder)
    return boots, contents(boots)


def _make_client(home: LocalHome, known: Contents, step: Step) -> None:
    """Make the runtime that the client's `flwr` comes from: in the namespaces there is no network for it."""
    framework = PARAMETERS["ML_FRAMEWORK"].default if known.framework == NO_FRAMEWORK else known.framework
    if runtime.find(home.runtimes, known.flower, framework) is None:
        with step(f"the client's own runtime, Flower {known.flower} and {framework}"):
            runtime.ensure(home.runtimes, known.flower, framework)
