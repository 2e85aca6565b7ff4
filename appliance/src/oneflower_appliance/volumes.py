"""Folders that outlive a machine: a data disk, or a folder of an NFS server or of the host, mounted where FL_* point.

They are infrastructure, as the network is, so they are set in the CONTEXT section of a VM template and not in the form.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Mapping

# The variable that says what is mounted, the one that says where, and where it is if that says nothing.
VARIABLES = {
    "ONEFLOWER_DATA": ("FL_DATA_PATH", "/var/lib/oneflower/data"),
    "ONEFLOWER_CHECKPOINTS": ("FL_CHECKPOINT_PATH", "/var/lib/oneflower/checkpoints"),
}
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


def volumes(context: Mapping[str, str]) -> list[Volume]:
    """Return the volumes that a context asks for. Raises `OneflowerError` for one that is not valid."""
    found = []
    for variable, (place, usual) in VARIABLES.items():
        wanted = context.get(variable, "").strip()
        if not wanted:
            continue
        where = (context.get(place, "").strip() or usual).partition("{")[0].rstrip("/")
        found.append(Volume(variable, *_parse(variable, wanted), _checked(place, where)))
    return found


def check_volumes(context: Mapping[str, str]) -> None:
    """Raise `OneflowerError` unless all are mounted: what is written to a plain folder would fill the root disk."""
    for volume in volumes(context):
        if not os.path.ismount(volume.where):
            raise OneflowerError(
                f"{volume.variable} asks for {volume.source} on {volume.where}, where nothing is mounted.",
                "The machine's journal says why (journalctl -t oneflower-context -t oneflower-online).",
                ExitCode.ENVIRONMENT,
            )


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
