"""Parts of files: where they are, their bytes, and memory in which several of them are one after the other.

That memory is the file's own where pages allow it: nothing is copied, except a page that somebody writes to. The file
stays as it is. So the file must not change or become shorter: it is sealed, or it has no name and only grows.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = mmap.PAGESIZE
SMALL = 64 * 1024  # bytes: what is smaller is copied, since a mapping of its own would cost as much
_CHUNK = b"ArrayChunk "  # how the object of a part of an array begins
LONGEST_HEAD = 64  # bytes of the head of such an object
_MAP_FIXED, _MAP_FAILED = 0x10, ctypes.c_void_p(-1).value  # linux/mman.h
_PRIVATE = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | _MAP_FIXED

if sys.platform == "linux":
    _map = ctypes.CDLL(None).mmap
    _map.restype = ctypes.c_void_p
    _map.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)


class OpenFile:
    """A file that is closed when nobody has a piece of it. `number` is its descriptor."""

    number = -1

    def hold(self, number: int) -> Self:
        """Have an open file, from now on."""
        self.number = number
        weakref.finalize(self, os.close, number)
        return self


@dataclass(frozen=True)
class Piece:
    """A part of a file."""

    file: OpenFile
    start: int
    length: int

    def read(self, start: int = 0, end: int | None = None) -> bytes:
        """Return the bytes from `start` to `end`. Raises `OSError`."""
        wanted = (self.length if end is None else end) - start
        parts = []
        while wanted:
            part = os.pread(self.file.number, wanted, self.start + start)
            if not part:
                raise EOFError("a file of arrays is shorter than it was")
            parts.append(part)
            start, wanted = start + len(part), wanted - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def part(self, start: int, end: int) -> Piece:
        """Return a part of it."""
        return Piece(self.file, self.start + start, end - start)


@dataclass(frozen=True)
class Held:
    """A piece that is in memory."""

    content: bytes

    @property
    def length(self) -> int:
        """Its size in bytes."""
        return len(self.content)

    def read(self, start: int = 0, end: int | None = None) -> bytes:
        """Return the bytes from `start` to `end`."""
        return self.content[start:end]

    def part(self, start: int, end: int) -> Held:
        """Return a part of it."""
        return Held(self.content[start:end])


def is_chunk(content: bytes) -> bool:
    """Whether an object is a part of an array."""
    return content.startswith(_CHUNK)


def head(content: bytes) -> int:
    """Return where the bytes of an array begin in an object that is a part of it; 0 for any other object."""
    return content.find(b"\0", 0, LONGEST_HEAD) + 1 if is_chunk(content) else 0


def gap(end: int, beginning: bytes, length: int) -> int:
    """Return how many bytes to leave free at the end of a file, so that the bytes of an array begin with a page.

    The content that comes there has this length, and begins like this.
    """
    return -(end + head(beginning)) % PAGE if length >= SMALL else 0


def joined(pieces: Sequence[Piece | Held]) -> mmap.mmap:
    """Return memory with these pieces one after the other. What is written there is in no file. Raises `OSError`."""
    memory = mmap.mmap(-1, sum(piece.length for piece in pieces), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    start = 0
    for piece in pieces:
        if not _mapped(piece, place + start):
            memory[start : start + piece.length] = piece.read()
        start += piece.length
    return memory


def _mapped(piece: Piece | Held, place: int) -> bool:
    """Map a piece to an address, if both begin with a page. Returns whether that was possible."""
    if not isinstance(piece, Piece) or piece.length < SMALL or (place | piece.start) % PAGE or sys.platform != "linux":
        return False
    found: int = _map(place, piece.length, *_PRIVATE, piece.file.number, piece.start)
    return found != _MAP_FAILED
