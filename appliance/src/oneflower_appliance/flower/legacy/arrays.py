"""Models of Flower's legacy API, `Parameters`, as records of arrays, and back.

`Parameters` have tensors without names: usually arrays in NumPy's format, but some strategies send other bytes, such as
trees. An array is called by its position, as Flower itself does; other bytes are kept as an array of bytes, and their
name says so.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Array, ArrayRecord

from oneflower_appliance.flower import internals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Parameters = Any  # the class of that name in the legacy API

_ARRAYS = "numpy.ndarray"
_BYTES = ".bytes"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def to_record(parameters: Parameters) -> ArrayRecord:
    """Return a model as a record. The arrays are not copied."""
    found = (_named(number, tensor) for number, tensor in enumerate(parameters.tensors))
    return ArrayRecord(dict(found))


def to_parameters(arrays: Mapping[str, NDArray[Any]]) -> Parameters:
    """Return a model that `to_record` returned, from its arrays by name."""
    records = internals.legacy_records()
    tensors = [
        array.tobytes() if name.endswith(_BYTES) else records.ndarray_to_bytes(array) for name, array in arrays.items()
    ]
    return records.Parameters(tensors, "" if any(name.endswith(_BYTES) for name in arrays) else _ARRAYS)


def _named(number: int, tensor: bytes) -> tuple[str, Array]:
    stream = io.BytesIO(tensor)
    try:
        shape, _, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
    except (ValueError, KeyError):
        return f"{number}{_BYTES}", Array(np.frombuffer(tensor, np.uint8))
    return str(number), Array(dtype=str(dtype), shape=shape, stype=_ARRAYS, data=tensor)
