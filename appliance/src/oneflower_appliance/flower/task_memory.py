"""How much memory a confined task has: that of its processes, and that of its files in memory."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

_PROCESSES = Path("/proc")
_FIRST = 1  # of a process namespace
_IN_MEMORY = ("/tmp", "/dev/shm")  # noqa: S108 - of the task's own root
_BLOCK = 512  # bytes, the unit of st_blocks


def memory_of(task: int) -> float:
    """Return the bytes that a task and all that it started have, with their share of what others have, too.

    Files in memory count once, whether a process has mapped them or not: those of memfd_create(2) that a process has
    open, and what is in /tmp and /dev/shm. It is infinite if a process hides from being measured.
    """
    own = mapped = folders = 0
    files: dict[int, int] = {}
    for process in _with_descendants(_FIRST if _is_of_namespace() else task):
        place = _PROCESSES / str(process)
        try:
            text = (place / "smaps_rollup").read_text(encoding="ascii")
            shared = _field(text, "Pss_Shmem")
            own, mapped = own + _field(text, "Pss") - shared, mapped + shared
            folders = folders or sum(_used(f"{place}/root{folder}") for folder in _IN_MEMORY)
            files |= _open_files(place / "fd")
        except PermissionError:
            return math.inf
        except (OSError, IndexError):
            continue  # it has just ended
    return own + max(mapped, sum(files.values()) + folders)


def _is_of_namespace() -> bool:
    """Whether /proc shows the task's namespace, in which this process is not."""
    return not (_PROCESSES / "self").exists()


def _with_descendants(first: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for path in _PROCESSES.glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):
            parent = int((path / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.name))
    found, left = set(), [first]
    while left:
        found.add(one := left.pop())
        left += children.get(one, ())
    return found


def _field(text: str, name: str) -> int:
    return int(text.partition(f"\n{name}:")[2].split()[0]) << 10


def _used(folder: str) -> int:
    disk = os.statvfs(folder)
    return (disk.f_blocks - disk.f_bfree) * disk.f_frsize


def _open_files(descriptors: Path) -> dict[int, int]:
    """Return the bytes of files of memfd_create(2), by their inodes."""
    found = {}
    for path in descriptors.iterdir():
        with suppress(FileNotFoundError):
            if str(path.readlink()).startswith("/memfd:"):
                status = path.stat()
                found[status.st_ino] = status.st_blocks * _BLOCK
    return found
