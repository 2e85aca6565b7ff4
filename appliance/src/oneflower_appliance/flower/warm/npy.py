"""Arrays to and from the content of .npy files, as NumPy's own functions write and read them, with fewer copies.

NumPy reads each head as a Python expression, and copies values in pieces. The arrays of a model have few different
heads. What is not the plain case is left to NumPy.
"""

from __future__ import annotations

import functools
import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAGIC = b"\x93NUMPY\x01\x00"  # and the version of the format that NumPy writes
_LENGTH = slice(8, 10)  # where the length of the rest of the head is
_LONGEST = 512  # bytes of a head
_NUMBERS = "biufc"  # kinds of types


def view(content: Any) -> NDArray[Any] | None:
    """Return the array that a .npy file holds, in the memory of its content. None: NumPy's own function is needed."""
    start = 10 + int.from_bytes(content[_LENGTH], "little")
    known = _read(bytes(content[:start])) if start <= _LONGEST else None
    if known is None or known[1].itemsize * math.prod(known[0]) != len(content) - start:
        return None
    shape, dtype, order = known
    return np.ndarray(shape, dtype, content, start, order=order)


def write(array: NDArray[Any]) -> bytes | None:
    """Return the .npy file of an array. None: NumPy's own function is needed."""
    before = head(array)
    return None if before is None else b"".join((before, array.reshape(-1).view(np.uint8).data))


def head(array: NDArray[Any]) -> bytes | None:
    """Return what is before the values of an array in its .npy file. None: NumPy's own function is needed."""
    plain = type(array) is np.ndarray and array.dtype.kind in _NUMBERS and array.flags.c_contiguous
    return _written(array.dtype, array.shape) if plain else None


@functools.lru_cache(maxsize=4096)
def _read(content: bytes) -> tuple[tuple[int, ...], np.dtype[Any], Any] | None:
    if not content.startswith(_MAGIC):
        return None
    file = io.BytesIO(content)
    np.lib.format.read_magic(file)
    try:
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError:
        return None
    if dtype.hasobject or min(shape, default=0) < 0:
        return None
    return shape, dtype, "F" if fortran else "C"


@functools.lru_cache(maxsize=4096)
def _written(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)
    return file.getvalue()
