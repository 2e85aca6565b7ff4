"""The processes of machines.

Every process of a machine has ONEFLOWER_MACHINE in its environment, so that it can be found and ended even if the
machine's init is gone.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "ONEFLOWER_MACHINE"


def sweep(folder: Path) -> None:
    """End every process that belongs to the machine in `folder`."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.uids().real == os.getuid() and process.environ().get(MARK) == str(folder):
                process.kill()


def born(pid: int) -> int:
    """Return the start time of a process in clock ticks since boot, or 0 if it does not exist or is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] == "Z" else int(fields[19])
