"""The images that the disks of a machine are laid over, as this host has them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from oneflower.local.host.driver import Disk
from oneflower.local.oned.disks import booted
from oneflower.local.oned.vms import disks_of
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower.local.oned.models import Image, Vm


def disks_of_machine(vm: Vm, images: Mapping[int, Image]) -> list[Disk]:
    """Return the disks of a machine that are laid over images: none if it boots what all machines of this cloud boot.

    Raises `OneflowerError` if the file of an image is not here.
    """
    boots = booted(vm.template).get("DISK_ID")
    found = []
    for disk in disks_of(vm.template):
        number = str(disk.get("IMAGE_ID", ""))
        if number.isdigit() and int(number) in images:
            size = str(disk.get("SIZE", ""))
            found.append(Disk(
                int(disk["DISK_ID"]), _file(images[int(number)]), int(size) if size.isdigit() else None,
                disk["DISK_ID"] == boots,
            ))  # fmt: skip
    return found


def _file(image: Image) -> Path:
    path = Path(str(image.template.get("PATH", "")))
    if not path.is_absolute() or not path.is_file():
        raise OneflowerError(
            f"The image {image.name} has no file on this machine, so no machine boots it here.",
            "Register an image from a file of this machine, and leave that where it is.",
            ExitCode.NOT_FOUND,
        )
    return path
