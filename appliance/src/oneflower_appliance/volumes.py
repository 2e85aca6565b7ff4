"""Folders that outlive a machine: a data disk, or a folder of an NFS server or of the host, mounted where FL_* point.

They are infrastructure, as the network is, so they are set in the CONTEXT section of a VM template and not in the form.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Mapping

HOME = Path("/var/lib/oneflower")  # of the agent and its user
WRITTEN = "ONEFLOWER_CHECKPOINTS"
# The variable that says what is mounted, the one that says where, and where it is if that says nothing.
VARIABLES = {
    "ONEFLOWER_DATA": ("FL_DATA_PATH", f"{HOME}/data"),
    "ONEFLOWER_PACKAGES": ("FL_PACKAGE_INDEX", f"{HOME}/wheels"),
    WRITTEN: ("FL_CHECKPOINT_PATH", f"{HOME}/checkpoints"),
}
# OpenNebula's own variables for a folder of the host, which its template mounts by virtiofs.
_TAG = re.compile(r"(DISK\d+)_MOUNT_TAG")
_REASONS = Path("/run/oneflower")
_OF_THE_FILE_SYSTEM = "lost+found"  # which only root can read
_NFS = re.compile(r"nfs:(?P<server>\[[0-9A-Fa-f:]+\]|[\w.-]+):(?P<path>/[^\s,]*)")
_VIRTIOFS = re.compile(r"virtiofs:(?P<tag>[\w.-]+)")
_DISK = re.compile(r"disk:(?P<name>LABEL=[\w.-]+|UUID=[\w-]+|[a-z]+\d*)")


@dataclass(frozen=True)
class Volume:
    """What is mounted where. `kind` is nfs, virtiofs or disk; `source` is in that kind's own words."""

    variable: str
    kind: str
    source: str
    where: str

    @property
    def online(self) -> bool:
        """Whether it needs the network."""
        return self.kind == "nfs"

    @property
    def reason(self) -> Path:
        """The file that says why it is not mounted, if it is not."""
        return _REASONS / f"{self.variable}.failed"


def entries(folder: Path) -> list[Path]:
    """Return what a user put into a folder: on a disk of its own, the file system has a folder there, too."""
    return sorted(path for path in folder.iterdir() if path.name != _OF_THE_FILE_SYSTEM)


def volumes(context: Mapping[str, str]) -> list[Volume]:
    """Return the volumes that a context asks for. Raises `OneflowerError` for one that is not valid."""
    found = []
    for variable, (place, usual) in VARIABLES.items():
        wanted = context.get(variable, "").strip()
        if not wanted:
            continue
        where = (context.get(place, "").strip() or usual).partition("{")[0].rstrip("/")
        found.append(Volume(variable, *_parse(variable, wanted), _checked(place, where)))
    for match in filter(None, map(_TAG.fullmatch, sorted(context))):
        point = f"{match[1]}_MOUNT_POINT"
        tag, where = context[match[0]].strip(), context.get(point, "").strip()
        if tag and where:
            found.append(Volume(match[0], "virtiofs", tag, _checked(point, where)))
    return found


def check_volumes(context: Mapping[str, str]) -> None:
    """Raise `OneflowerError` unless all are mounted: what is written to a plain folder would fill the root disk.

    Checkpoints have to be written, too.
    """
    for volume in volumes(context):
        if not os.path.ismount(volume.where):
            raise OneflowerError(
                _reason(volume)
                or f"{volume.variable} asks for {volume.source} on {volume.where}, where nothing is mounted.",
                "The machine's journal has more (journalctl -t oneflower-context -t oneflower-online).",
                ExitCode.ENVIRONMENT,
            )
        wanted, what = (os.W_OK, "written") if volume.variable == WRITTEN else (os.R_OK, "read")
        if not os.access(volume.where, wanted | os.X_OK):
            raise OneflowerError(
                f"{volume.variable}: {volume.source} on {volume.where} cannot be {what} by the agent's user (uid "
                f"{os.getuid()}).",
                "Give that user access on the server or the disk, and attach the disk so that it can be written.",
                ExitCode.ENVIRONMENT,
            )


def _reason(volume: Volume) -> str:
    try:
        return volume.reason.read_text(encoding="utf-8")
    except OSError:
        return ""


def _parse(variable: str, text: str) -> tuple[str, str]:
    if match := _NFS.fullmatch(text):
        return "nfs", f"{match['server']}:{match['path']}"
    if match := _VIRTIOFS.fullmatch(text):
        return "virtiofs", match["tag"]
    if match := _DISK.fullmatch(text):
        name = match["name"]
        return "disk", name if "=" in name else f"/dev/{name}"
    raise OneflowerError(
        f"{variable} is {text!r}, not a valid volume.",
        "Give nfs:SERVER:/FOLDER, virtiofs:TAG, disk:vdb, disk:LABEL=name or disk:UUID=id.",
    )


def _checked(variable: str, where: str) -> str:
    if re.fullmatch(r"/[\w./-]+", where) and ".." not in where.split("/"):
        return where
    raise OneflowerError(
        f"{variable} is {where!r}, where nothing can be mounted.", "Give a folder of its own, like /srv/data."
    )
