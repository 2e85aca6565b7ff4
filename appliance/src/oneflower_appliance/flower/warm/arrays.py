"""The bytes of arrays, copied and hashed fewer times on their way between an app and the objects of its message.

Flower cuts an array into chunks of 5 MiB. Each is an object: a head, and the bytes. Flower copies the bytes twice to
put the head before them: to compute the name of the object, and again to send it. To get an array from its chunks, it
copies them three times. Here it is one copy each time, and none for the name, which is computed once. The objects,
their names and the arrays stay the same.
"""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.warm import npy
from oneflower_appliance.flower.wiredtype import NUMPY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_NAMED = "_oneflower_named"  # the attribute of a chunk: the bytes that its name was computed from


def copy_arrays_once() -> None:
    """Replace methods of Flower's classes of arrays and of their chunks, in this process."""
    chunk: Any = internals.array_chunk()
    array: Any = internals.array()
    chunk.object_id = property(_name)
    chunk.deflate = _deflate
    chunk.inflate = classmethod(_inflate)
    array.inflate = classmethod(_joining(array.inflate.__func__))
    array.numpy = _reading(array.numpy)
    array.from_numpy_ndarray = classmethod(_writing(array.from_numpy_ndarray.__func__))


def _head(chunk: Any) -> bytes:
    """Return what stands before the bytes of a chunk: Flower's own head, which ends with their length."""
    flower = internals.inflatable_objects()
    end: bytes = flower.HEAD_BODY_DIVIDER
    empty: bytes = flower.add_header_to_object_body(b"", chunk)
    return empty.removesuffix(b"0" + end) + b"%d" % len(chunk.data) + end


@dataclass(frozen=True)
class Parts:
    """The content of an object whose head and bytes are not joined yet."""

    head: bytes
    body: memoryview

    def __len__(self) -> int:
        return len(self.head) + len(self.body)

    def __bytes__(self) -> bytes:
        return b"".join((self.head, self.body))


class _Apart(threading.local):
    """Whether the caller in this thread takes `Parts`."""

    wanted = False


_apart = _Apart()


def in_parts(contents: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, bytes | Parts]]:
    """Yield what Flower's iterator of objects yields, with `Parts` for the parts of arrays."""
    while True:
        _apart.wanted = True
        try:
            following = next(contents, None)
        finally:
            _apart.wanted = False
        if following is None:
            return
        yield following


def _deflate(chunk: Any) -> bytes | Parts:
    parts = Parts(_head(chunk), chunk.data)
    return parts if _apart.wanted else bytes(parts)


def _name(chunk: Any) -> str:
    if vars(chunk).get(_NAMED) is not chunk.data:
        digest = hashlib.sha256(_head(chunk))
        digest.update(chunk.data)
        vars(chunk)["_object_id"] = digest.hexdigest()
        vars(chunk)[_NAMED] = chunk.data if isinstance(chunk.data.obj, bytes) else None  # others may change
    name: str = vars(chunk)["_object_id"]
    return name


def _inflate(cls: Any, object_content: bytes, children: Mapping[str, Any] | None = None) -> Any:
    flower = internals.inflatable_objects()
    if children or flower.get_object_type_from_object_content(object_content) != cls.__qualname__:
        raise ValueError(f"not an object of the type {cls.__qualname__}, or one with children")
    start = object_content.index(flower.HEAD_BODY_DIVIDER) + len(flower.HEAD_BODY_DIVIDER)
    return cls(data=memoryview(object_content)[start:])


def _joining(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Return Flower's function that makes an array from its object and its chunks, with one copy of their bytes."""

    @functools.wraps(stock)
    def inflate(cls: Any, object_content: bytes, children: Mapping[str, Any] | None = None) -> Any:
        flower, chunk = internals.inflatable_objects(), internals.array_chunk()
        array = stock(cls, object_content, {name: chunk(data=memoryview(b"")) for name in children or {}})
        names = flower.get_object_children_ids_from_object_content(object_content)
        order = json.loads(flower.get_object_body(object_content, cls))["arraychunk_ids"]
        array.data = b"".join((children or {})[names[number]].data for number in order)
        return array

    return inflate


def _reading(stock: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(stock)
    def numpy(array: Any) -> Any:
        found = npy.view(array.data) if array.stype == NUMPY else None
        return stock(array) if found is None else found.copy(order="K")

    return numpy


def _writing(stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def from_numpy_ndarray(cls: Any, ndarray: Any) -> Any:
        content = npy.write(ndarray)
        if content is None:
            return stock(cls, ndarray)
        return internals.array()(str(ndarray.dtype), tuple(ndarray.shape), NUMPY, content)

    return from_numpy_ndarray
