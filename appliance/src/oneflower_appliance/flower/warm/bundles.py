"""A bundle: many objects of a message in one request or answer. How it is written and read.

Flower moves a message as a tree of objects, and each object in a request of its own. Between processes of oneflower,
the objects travel in bundles, over two more calls of each API. Their requests begin with one of Flower's own
`PullObject` requests, which the server passes to Flower first: it says who asks, for which run and message, and Flower
decides whether that is allowed.

    request   length of Flower's request (4 bytes), Flower's request, payload
    pull      payload: the hashes of the objects that are wanted (32 bytes each)
    push      payload: length of the session's name (2 bytes), its name, objects
    objects   for each: its hash (32 bytes), its length (8 bytes), its content

A task and the SuperLink or SuperNode on its machine share memory: the contents are there, and the request and the
answer have only their hashes and places, in a table. Then the payload begins with the place of that
memory (`shared_memory`).

    shared pull   payload: place, the hashes of the objects that are wanted; answer: table
    shared push   payload: place, length of the session's name, its name, table
    table         for each object: its hash (32 bytes), where its content begins and how long it is (8 bytes each)

A message and its objects may travel in one request (`whole_server`), with Flower's own request for the message at its
beginning. Then there is no name of a session, because Flower only opens it in that request:

    whole pull    payload: place if memory is shared, hashes of objects that the client has, each with all below it
        answer    length of Flower's answer (4 bytes), Flower's answer, hash of the message that is whole (or zeros),
                  objects or table
    whole push    payload: place if memory is shared, objects or table; answer: Flower's, without the objects that came

A bundle has at most about `PART` bytes and at most `MOST` objects, so a large model needs several. That bounds memory
at both ends, and a bundle that was lost is sent again without the others.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

    from oneflower_appliance.flower.warm.shared_memory import Span

PULL_OBJECTS, PUSH_OBJECTS = "pull-objects", "push-objects"
PULL_SHARED, PUSH_SHARED = "pull-shared-objects", "push-shared-objects"  # only between processes of one machine
PULL_WHOLE, PUSH_WHOLE = "pull-whole-messages", "push-whole-messages"
NOBODY = "0" * 64  # instead of the hash of a message
PART = 16 * 2**20  # bytes of objects: a bundle ends with the first object that exceeds it
MOST = 8192  # objects
NO_ROOM = 507  # the status of an answer: there is no room for what was handed over, and the text says why

_ASKED, _NAMED, _OBJECT, _ENTRY = (struct.Struct(form) for form in (">I", ">H", ">32sQ", ">32sQQ"))
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

    def split(self, size: int) -> tuple[bytes, Request]:
        """Return the first bytes of the payload, and a request with the rest of it."""
        return bytes(self.payload[:size]), Request(self.flower, self.payload[size:])

    @staticmethod
    def write(flower: bytes, *payload: bytes | memoryview) -> bytes:
        """Return the body of a request."""
        return b"".join((_ASKED.pack(len(flower)), flower, *payload))


def write_wanted(names: Iterable[str]) -> bytes:
    """Return the hashes of objects, each of which Flower writes as 64 hexadecimal digits."""
    return b"".join(map(bytes.fromhex, names))


def below(tree: Any, known: Container[str] = ()) -> Iterator[str]:
    """Yield the names of a tree of objects, children before parents, without those that are known and what is below."""
    if tree.object_id not in known:
        for child in tree.children:
            yield from below(child, known)
        yield tree.object_id


def read_wanted(payload: memoryview) -> list[str]:
    """Return the names of the objects that are wanted. Raises `ValueError`."""
    if len(payload) % _HASH:
        raise ValueError("a hash is cut off")
    if len(payload) > _HASH * MOST:
        raise ValueError(f"more than {MOST} objects")
    return [payload[start : start + _HASH].hex() for start in range(0, len(payload), _HASH)]


def write_whole(flower: bytes, message: str, objects: bytes) -> bytes:
    """Return the answer with Flower's own answer, the message that is whole, and objects or a table of them."""
    return Request.write(flower, bytes.fromhex(message), objects)


@dataclass(frozen=True)
class Whole:
    """An answer with Flower's own, in bytes, the message that is whole, and objects or a table of them."""

    flower: bytes
    message: str
    objects: memoryview

    @classmethod
    def FromString(cls, body: bytes) -> Whole:  # noqa: N802 - what Flower calls it in its own answers
        """Read an answer. Raises `ValueError`."""
        asked = Request.read(body)
        if len(asked.payload) < _HASH:
            raise ValueError("the hash of the message is cut off")
        name, rest = asked.split(_HASH)
        return cls(asked.flower, name.hex(), rest.payload)


def write_handed(session: str, objects: Iterable[tuple[str, bytes]]) -> list[bytes]:
    """Return the payload that hands objects over, in parts."""
    return [*named(session), *write_objects(objects)]


