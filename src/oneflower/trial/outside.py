"""Tries an image: makes its files ready, then starts `inside` in namespaces of their own."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from oneflower.images.app_image import checked_image, contents
from oneflower.images.scratch import scratch
from oneflower.images.tools import WITH_US
from oneflower.images.unpack import NEEDED as UNPACK_NEEDS
from oneflower.images.unpack import unpack
from oneflower.local.home import LocalHome
from oneflower.local.host.container_driver import NEEDED as CONTAINER_NEEDS
from oneflower.prerequisites import require_packages, require_root
from oneflower.process import attend
from oneflower.runtimes import runtime
from oneflower.runtimes.runtime import NO_FRAMEWORK
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import private_directory
from oneflower_appliance.parameters import PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    Step = Callable[[str], AbstractContextManager[object]]

NAMESPACED = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
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
        known = contents(root)
        # The client's `flwr` comes from a runtime, and in the namespaces there is no network to build it.
        framework = PARAMETERS["ML_FRAMEWORK"].default if known.framework == NO_FRAMEWORK else known.framework
        if runtime.find(home.runtimes, known.flower, framework) is None:
            with step(f"the client's own runtime, Flower {known.flower} and {framework}"):
                runtime.ensure(home.runtimes, known.flower, framework)
        inner = [sys.executable, "-m", "oneflower.trial.inside", str(root), str(folder / "cloud"), str(home.cache)]
        if attend([*WITH_US, *NAMESPACED, *inner]):
            raise OneflowerError(f"The image {image} failed its trial.", "The lines above say where.", ExitCode.CLOUD)
