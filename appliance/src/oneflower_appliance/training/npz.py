"""Arrays in .npz files, with a sha256 that reveals a damaged file."""

from __future__ import annotations

import hashlib
import io
import zipfile
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from oneflower_appliance.files import SHARED, replacing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from flwr.app import Array, ArrayRecord
    from numpy.typing import NDArray

DAMAGE = (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile)  # what reading a truncated file raises


def save_record(path: Path, arrays: ArrayRecord) -> str:
    """Write the arrays of a model and return the file's sha256. Raises `OneflowerError`."""
    return _save(path, ((name, _npy(array)) for name, array in arrays.items()))


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], mode: int = SHARED) -> str:
    """Write arrays and return the file's sha256. Raises `OneflowerError`."""
    return _save(path, ((name, _packed(array)) for name, array in arrays.items()), mode)


def load(path: Path, sha256: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file that has this hash. Raises one of `DAMAGE`."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path.name} does not have the recorded hash")
    with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
        return dict(loaded)


class _Hashing(io.RawIOBase):
    """A file that is hashed as it is written. It cannot seek, so zipfile writes it from front to back."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self._stream.write(data)


def _save(path: Path, entries: Iterable[tuple[str, bytes]], mode: int = SHARED) -> str:
    """Write entries, of which one at a time is in memory."""
    with replacing(path, mode) as stream:
        hashing = _Hashing(stream)
        with zipfile.ZipFile(hashing, "w", zipfile.ZIP_STORED) as archive:
            for name, data in entries:
                archive.writestr(f"{name}.npy", data)
    return hashing.digest.hexdigest()


def _npy(array: Array) -> bytes:
    """Return an array in .npy format, which is how Flower carries arrays of NumPy."""
    return bytes(array.data) if array.stype == "numpy.ndarray" else _packed(array.numpy())


def _packed(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
