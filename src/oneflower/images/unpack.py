"""Unpacks the files of an image, to run machines from the very image as containers."""

from __future__ import annotations

import json
import os
from pathlib import Path

from oneflower.images.disk import SECTOR
from oneflower.images.tools import tool
from oneflower.prerequisites import require_packages
from oneflower_appliance.errors import ExitCode, OneflowerError

NEEDED = {"qemu-img": "qemu-utils", "sfdisk": "fdisk", "debugfs": "e2fsprogs"}


def unpack(image: Path, folder: Path) -> Path:
    """Write the files of the root partition of `image` into `folder`/root, and return that. Needs root.

    Raises `OneflowerError` when the image is damaged or is not one of ours.
    """
    require_packages("Unpacking an image", NEEDED)
    disk, root = folder / "disk.raw", folder / "root"
    tool(["qemu-img", "convert", "-O", "raw", image, disk], f"read the image {image}")
    part = _root_partition(disk, image)
    root.mkdir(mode=0o755)
    tool(["debugfs", "-R", f"rdump / {root}", f"{disk}?offset={part * SECTOR}"], f"unpack {image}")
    disk.unlink()
    if not Path(root, "usr/lib/systemd/systemd").exists():
        raise _foreign(image)
    os.chown(root, 0, 0)
    return root


def _root_partition(disk: Path, image: Path) -> int:
    """Return the first sector of the partition that is called root."""
    try:
        table = json.loads(tool(["sfdisk", "--json", disk], f"read the partitions of {image}"))
    except OneflowerError as error:
        raise _foreign(image) from error
    for part in table["partitiontable"].get("partitions", ()):
        if part.get("name") == "root":
            return int(part["start"])
    raise _foreign(image)


def _foreign(image: Path) -> OneflowerError:
    return OneflowerError(
        f"{image} is not an image that `oneflower image build` made, or it is damaged.",
        "Compare its sha256 with the manifest beside it, or build it again.",
        ExitCode.INVALID_INPUT,
    )