def write_handed_table(session: str, names: Iterable[str], spans: Iterable[Span]) -> list[bytes]:
    """Return the payload that hands over objects whose contents are in shared memory."""
    return [*named(session), write_table(names, spans)]


def named(session: str) -> tuple[bytes, bytes]:
    """Return the name of a session, in parts, as it stands before the objects."""
    name = session.encode()
    return _NAMED.pack(len(name)), name


def read_handed(payload: memoryview) -> tuple[str, list[tuple[str, bytes]]]:
    """Return the name of a session, and the objects that are handed over in it. Raises `ValueError`."""
    session, start = _session(payload)
    objects = [(name, content) for name, content in _objects(payload[start:]) if content is not None]
    if len(objects) > MOST:
        raise ValueError(f"more than {MOST} objects")
    return session, objects


def read_handed_table(payload: memoryview) -> tuple[str, Table]:
    """Return the name of a session, and the table of the objects that are handed over in it. Raises `ValueError`."""
    session, start = _session(payload)
    table = Table.FromString(payload[start:])
    if len(table.names) > MOST or table.gone:
        raise ValueError(f"more than {MOST} objects, or one that does not exist")
    return session, table


def names_handed(payload: memoryview) -> list[str]:
    """Return the names of the objects that are handed over. Raises `ValueError`."""
    _, start = _session(payload)
    return [name for name, _ in views(payload[start:])]


def slices(payload: memoryview, *, table: bool) -> dict[str, memoryview]:
    """Return objects as they stand in a payload, or the entries of a table, by name. Raises `ValueError`."""
    if table:
        read = Table.FromString(payload)
        if read.gone:
            raise ValueError("an object that does not exist")
        return {name: payload[_ENTRY.size * number :][: _ENTRY.size] for number, name in enumerate(read.names)}
    found, start = {}, 0
    for name, content in views(payload):
        end = start + _OBJECT.size + len(content or b"")
        found[name] = payload[start:end]
        start = end
    return found


def _session(payload: memoryview) -> tuple[str, int]:
    """Return the name of a session, and where the objects begin. Raises `ValueError`."""
    (length,) = _unpack(_NAMED, payload, 0)
    start = _NAMED.size + length
    if start > len(payload):
        raise ValueError("the name of the session is cut off")
    return str(payload[_NAMED.size : start], "ascii"), start


def write_objects(objects: Iterable[tuple[str, bytes | None]]) -> list[bytes]:
    """Return objects in parts, to be joined; None stands for one that does not exist."""
    parts = []
    for name, content in objects:
        parts.append(_header(name, content))
        if content:
            parts.append(content)
    return parts


def write_table(names: Iterable[str], spans: Iterable[Span], gone: Iterable[str] = ()) -> bytes:
    """Return the table of objects whose contents are in shared memory, and of those that do not exist."""
    there = [_ENTRY.pack(bytes.fromhex(name), *span) for name, span in zip(names, spans, strict=True)]
    return b"".join((*there, *(_ENTRY.pack(bytes.fromhex(name), 0, _GONE) for name in gone)))


def _header(name: str, content: bytes | None) -> bytes:
    return _OBJECT.pack(bytes.fromhex(name), _GONE if content is None else len(content))


@dataclass(frozen=True)
class Table:
    """The table of objects whose contents are in shared memory: their names and places. `gone` do not exist."""

    names: list[str]
    spans: list[Span]
    gone: list[str]

    @classmethod
    def FromString(cls, body: bytes | memoryview) -> Table:  # noqa: N802 - what Flower calls it in its own answers
        """Read a table. Raises `ValueError`."""
        if len(body) % _ENTRY.size:
            raise ValueError("an entry is cut off")
        entries = [(digest.hex(), start, length) for digest, start, length in _ENTRY.iter_unpack(body)]
        there = [entry for entry in entries if entry[2] != _GONE]
        return cls(
            [name for name, *_ in there],
            [(start, length) for _, start, length in there],
            [name for name, _, length in entries if length == _GONE],
        )


@dataclass(frozen=True)
class Answer:
    """The answer to a request for objects: those that are there now, by name. An object that does not exist is None."""

    objects: Mapping[str, bytes | None]

    @classmethod
    def FromString(cls, body: bytes | memoryview) -> Answer:  # noqa: N802 - what Flower calls it in its own answers
        """Read an answer. Raises `ValueError`."""
        return cls(dict(_objects(memoryview(body))))


def _objects(body: memoryview) -> Iterator[tuple[str, bytes | None]]:
    for name, content in views(body):
        yield name, None if content is None else bytes(content)


def views(body: memoryview) -> Iterator[tuple[str, memoryview | None]]:
    """Yield objects by name; None stands for one that does not exist. Raises `ValueError`."""
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
