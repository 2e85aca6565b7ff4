"""Mounts the volumes that the context asks for, so that the agent's user can write to them."""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.process import call
from oneflower_appliance.volumes import HOME

if TYPE_CHECKING:
    from oneflower_appliance.volumes import Volume

_NFS_PORT, _PATIENCE = 2049, 5.0
_UNKNOWN = 2  # exit status of blkid for a device on which it recognises nothing
_ADVICE = re.compile(r"\s*dmesg\(1\) may have more.*", re.DOTALL)  # of `mount`, which the console shows anyway
_CHECKS = {
    "nfs": "Check that the server exports this folder to this machine, by NFS 4.2",
    "virtiofs": "Check that the VM template shares a folder of the host under this tag, and power the VM off and on",
    "disk": "Check the disk that it names",
}


def mount(volume: Volume, owner: int) -> str:
    """Mount a volume and return what was done. Raises `OneflowerError`."""
    where = Path(volume.where)
    if where.resolve() != where:  # an app may have left a link in the agent's folder, for root to follow
        raise _failed(volume, f"it is a link to {where.resolve()}, and links are not followed")
    if os.path.ismount(where):
        return f"{volume.where} is mounted already"
    _make_home(where, owner)
    where.mkdir(parents=True, exist_ok=True)
    made = _format(volume) if volume.kind == "disk" else ""
    _run(volume, _command(volume))
    if volume.kind == "disk" and where.stat().st_uid == 0:
        with suppress(OSError):  # a disk that is read-only stays as it is
            os.chown(where, owner, owner)
    return f"mounted {volume.source} on {volume.where}{made}"


def _make_home(where: Path, owner: int) -> None:
    """Make the agent's folder if a volume is mounted in it before the agent's first start.

    systemd would give a folder of root to the agent with everything in it, which fails on a volume that is read-only.
    """
    if where.is_relative_to(HOME) and not HOME.exists():
        HOME.mkdir(mode=0o700)
        os.chown(HOME, owner, owner)


def _command(volume: Volume) -> list[str]:
    if volume.kind == "nfs":
        server, _, path = volume.source.rpartition(":")
        # Without the helper of nfs-common the kernel wants the server's address, not its name.
        address = _address(volume, server.strip("[]"))
        options = f"vers=4.2,addr={address},nosuid,nodev,hard"
        return ["mount", "-i", "-t", "nfs4", "-o", options, f"{server}:{path}", volume.where]
    kind = ["-t", "virtiofs"] if volume.kind == "virtiofs" else []
    return ["mount", *kind, "-o", "nosuid,nodev", volume.source, volume.where]


def _address(volume: Volume, server: str) -> str:
    """Return the address at which the server answers. The kernel would try for minutes, and say nothing."""
    try:
        with socket.create_connection((server, _NFS_PORT), _PATIENCE) as connection:
            return str(connection.getpeername()[0])
    except OSError as error:
        raise _failed(
            volume, f"the server {server} does not answer on port {_NFS_PORT} ({error.strerror or error})"
        ) from error


def _format(volume: Volume) -> str:
    """Make a file system on a disk that has nothing at all: what a new data disk of OpenNebula is."""
    if "=" in volume.source:
        return ""
    try:
        with Path(volume.source).open("rb") as disk:
            disk.read(1 << 20)  # what cannot be read looks empty to blkid
    except OSError as error:
        raise _failed(volume, f"the disk {volume.source} cannot be read ({error.strerror})") from error
    status, _ = call(["blkid", "-p", volume.source])
    if status != _UNKNOWN:
        return ""
    _run(volume, ["mkfs.ext4", "-q", "-L", "oneflower-data", volume.source])
    return ", a new file system"


def _run(volume: Volume, command: list[str]) -> None:
    status, said = call(command)
    if status:
        raise _failed(volume, _reason(volume, said) or f"{command[0]} ended with {status}")


def _reason(volume: Volume, said: str) -> str:
    """Return what a command says, in the words of the volume's kind where `mount` has only those of disks."""
    own = _ADVICE.sub("", said).strip().removeprefix("mount: ").removeprefix(f"{volume.where}: ").rstrip(".")
    if volume.kind == "virtiofs":
        return f"no folder of the host has the tag {volume.source}, or it is in use"
    return f"the server does not give {volume.source} to this machine ({own})" if volume.kind == "nfs" else own


def _failed(volume: Volume, reason: str) -> OneflowerError:
    return OneflowerError(
        f"{volume.variable} cannot be mounted on {volume.where}: {' '.join(reason.split()).rstrip('.')}.",
        f"{_CHECKS[volume.kind]}; it is tried again.",
        ExitCode.ENVIRONMENT,
    )
