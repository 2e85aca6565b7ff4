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
from oneflower_appliance.flower.warm.pace import two_at_a_time
from oneflower_appliance.flower.warm.shared_memory import SharedMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from oneflower_appliance.flower.warm.kept import Kept
    from oneflower_appliance.flower.warm.pace import Pace

    _Object = tuple[str, bytes | Parts]

_PAUSE = 0.1  # seconds between two requests if the other end does not hold them
_UNKNOWN = "oneflower_unknown_calls"  # the attribute of a client: those that the other end does not know


@dataclass
class _Fetching:
    """Objects to fetch, and the contents of those that came. `overlaps`: two requests at a time."""

    names: list[str]
    contents: dict[str, bytes]
    overlaps: bool = False


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


def send_in_bundles(
    *modules: Any, kept: Kept | None = None, place: Callable[[], dict[str, bytes]] = dict[str, bytes],
    pace: Pace | None = None,
) -> None:  # fmt: skip
    """Make Flower's functions in these modules, and its clients, use bundles, in this process.

    What is in `kept` is not fetched again. The objects of each message that is fetched come into a new `place`. What
    is sent has the size of `pace`, if there is one.
    """
    inflatables = internals.inflatables()
    for module in modules:
        for name, better in (
            ("pull_objects", _fetching(inflatables.pull_objects, kept, place, pace=pace)),
            ("push_object_contents_from_iterable", _sending(inflatables.push_object_contents_from_iterable, pace)),
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
    *,
    pace: Pace | None = None,
) -> Callable[..., dict[str, bytes]]:
    not_there_yet, never = internals.inflatables().ObjectUnavailableError, internals.inflatables().ObjectPullError

    @functools.wraps(stock)
    def pull_objects(object_ids: list[str], pull_object_fn: Callable[[str], bytes], **limits: Any) -> dict[str, bytes]:
        known = kept.objects if kept is not None else {}
        came = CAME.pop(object_ids[-1], None) if object_ids else None
        work = _Fetching(object_ids, place() if came is None else came, pace is not None and pace.overlaps)
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


def _sending(stock: Callable[..., None], pace: Pace | None = None) -> Callable[..., None]:
    @functools.wraps(stock)
    def push_object_contents_from_iterable(
        object_contents: Iterable[tuple[str, bytes]], push_object_fn: Callable[[str, bytes], None], **limits: Any
    ) -> None:
        contents = iter(object_contents)

        def hand_over(part: list[_Object]) -> list[_Object]:
            """Send a bundle. Returns what the other end did not take."""
            work, began = _Sending(part), time.monotonic()
            with _at(work):
                push_object_fn(part[0][0], b"")  # its content is copied only where it travels in that request
            if pace:
                pace.note(sum(len(content) for _, content in part), time.monotonic() - began)
            return [] if work.done else part[1:]

        parts = iter(lambda: _part(in_parts(contents), pace.size if pace else bundles.PART), [])
        for part in itertools.islice(parts, 1):  # which shows whether the other end knows the call
            if left := hand_over(part):
                stock(itertools.chain(whole(left), contents), push_object_fn, **limits)
                return
        others = two_at_a_time(hand_over, parts) if pace and pace.overlaps else map(hand_over, parts)
        if left := list(itertools.chain.from_iterable(others)):
            stock(whole(left), push_object_fn, **limits)

    return push_object_contents_from_iterable


def whole(objects: Iterable[tuple[str, bytes | Parts]]) -> list[tuple[str, bytes]]:
    """Return objects with their contents in one piece."""
    return [(name, bytes(content)) for name, content in objects]


def _part(contents: Iterator[_Object], most: int) -> list[_Object]:
    """Return the objects of the next bundle: it ends with the first one with which it has `most` bytes or more."""
    part, size = [], 0
    for name, content in contents:
        part.append((name, content))
        size += len(content)
        if size >= most or len(part) == bundles.MOST:
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
    in_place = isinstance(work.contents, Contents)

    def fetch(names: list[str], most: int | None = None) -> bool:
        for _ in itertools.count() if most is None else range(most):
            left = [name for name in names if name not in work.contents]
            if not left:
                break
            found = _get(client, api, request, bundles.write_wanted(left[: bundles.MOST]), in_place=in_place)
            if found is None:
                return False
            work.contents |= {name: content for name, content in found.items() if content is not None}
            if None in found.values():
                break  # Flower's own function then says so
            if not found:
                time.sleep(_PAUSE)
        return True

    if not work.overlaps:
        return fetch(work.names)
    if not fetch(work.names, 1):
        return False
    left = [name for name in work.names if name not in work.contents]
    halves = [half for half in (left[: len(left) // 2], left[len(left) // 2 :]) if half]
    return not halves or all(two_at_a_time(fetch, halves))


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
