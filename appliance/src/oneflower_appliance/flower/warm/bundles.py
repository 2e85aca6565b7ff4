"""A bundle: many objects of a message in one request or answer. How it is written and read.

Flower moves a message as a tree of objects, and each object in a request of its own. Between processes of oneflower,
the objects travel in bundles, over two more calls of each API. Their requests begin with one of Flower's own
`PullObject` requests, which the server passes to Flower first: it says who asks, for which run and message, and Flower
decides whether that is allowed.

    request   length of Flower's request (4 bytes), Flower's request, payload
    pull      payload: the hashes of the objects that are wanted (32 bytes each)
    push      payload: length of the session's name (2 bytes), its name, objects
    objects   for each: its hash (32 bytes), its length (8 bytes), its content

A bundle has at most about `PART` bytes and at most `MOST` objects, so a large model needs several. That bounds memory
at both ends, and a bundle that was lost is sent again without the others.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

PULL_OBJECTS, PUSH_OBJECTS = "pull-objects", "push-objects"
PART = 16 * 2**20  # bytes of objects: a bundle ends with the first object that exceeds it
MOST = 8192  # objects

_ASKED, _NAMED, _OBJECT = struct.Struct(">I"), struct.Struct(">H"), struct.Struct(">32sQ")
_HASH = 32  # bytes
_GONE = 2**64 - 1  # instead of a length: there is no such object


@dataclass(frozen=True)
class Request:
    """A request: Flower's own, in bytes, and what comes after it."""

    flower: bytes
    payload: memoryview

    @classmethod
    def read(cls, body: bytes) -> Request:
        """Read a request. Raises `ValueError`."""
        (length,) = _unpack(_ASKED, memoryview(body), 0)
        start = _ASKED.size + length
        if start > len(body):
            raise ValueError("the request is cut off")
        return cls(body[_ASKED.size : start], memoryview(body)[start:])

    @staticmethod
    def write(flower: bytes, *payload: bytes) -> bytes:
        """Return the body of a request."""
        return b"".join((_ASKED.pack(len(flower)), flower, *payload))


def write_wanted(names: Iterable[str]) -> bytes:
    """Return the hashes of objects, each of which Flower writes as 64 hexadecimal digits."""
    return b"".join(map(bytes.fromhex, names))


def read_wanted(payload: memoryview) -> list[str]:
    """Return the names of the objects that are wanted. Raises `ValueError`."""
    if len(payload) % _HASH:
        raise ValueError("a hash is cut off")
    if len(payload) > _HASH * MOST:
        raise ValueError(f"more than {MOST} objects")
    return [payload[start : start + _HASH].hex() for start in range(0, len(payload), _HASH)]


def write_handed(session: str, objects: Iterable[tuple[str, bytes]]) -> list[bytes]:
    """Return the payload that hands objects over, in parts."""
    name = session.encode()
    return [_NAMED.pack(len(name)), name, *write_objects(objects)]


def read_handed(payload: memoryview) -> tuple[str, list[tuple[str, bytes]]]:
    """Return the name of a session, and the objects that are handed over in it. Raises `ValueError`."""
    (length,) = _unpack(_NAMED, payload, 0)
    start = _NAMED.size + length
    if start > len(payload):
        raise ValueError("the name of the session is cut off")
    objects = [(name, content) for name, content in _objects(payload[start:]) if content is not None]
    if len(objects) > MOST:
        raise ValueError(f"more than {MOST} objects")
    return str(payload[_NAMED.size : start], "ascii"), objects


def names_handed(payload: memoryview) -> list[str]:
    """Return the names of the objects that are handed over. Raises `ValueError`."""
    (length,) = _unpack(_NAMED, payload, 0)
    return [name for name, _ in _views(payload[_NAMED.size + length :])]


def write_objects(objects: Iterable[tuple[str, bytes | None]]) -> list[bytes]:
    """Return objects in parts, to be joined; None stands for one that does not exist."""
    parts = []
    for name, content in objects:
        parts.append(_OBJECT.pack(bytes.fromhex(name), _GONE if content is None else len(content)))
        if content:
            parts.append(content)
    return parts


@dataclass(frozen=True)
class Answer:
    """The answer to a request for objects: those that are there now, by name. An object that does not exist is None."""

    objects: Mapping[str, bytes | None]

    @classmethod
    def FromString(cls, body: bytes) -> Answer:  # noqa: N802 - what Flower calls it in its own answers
        """Read an answer. Raises `ValueError`."""
        return cls(dict(_objects(memoryview(body))))


def _objects(body: memoryview) -> Iterator[tuple[str, bytes | None]]:
    for name, content in _views(body):
        yield name, None if content is None else bytes(content)


def _views(body: memoryview) -> Iterator[tuple[str, memoryview | None]]:
    start = 0
    while start < len(body):
        digest, length = _unpack(_OBJECT, body, start)
        start += _OBJECT.size
        if length == _GONE:
            yield digest.hex(), None
            continue
        if length > len(body) - start:
            raise ValueError("an object is cut off")
        yield digest.hex(), body[start : start + length]
        start += length


def _unpack(form: struct.Struct, body: memoryview, start: int) -> tuple[Any, ...]:
    if start + form.size > len(body):
        raise ValueError("a header is cut off")
    return form.unpack_from(body, start)
