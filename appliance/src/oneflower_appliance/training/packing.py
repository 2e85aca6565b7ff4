"""Values as JSON and arrays, and back. A checkpoint holds the state of a strategy in this form, without pickle.

What can be packed: None, booleans, numbers, text, bytes, arrays of NumPy, Flower's records, and lists, tuples, sets and
dicts of these. A list, a dict, a set or an array that is in two places cannot be packed: that the two are the same
object would be lost. Types are compared exactly, since a subclass may keep more than its base.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

_PLAIN = (type(None), bool, float, str)
_SEQUENCES: dict[str, type[list[Any] | tuple[Any, ...] | set[Any]]] = {"list": list, "tuple": tuple, "set": set}
_MAPPINGS: dict[str, Any] = {"dict": dict, "metrics": MetricRecord, "config": ConfigRecord}
_NUMBERS = "biufcmMSU"  # the kinds of NumPy's own types of numbers, times and text
_LARGEST_INTEGER = 1 << 1024
_ODD = re.compile(r"[^\w.-]")


@dataclass(frozen=True)
class Kind:
    """A class whose values can be taken apart into what can be packed, and put together again."""

    kind: type
    apart: Callable[[Any], Any]
    together: Callable[[Any], Any]


_KINDS: dict[str, Kind] = {}


def add_kind(word: str, kind: Kind) -> None:
    """Have values of one more class packed, under a word of their own."""
    _KINDS[word] = kind


class UnpackableError(Exception):
    """A value, or a part of it, cannot be packed."""


@dataclass(frozen=True)
class Packed:
    """A value as JSON text, which refers to arrays by their names."""

    text: str
    arrays: Mapping[str, NDArray[Any]]

    def same(self, other: Packed) -> bool:
        """Return whether both hold equal values."""
        pairs = zip(self.arrays.values(), other.arrays.values(), strict=False)
        return self.text == other.text and all(_alike(one, two) for one, two in pairs)

    @property
    def copy(self) -> Packed:
        """A copy with its own arrays, which do not change when the value is changed in place."""
        return Packed(self.text, {name: array.copy(order="K") for name, array in self.arrays.items()})

    def unpack(self) -> Any:
        """Return the value. Raises `KeyError` or `ValueError` if `Packer` did not make this."""
        return _unpack(json.loads(self.text), self.arrays)


def _alike(one: NDArray[Any], two: NDArray[Any]) -> bool:
    if one.dtype != two.dtype:
        return False
    # A comparison that handles NaN takes five times as long, and NaN is rare.
    return np.array_equal(one, two) or (one.dtype.kind in "fc" and np.array_equal(one, two, equal_nan=True))


class Packer:
    """Packs the values of one object. It remembers what it has met, so it notices an object that is in two places."""

    def __init__(self) -> None:
        self._met: set[int] = set()
        self._arrays: dict[str, NDArray[Any]] = {}

    def pack(self, name: str, value: Any) -> Packed:
        """Return a value, packed; its arrays are called `name`/... Nothing is copied. Raises `UnpackableError`."""
        self._arrays = {}
        return Packed(json.dumps(self._tree(name, value)), self._arrays)

    def _tree(self, name: str, value: Any) -> Any:
        kind = type(value)
        if kind in _PLAIN or (kind is int and abs(value) < _LARGEST_INTEGER):
            return value
        self._meet(value)
        if (array := _as_array(value)) is not None:
            return {array[0]: self._keep(name, array[1])}
        if kind is ArrayRecord:
            return {"arrays": self._record(name, value)}
        for word, sequence in _SEQUENCES.items():
            if kind is sequence:
                return {word: [self._tree(f"{name}/{number}", item) for number, item in enumerate(value)]}
        for word, mapping in _MAPPINGS.items():
            if kind is mapping:
                return {word: [[self._key(key), self._tree(_below(name, key), item)] for key, item in value.items()]}
        for word, known in _KINDS.items():
            if kind is known.kind:
                return {word: self._tree(name, known.apart(value))}
        raise UnpackableError

    def _meet(self, value: Any) -> None:
        if isinstance(value, list | dict | set | np.ndarray):
            if id(value) in self._met:
                raise UnpackableError
            self._met.add(id(value))

    def _key(self, key: Any) -> Any:
        if type(key) in _PLAIN or type(key) is int:
            return key
        raise UnpackableError

    def _record(self, name: str, record: ArrayRecord) -> list[list[str]]:
        if any(array.stype != "numpy.ndarray" for array in record.values()):
            raise UnpackableError
        return [[key, self._keep(_below(name, key), array.numpy())] for key, array in record.items()]

    def _keep(self, name: str, array: NDArray[Any]) -> str:
        """Keep an array under `name`, or under a longer name if that is taken."""
        while name in self._arrays:
            name += "~"
        self._arrays[name] = array
        return name


def _as_array(value: Any) -> tuple[str, NDArray[Any]] | None:
    """Return a word and an array for a value that is an array, or is best kept as one."""
    if isinstance(value, np.generic) and value.dtype.kind in _NUMBERS:
        return "number", np.asarray(value)
    if type(value) is bytes:
        return "bytes", np.frombuffer(value, dtype=np.uint8)
    if type(value) is np.ndarray and value.dtype.kind in _NUMBERS and value.dtype.isbuiltin != 2:
        return "array", value
    return None


def _below(name: str, key: Any) -> str:
    return f"{name}/{_ODD.sub('_', str(key))}"


def _unpack(tree: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    if not isinstance(tree, dict):
        return tree
    [(word, content)] = tree.items()
    if word in _SEQUENCES:
        return _SEQUENCES[word](_unpack(item, arrays) for item in content)
    if word in _MAPPINGS:
        return _MAPPINGS[word](_pairs(content, arrays))
    if word in _KINDS:
        return _KINDS[word].together(_unpack(content, arrays))
    if word == "arrays":
        return ArrayRecord({name: Array(arrays[key]) for name, key in content})
    return _from_array(word, arrays[content])


def _from_array(word: str, array: NDArray[Any]) -> Any:
    if word == "array":
        return array
    return array.tobytes() if word == "bytes" else array[()]


def _pairs(content: Iterable[Any], arrays: Mapping[str, NDArray[Any]]) -> dict[Any, Any]:
    return {key: _unpack(item, arrays) for key, item in content}
