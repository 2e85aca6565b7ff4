"""Checks whether the machine can run Flower at all, before Flower would crash without saying why."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import no_room, write_atomic
from oneflower_appliance.volumes import WRITTEN, volumes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# What x86-64-v2 adds. NumPy is built for it, and ends with an illegal instruction on less, without a message.
_NEEDED = ("cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2")
_LEAST_MEMORY = 384 << 20
_PROBED_EVERY = 20.0  # seconds


def check_hardware(processors: Path = Path("/proc/cpuinfo"), memory: Path = Path("/proc/meminfo")) -> None:
    """Raise `OneflowerError` when the processor or the memory is not enough. What is not known counts as enough."""
    missing = [flag for flag in _NEEDED if flag not in flags] if (flags := _flags(processors)) else []
    if missing:
        raise OneflowerError(
            f"The processor lacks {', '.join(missing)}, which belong to x86-64-v2: NumPy cannot run on it.",
            'Set CPU_MODEL=[MODEL="host-passthrough"] in the VM template, or take a host of 2009 or later.',
            ExitCode.ENVIRONMENT,
        )
    total = total_memory(memory)
    if total is not None and total < _LEAST_MEMORY:
        raise OneflowerError(
            f"The machine has {total >> 20} MB of memory, which is not enough for Flower.",
            "Give the VM at least 512 MB (MEMORY in the VM template).",
            ExitCode.ENVIRONMENT,
        )


def is_emulated(processors: Path = Path("/proc/cpuinfo")) -> bool:
    """Say whether QEMU emulates the processor, because its host has no KVM. It then is many times slower."""
    return "QEMU TCG CPU" in _read(processors)


def check_disk(folder: Path) -> None:
    """Raise `OneflowerError` when the disk of `folder` is full, or nothing can be written there."""
    if full := no_room(folder):
        raise OneflowerError(full, "Or give the VM a larger disk: `onevm disk-resize`.", ExitCode.ENVIRONMENT)
    _probe(folder)


class WriteProbe:
    """Writes to `folder` from time to time: a disk with an error takes no more writes, and nothing else shows it."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._due = clock() + _PROBED_EVERY

    def look(self) -> None:
        """Raise `OneflowerError` when nothing can be written any more. A disk that is full is another matter."""
        if self._clock() >= self._due and not no_room(self._folder):
            self._due = self._clock() + _PROBED_EVERY
            _probe(self._folder)


def _probe(folder: Path) -> None:
    probe = folder / "writable"
    write_atomic(probe, "")
    probe.unlink()


def full_disks(home: Path, context: Mapping[str, str]) -> list[str]:
    """Return a sentence for each full disk, of those that are written: the machine's own, and that of checkpoints."""
    written = (Path(volume.where) for volume in volumes(context) if volume.variable == WRITTEN)
    return [full for folder in (home, *written) if (full := no_room(folder))]


def _flags(path: Path) -> set[str]:
    match = re.search(r"^flags\s*:(.*)$", _read(path), re.MULTILINE)
    return set(match[1].split()) if match else set()


def total_memory(path: Path = Path("/proc/meminfo")) -> int | None:
    """Return the machine's memory in bytes, None if that is not known."""
    match = re.search(r"^MemTotal:\s*(\d+) kB", _read(path), re.MULTILINE)
    return int(match[1]) << 10 if match else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
