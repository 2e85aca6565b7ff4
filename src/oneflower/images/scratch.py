"""A folder for what is needed for a while. What a killed process left in one is removed by the next that makes one."""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower.images.tools import tool

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def scratch(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a folder in `parent` and remove it afterwards. Folders with this prefix that nobody uses go first."""
    for left in parent.glob(f"{prefix}*"):
        with _held(left) as free:
            if free:
                remove(left)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    with _held(folder):
        try:
            yield folder
        finally:
            remove(folder)


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold a lock on the folder. Yields False if another process holds it. It is released when a process dies."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        held = False
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        yield held
    finally:
        os.close(handle)


def remove(folder: Path) -> None:
    """Remove a folder, but nothing that is mounted in it."""
    tool(["rm", "-rf", "--one-file-system", "--", folder], f"remove {folder}")
