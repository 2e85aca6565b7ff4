"""Writes files so that no reader ever sees half a file, not even after a crash."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Iterator

PRIVATE = 0o600
SHARED = 0o644
_ROOM = 1 << 20  # with less than that left, a disk counts as full: databases and logs need more at a time


def write_atomic(path: Path, content: str | bytes, mode: int = PRIVATE, *, synced: bool = True) -> None:
    """Write `content` to `path` in one step. The file has the permissions `mode` from the start.

    If it is not `synced` to disk, it is not for readers after a crash of the machine. Raises `OneflowerError` when the
    disk is full, read-only or not permitted.
    """
    with replacing(path, mode, synced=synced) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path, mode: int = PRIVATE, *, synced: bool = True) -> Iterator[BinaryIO]:
    """Yield a file that replaces `path` at the end: either complete (and `synced` to disk), or not at all.

    Raises `OneflowerError` when the disk is full, read-only or not permitted.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            yield stream
            stream.flush()
            if synced:
                os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def private_directory(path: Path) -> Path:
    """Create `path` (and its parents), readable by its owner only, and return it."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def free_bytes(folder: Path) -> int:
    """Return how much more can be written where `folder` is. Raises `OSError`."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def no_room(folder: Path) -> str:
    """Return a sentence if the disk of `folder` is full, with what to do; otherwise an empty text."""
    try:
        free = free_bytes(folder)
    except OSError:
        return ""
    if free >= _ROOM:
        return ""
    return f"The disk is full: {free >> 10} KiB are left for {folder}. Free some space there."


def _unwritable(path: Path, error: OSError) -> OneflowerError:
    hint = "Free some disk space or make the folder writable for this user, then try again."
    if error.errno == errno.EROFS:
        hint = (
            "The disk is attached read-only, or has had an error, which the kernel's log names. Attach it so that it "
            "can be written, or boot the machine again, which repairs the file system."
        )
    return OneflowerError(
        f"Cannot write {path}: {error.strerror or error}.",
        hint,
        ExitCode.ENVIRONMENT,
    )
