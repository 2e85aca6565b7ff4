"""How much memory a confined task has: that of its processes, and that of its files in memory."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_IN_MEMORY = ("/tmp", "/dev/shm")  # noqa: S108 - of the task's own root
_BLOCK = 512  # bytes, the unit of st_blocks


def memory_of(namespace: str) -> int:
    """Return the bytes that the processes of a process namespace have, with their share of what others have, too.

    Files in memory count once, whether a process has mapped them or not: those of memfd_create(2) that a process has
    open, and what is in /tmp and /dev/shm.
    """
    own = mapped = 0
    files: dict[int, int] = {}
    folders = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            if (process / "ns" / "pid").readlink().name == namespace:
                text = (process / "smaps_rollup").read_text(encoding="ascii")
                shared = _field(text, "Pss_Shmem")
                own, mapped = own + _field(text, "Pss") - shared, mapped + shared
                folders = folders or sum(_used(f"{process}/root{folder}") for folder in _IN_MEMORY)
                files |= _open_files(process / "fd")
    return own + max(mapped, sum(files.values()) + folders)


def _field(text: str, name: str) -> int:
    return int(text.partition(f"\n{name}:")[2].split()[0]) << 10


def _used(folder: str) -> int:
    disk = os.statvfs(folder)
    return (disk.f_blocks - disk.f_bfree) * disk.f_frsize


def _open_files(descriptors: Path) -> dict[int, int]:
    """Return the bytes of files of memfd_create(2), by their inodes."""
    found = {}
    for path in descriptors.iterdir():
        with suppress(OSError):
            if str(path.readlink()).startswith("/memfd:"):
                status = path.stat()
                found[status.st_ino] = status.st_blocks * _BLOCK
    return found
