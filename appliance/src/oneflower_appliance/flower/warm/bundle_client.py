"""Sends and fetches the objects of a message in bundles: the client's side, in SuperNodes and tasks.

Flower fetches a list of objects, and sends a list of objects, with two functions that call its client once for each
object. In their place, the first call is made with all the others in mind: the client then asks the other end for
bundles. If that runs stock Flower, it does not know the call (404), and Flower's own functions do the rest. A task asks
the SuperLink or SuperNode on its own machine for bundles in shared memory first.

Who checks a hash: the store that takes an object, as in Flower.
"""

from __future__ import annotations

import functools
import itertools
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.flower import internals
from oneflower_appliance.flower.warm import bundles
from oneflower_appliance.flower.warm.arrays import Parts, in_parts
from oneflower_appliance.flower.warm.contents import Contents
from oneflower_appliance.flower.warm.shared_memory import SharedMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

KEPT_FOR = 600.0  # seconds
_PAUSE = 0.1  # seconds between two requests if the other end does not hold them
_UNKNOWN = "oneflower_unknown_calls"  # the attribute of a client: those that the other end does not know


@dataclass
class _Fetching:
    """Objects to fetch, and the contents of those that came."""

    names: list[str]
    contents: dict[str, bytes]


@dataclass
class _Sending:
    """Objects to send, and whether they were sent: they are not if the other end runs stock Flower."""

    objects: list[tuple[str, bytes | Parts]]
    done: bool = False


class _Now(threading.local):
    """What this thread is fetching or sending, in the call of Flower's function for one object."""

    work: _Fetching | _Sending | None = None


_now = _Now()


@contextmanager
def _at(work: _Fetching | _Sending) -> Iterator[None]:
    _now.work = work
    try:
        yield
    finally:
        _now.work = None


CAME: dict[str, dict[str, bytes]] = {}  # the objects of messages that came with them (`whole_client`)


