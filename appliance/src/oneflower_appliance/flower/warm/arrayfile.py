"""Arrays of Flower's Message API whose contents are in a file, and are read when somebody asks for them.

Flower has every reply of a round in memory at once, and beside them the model and its sums. Ten nodes with a model of
100 MB need more than 2 GB for that. Here an array is in memory only while it is used.
"""

from __future__ import annotations

import functools
import os
import tempfile
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Array

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.warm import npy
from oneflower_appliance.flower.warm.pieces import LONGEST_HEAD, SMALL, Held, OpenFile, Piece, gap, joined
from oneflower_appliance.flower.wiredtype import NUMPY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from flwr.app.message.arraychunk import ArrayChunk
    from numpy.typing import NDArray

IN_MEMORY = 4 * 2**20  # bytes of a model that stay in memory: a file would free little


class ArrayFile(OpenFile):
    """A file without a name in `folder`. It is made when it is needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._memory = IN_MEMORY
        self._end = 0

    def add(self, content: bytes, more: memoryview | bytes = b"") -> Piece | None:
        """Write contents, and return where they are. None: they belong into memory, or there is no room on the disk."""

        def write(start: int) -> None:
            for part in (content, more):
                left = memoryview(part)
                while left:
                    done = os.pwrite(self.number, left, start)
                    left, start = left[done:], start + done

        return self._append(content, len(content) + len(more), write)

    def copy(self, piece: Piece) -> Piece | bytes:
        """Write what is in another file, and return where it is, or itself where `add` would return nothing."""

        def write(start: int) -> None:
            os.lseek(self.number, start, os.SEEK_SET)
            done = 0
            while done < piece.length:
                sent = os.sendfile(self.number, piece.file.number, piece.start + done, piece.length - done)
                if not sent:
                    raise OSError("a file of arrays is shorter than it was")
                done += sent

        beginning = piece.read(0, min(piece.length, LONGEST_HEAD))
        return self._append(beginning, piece.length, write) or piece.read()

    def _append(self, beginning: bytes, length: int, write: Callable[[int], None]) -> Piece | None:
        with self._lock:
            if length < SMALL or length <= self._memory:
                self._memory -= length
                return None
            start = self._end + gap(self._end, beginning, length)
            try:
                self._open()
                write(start)
            except OSError:
                return None
            self._end = start + length
            return Piece(self, start, length)

    def _open(self) -> None:
        if self.number < 0:
            number, name = tempfile.mkstemp(prefix=".arrays-", dir=self._folder)
            self.hold(number)
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
        parts = [piece.read() for piece in self._between(start, end)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def view(self, start: int, end: int) -> memoryview:
        """Return a part of the content, in the memory of its file."""
        return memoryview(joined(self._between(start, end)))

    def _between(self, start: int, end: int) -> list[Piece | Held]:
        parts = []
        for piece in self._pieces:
            if start < piece.length and end > 0:
                parts.append(piece.part(max(start, 0), min(end, piece.length)))
            start, end = start - piece.length, end - piece.length
        return parts

    def numpy(self) -> NDArray[Any]:
        """Return the array, in the memory of its file. What is written to it is not in the file."""
        if self.stype == NUMPY and self.length >= SMALL:
            found = npy.view(joined(self._pieces))
            if found is not None:
                return found
        return super().numpy()  # which says what is wrong with it

    @property
    def _pieces(self) -> list[Piece | Held]:
        found: list[Piece | Held] = vars(self)["_pieces"]
        return found

    def replaced(self, array: Array) -> Array:
        """Return another array, with its content in the same file."""
        for piece in self._pieces:
            if isinstance(piece, Piece) and isinstance(piece.file, ArrayFile):
                return filed(array, piece.file)
        return array

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


def written(values: NDArray[Any], file: ArrayFile) -> Array:
    """Return values, which are in C order, as an array with its content in a file, or as Flower does."""
    head = npy.head(values)
    piece = file.add(head, values.reshape(-1).view(np.uint8).data) if head else None
    return FiledArray(str(values.dtype), values.shape, NUMPY, [piece]) if piece else Array(values)


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
            name: str = kind.object_id.fget(self)  # type: ignore[attr-defined]
            return name

        @property
        def data(self) -> memoryview:
            return array.view(start, end)

    return FiledChunk()
