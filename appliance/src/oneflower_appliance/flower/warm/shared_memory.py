"""Memory in which a task and the SuperLink or SuperNode on its machine hand each other the contents of a bundle.

The task makes it, and names it in its request by its own process and descriptor. The other end opens it through /proc.
Linux allows that only for a process whose memory one may read anyway. It is in no folder, and it is gone when the last
process closes it or is killed. Who has written contents seals them: from then on nobody can change them.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Self

from oneflower_appliance.flower.confinement import own_pid
from oneflower_appliance.flower.warm.arrays import Parts
from oneflower_appliance.flower.warm.pieces import LONGEST_HEAD, SMALL, OpenFile, Piece, gap, is_chunk

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_PLACE = struct.Struct(">II")  # a process and its descriptor
PLACE = _PLACE.size
_NAME = "oneflower-objects"
_BUFFER = 1 << 20  # bytes: small contents are written together
_BLOCK = 512  # bytes, the unit of st_blocks
Span = tuple[int, int]  # where contents begin, and how many bytes they have
_SEALS = 0xF  # against more seals, a smaller size, a larger size, other contents (linux/fcntl.h)


class NotSharedError(OSError):
    """There is no such memory, or this process cannot open it."""


class AlreadyWrittenError(OSError):
    """The memory was written before: the answer to an earlier attempt of the same request was lost."""


class SharedMemory:
    """Memory that is written once, at its beginning, and can then be read by both ends. Close it with `with`."""

    def __init__(self, file: int) -> None:
        self._file = file

    @classmethod
    def create(cls) -> Self:
        """Return new memory. Raises `OSError` if this system has none."""
        try:
            return cls(os.memfd_create(_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        except AttributeError:
            raise NotSharedError("only Linux has it") from None

    @classmethod
    def of(cls, place: bytes) -> Self:
        """Return the memory of another process. Raises `NotSharedError`, or `ValueError`."""
        if len(place) != PLACE:
            raise ValueError("the place of the shared memory is cut off")
        process, number = _PLACE.unpack(place)
        path = Path(f"/proc/{process}/fd/{number}")
        try:
            if not str(path.readlink()).startswith(f"/memfd:{_NAME}"):  # nothing else is opened, not even for a moment
                raise NotSharedError("no memory of a task")
            return cls(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError as error:
            raise NotSharedError(str(error)) from error

    @property
    def place(self) -> bytes:
        """Where it is, for the other end."""
        return _PLACE.pack(own_pid(), self._file)

    def write(self, contents: Iterable[bytes | Parts]) -> list[Span]:
        """Write contents one after the other, and seal them. Returns where each is.

        The bytes of a large array begin with a page. Raises `AlreadyWrittenError`, or `NotSharedError`.
        """
        if self._seals():
            raise AlreadyWrittenError("written before")
        spans, end = [], 0
        with open(self._file, "wb", buffering=_BUFFER, closefd=False) as stream:
            for content in contents:
                parts = (content.head, content.body) if isinstance(content, Parts) else (content,)
                before = gap(end, parts[0], len(content))
                stream.writelines((bytes(before), *parts))
                spans.append((end + before, len(content)))
                end += before + len(content)
        fcntl.fcntl(self._file, fcntl.F_ADD_SEALS, _SEALS)
        return spans

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        """Return the contents that are there. Raises `ValueError`."""
        self._check(spans)
        return [os.pread(self._file, length, start) for start, length in spans]

    def pieces(self, spans: Sequence[Span]) -> list[bytes | Piece]:
        """Return the contents that are there; a large part of an array stays there. Raises `ValueError`."""
        self._check(spans)
        file = OpenFile().hold(os.dup(self._file))
        found: list[bytes | Piece] = []
        for start, length in spans:
            piece = Piece(file, start, length)
            large = length >= SMALL and is_chunk(piece.read(0, LONGEST_HEAD))
            found.append(piece if large else piece.read())
        return found

    def _check(self, spans: Sequence[Span]) -> None:
        status = os.fstat(self._file)
        there = min(status.st_size, status.st_blocks * _BLOCK)
        sealed = self._seals() & _SEALS == _SEALS
        total = sum(length for _, length in spans)
        if not sealed or total > there or any(start + length > status.st_size for start, length in spans):
            raise ValueError("the contents are cut off, or may still change")

    def _seals(self) -> int:
        try:
            return fcntl.fcntl(self._file, fcntl.F_GET_SEALS)
        except OSError as error:
            raise NotSharedError("no memory of a task") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