class Kept:
    """What a SuperNode fetched last. The model that it evaluates is the one that it trains next.

    It is kept when it is confirmed: then all of it is in the store of the SuperNode, which has checked the hashes.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.tops: list[str] = []
        self._fetched: dict[str, bytes] = {}
        self._tree: Any = None
        self._since = 0.0

    def fetched(self, objects: dict[str, bytes]) -> None:
        """Keep these objects, and no others, as soon as they are confirmed."""
        self._fetched = objects

    def found(self, tree: Any) -> None:
        """Note the objects of a message that comes."""
        self._tree = tree

    def confirm(self) -> None:
        """Keep what was fetched. `tops` are the records of which everything is there; other messages may have them."""
        self.objects, self._fetched, self._since = self._fetched, {}, time.monotonic()
        records = [record for content in self._tree.children for record in content.children] if self._tree else []
        self.tops = [
            record.object_id for record in records if all(name in self.objects for name in bundles.below(record))
        ]
        self._tree = None

    def has(self, name: str, content: bytes) -> bool:
        """Whether this very object, which cannot change, is one that was kept, and so was checked."""
        return self.objects.get(name) is content

    def expire(self) -> None:
        """Drop what nobody has needed for long. Called from time to time while there is nothing to do."""
        self._fetched = {}
        if time.monotonic() - self._since > KEPT_FOR:
            self.objects, self.tops = {}, []


def check_once(kept: Kept) -> None:
    """Have the store of this SuperNode take what was kept without computing its hash: it did when that was fetched.

    It checks all else. What a ClientApp hands over may be anything, and another run may have the same object there.
    """
    store: Any = type(internals.object_store())
    stock = store.put

    @functools.wraps(stock)
    def put(self: Any, object_id: str, object_content: bytes) -> None:
        with self.lock_store:
            entry = self.store.get(object_id)
            if entry is not None and not entry.is_available and kept.has(object_id, object_content):
                entry.content, entry.is_available = object_content, True
                return
        stock(self, object_id, object_content)

    store.put = put


def send_in_bundles(
    *modules: Any, kept: Kept | None = None, place: Callable[[], dict[str, bytes]] = dict[str, bytes]
) -> None:
    """Make Flower's functions in these modules, and its clients, use bundles, in this process.

    What is in `kept` is not fetched again. The objects of each message that is fetched come into a new `place`.
    """
    inflatables = internals.inflatables()
    for module in modules:
        for name, better in (
            ("pull_objects", _fetching(inflatables.pull_objects, kept, place)),
            ("push_object_contents_from_iterable", _sending(inflatables.push_object_contents_from_iterable)),
        ):
            if hasattr(module, name):
                setattr(module, name, better)
    for client, api in ((internals.fleet_client(), "fleet"), (internals.runtime_client(), "runtime")):
        client.PullObject = _pull_object(client.PullObject, api)  # type: ignore[method-assign]
        client.PushObject = _push_object(client.PushObject, api)  # type: ignore[method-assign]


def _fetching(
    stock: Callable[..., dict[str, bytes]],
    kept: Kept | None = None,
    place: Callable[[], dict[str, bytes]] = dict[str, bytes],
) -> Callable[..., dict[str, bytes]]:
    not_there_yet, never = internals.inflatables().ObjectUnavailableError, internals.inflatables().ObjectPullError

    @functools.wraps(stock)
    def pull_objects(object_ids: list[str], pull_object_fn: Callable[[str], bytes], **limits: Any) -> dict[str, bytes]:
        known = kept.objects if kept is not None else {}
        came = CAME.pop(object_ids[-1], None) if object_ids else None
        work = _Fetching(object_ids, place() if came is None else came)
        work.contents |= {name: known[name] for name in object_ids if name in known and name not in work.contents}
        if len(object_ids) > len(work.contents):
            try:
                with _at(work):
                    pull_object_fn(object_ids[-1])  # children come before their parents, so this is the message
            except not_there_yet:
                pass  # Flower's own function waits for it
            except OneflowerError as error:  # there was no room for it
                raise never(object_ids[-1], error.message) from error
        left = [name for name in object_ids if name not in work.contents]
        if left:
            work.contents |= stock(left, pull_object_fn, **limits)
        if kept is not None:
            kept.fetched(dict(work.contents))
        return work.contents

    return pull_objects


def _sending(stock: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(stock)
    def push_object_contents_from_iterable(
        object_contents: Iterable[tuple[str, bytes]], push_object_fn: Callable[[str, bytes], None], **limits: Any
    ) -> None:
        contents = iter(object_contents)
        while part := _part(in_parts(contents)):
            work = _Sending(part)
            with _at(work):
                push_object_fn(part[0][0], b"")  # its content is copied only where it travels in that request
            if not work.done:
                stock(itertools.chain(whole(part[1:]), contents), push_object_fn, **limits)
                return

    return push_object_contents_from_iterable


def whole(objects: Iterable[tuple[str, bytes | Parts]]) -> list[tuple[str, bytes]]:
    """Return objects with their contents in one piece."""
    return [(name, bytes(content)) for name, content in objects]


def _part(contents: Iterator[tuple[str, bytes | Parts]]) -> list[tuple[str, bytes | Parts]]:
    """Return the objects of the next bundle."""
    part, size = [], 0
    for name, content in contents:
        part.append((name, content))
        size += len(content)
        if size >= bundles.PART or len(part) == bundles.MOST:
            break
    return part


def _pull_object(stock: Callable[..., Any], api: str) -> Callable[..., Any]:
    response = internals.object_messages().PullObjectResponse

    @functools.wraps(stock)
    def PullObject(self: Any, request: Any) -> Any:  # noqa: N802 - its name in Flower
        work = _now.work
        if not isinstance(work, _Fetching) or not _fetch(self, api, request, work):
            return stock(self, request)
        return response(object_found=True, object_available=request.object_id in work.contents)

    return PullObject


def _push_object(stock: Callable[..., Any], api: str) -> Callable[..., Any]:
    messages = internals.object_messages()

    @functools.wraps(stock)
    def PushObject(self: Any, request: Any) -> Any:  # noqa: N802 - its name in Flower
        work = _now.work
        if not isinstance(work, _Sending):
            return stock(self, request)
        who = messages.PullObjectRequest(node=request.node, run_id=request.run_id, object_id=request.object_id)
        answer = _hand(self, api, who, request.session_id, work.objects, messages.PushObjectResponse)
        work.done = answer is not None
        if answer is None:
            request.object_content = bytes(work.objects[0][1])
            return stock(self, request)
        return answer

    return PushObject


def _fetch(client: Any, api: str, request: Any, work: _Fetching) -> bool:
    """Fetch what is left of some objects, until all are there or one cannot come. False: the other end is stock."""
    while left := [name for name in work.names if name not in work.contents]:
        in_place = isinstance(work.contents, Contents)
        found = _get(client, api, request, bundles.write_wanted(left[: bundles.MOST]), in_place=in_place)
        if found is None:
            return False
        work.contents |= {name: content for name, content in found.items() if content is not None}
        if None in found.values():
            return True  # Flower's own function then says so
        if not found:
            time.sleep(_PAUSE)
    return True


def _get(client: Any, api: str, who: Any, wanted: bytes, *, in_place: bool) -> Mapping[str, Any] | None:
    """Return those of some objects that are there. None: the other end is stock."""
    if api == "runtime" and (memory := memory_for(client, bundles.PULL_SHARED)):
        with memory:
            table = ask(client, api, bundles.PULL_SHARED, who, [memory.place, wanted], bundles.Table)
            if table is not None:
                read = memory.pieces if in_place else memory.read
                there = zip(table.names, read(table.spans) if table.names else [], strict=True)
                return dict.fromkeys(table.gone) | dict(there)
    answer = ask(client, api, bundles.PULL_OBJECTS, who, [wanted], bundles.Answer)
    return None if answer is None else answer.objects


def _hand(client: Any, api: str, who: Any, session: str, objects: list[tuple[str, bytes | Parts]], answer: Any) -> Any:
    """Hand objects over. Returns None if the other end is stock."""
    if api == "runtime" and (memory := memory_for(client, bundles.PUSH_SHARED)):
        with memory:
            spans = memory.write(content for _, content in objects)
            payload = [memory.place, *bundles.write_handed_table(session, (name for name, _ in objects), spans)]
            said = ask(client, api, bundles.PUSH_SHARED, who, payload, answer)
            if said is not None:
                return said
    return ask(client, api, bundles.PUSH_OBJECTS, who, bundles.write_handed(session, whole(objects)), answer)


def memory_for(client: Any, call: str) -> SharedMemory | None:
    """Return memory for a call, unless the other end does not know it or this system has none."""
    if call in getattr(client, _UNKNOWN, ()):
        return None
    try:
        return SharedMemory.create()
    except OSError:
        return None


def ask(client: Any, api: str, call: str, who: Any, payload: list[bytes], answer: Any) -> Any:
    """Make one of our calls. Returns None if the other end does not know it, or could not do it this time (409).

    Raises `OneflowerError` if the other end has no room.
    """
    if call in getattr(client, _UNKNOWN, ()):
        return None
    method = f"/flwr.proto.{api.title()}/{call.title().replace('-', '')}"
    try:
        return client._unary_unary(  # noqa: SLF001 - with its connection, headers and retries
            path=f"/v1/{api}/{call}", rpc_method=method, request=_Request(who, payload), response_type=_reader(answer)
        ).value
    except httpx.HTTPStatusError as error:
        if error.response.status_code == bundles.NO_ROOM:
            raise OneflowerError(error.response.text.strip(), "", ExitCode.ENVIRONMENT) from error
        if error.response.status_code == httpx.codes.NOT_FOUND:
            setattr(client, _UNKNOWN, {*getattr(client, _UNKNOWN, ()), call})
        elif error.response.status_code != httpx.codes.CONFLICT:
            raise
        return None


class _Request:
    """A request as Flower's client expects it."""

    def __init__(self, who: Any, payload: list[bytes]) -> None:
        self._who, self._payload = who, payload

    def SerializeToString(self, *, deterministic: bool) -> bytes:  # noqa: N802 - its name in protobuf
        """Return the body."""
        flower = self._who.SerializeToString(deterministic=deterministic)
        return bundles.Request.write(flower, *self._payload)


def _reader(answer: Any) -> type:
    """Return a class of answers as Flower's client expects it: one that reads itself."""

    class Reader:
        def __init__(self) -> None:
            self.value: Any = None

        def ParseFromString(self, body: bytes) -> None:  # noqa: N802 - its name in protobuf
            self.value = answer.FromString(body)

    return Reader
