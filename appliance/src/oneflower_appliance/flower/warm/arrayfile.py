"""Arrays of Flower's Message API whose contents are in a file, and are read when somebody asks for them.

Flower has every reply of a round in memory at once, and beside them the model and its sums. Ten nodes with a model of
100 MB need more than 2 GB for that. Here an array is in memory only while it is used.
"""

from __future__ import annotations

import functools
import os
import tempfile
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flwr.app import Array

from oneflower_appliance.flower import internals

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flwr.app.message.arraychunk import ArrayChunk

IN_MEMORY = 4 * 2**20  # bytes of a model that stay in memory: a file would free little
SMALL = 64 * 1024  # bytes: what is smaller stays in memory


@dataclass(frozen=True)
class Piece:
    """A part of a file."""

    file: ArrayFile
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

    def after(self, start: int) -> Piece:
        """Return the rest of it."""
        return Piece(self.file, self.start + start, self.length - start)


class ArrayFile:
    """A file without a name in `folder`: it is gone when nobody has a piece of it. `number` is its descriptor."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._memory = IN_MEMORY
        self._end = 0
        self.number = -1

    def add(self, content: bytes) -> Piece | None:
        """Write contents, and return where they are. None: they belong into memory, or there is no room on the disk."""
        view = memoryview(content).cast("B")
        with self._lock:
            if len(view) < SMALL or len(view) <= self._memory:
                self._memory -= len(view)
                return None
            try:
                self._open()
                start, done = self._end, 0
                while done < len(view):
                    done += os.pwrite(self.number, view[done:], start + done)
            except OSError:
                return None
            self._end += len(view)
            return Piece(self, start, len(view))

    def _open(self) -> None:
        if self.number < 0:
            self.number, name = tempfile.mkstemp(prefix=".arrays-", dir=self._folder)
            weakref.finalize(self, os.close, self.number)
            os.unlink(name)  # noqa: PTH108 - as mkstemp returned it


class FiledArray(Array):
    """One of Flower's arrays. Its `data` is in pieces of a file."""

    __qualname__ = Array.__qualname__  # Flower writes it into the objects of a message

    def __init__(self, dtype: str, shape: tuple[int, ...], stype: str, pieces: Sequence[Piece | Held]) -> None:
        self.dtype, self.shape, self.stype = dtype, shape, stype
        vars(self)["_pieces"] = list(pieces)

    @property
    def data(self) -> bytes:
        """The content."""
        return self.read(0, self.length)

    @data.setter
    def data(self, content: bytes) -> None:
        vars(self)["_pieces"] = [Held(content)]

    @property
    def length(self) -> int:
        """The bytes of the content."""
        return sum(piece.length for piece in self._pieces)

    def read(self, start: int, end: int) -> bytes:
        """Return a part of the content."""
        parts = []
        for piece in self._pieces:
            if start < piece.length and end > 0:
                parts.append(piece.read(max(start, 0), min(end, piece.length)))
            start, end = start - piece.length, end - piece.length
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def _pieces(self) -> list[Piece | Held]:
        found: list[Piece | Held] = vars(self)["_pieces"]
        return found

    def replaced(self, array: Array) -> Array:
        """Return another array, with its content in the same file."""
        files = [piece.file for piece in self._pieces if isinstance(piece, Piece)]
        return filed(array, files[0]) if files else array

    def slice_array(self) -> list[tuple[str, Any]]:
        """Return the chunks in which it travels, without their contents."""
        known = vars(self)
        if "_chunks" not in known:
            size = internals.array_module().FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
            total = self.length
            chunks = [_chunk(self, start, min(start + size, total)) for start in range(0, total, size)]
            known["_chunks"] = [(chunk.object_id, chunk) for chunk in chunks]
        found: list[tuple[str, Any]] = known["_chunks"]
        return found

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Array):
            return NotImplemented
        mine, theirs = ((one.dtype, one.shape, one.stype) for one in (self, other))
        return mine == theirs and self.data == other.data

    __hash__ = None  # type: ignore[assignment]  # as Flower's

    def __reduce__(self) -> tuple[Any, ...]:
        return Array, (self.dtype, self.shape, self.stype, self.data)


@dataclass(frozen=True)
class Held:
    """A piece that is in memory."""

    content: bytes

    @property
    def length(self) -> int:
        """Its size in bytes."""
        return len(self.content)

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end`."""
        return self.content[start:end]


def filed(array: Array, file: ArrayFile) -> Array:
    """Return an array with its content in a file, or as it is."""
    piece = file.add(array.data)
    return FiledArray(array.dtype, array.shape, array.stype, [piece]) if piece else array


def _chunk(array: FiledArray, start: int, end: int) -> ArrayChunk:
    kind = internals.array_chunk()

    class FiledChunk(kind):  # type: ignore[misc, valid-type]
        __qualname__ = kind.__qualname__

        def __init__(self) -> None:
            """Have no content."""

        @property
        def object_id(self) -> str:
            return self._object_id

        @functools.cached_property
        def _object_id(self) -> str:  # computed once, because the content never changes
            name: str = internals.inflatable_objects().get_object_id(self.deflate())
            return name

        @property
        def data(self) -> memoryview:
            return memoryview(array.read(start, end))

    return FiledChunk()
