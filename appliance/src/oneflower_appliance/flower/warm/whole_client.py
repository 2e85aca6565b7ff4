"""Sends and fetches a message together with its objects, in one request: the client's side, in SuperNodes and tasks.

Flower's clients ask for a message, then for its objects, and then confirm it. Here the first of these requests brings
the objects as well, and says whether that was all; then the others are not made. Flower's clients send a message, and
then those objects that the other end lacks. Here the objects travel with the message, and Flower learns that the other
end lacks none. Large messages are left to `bundle_client`. If the other end runs stock Flower, it does not know the
call (404).
"""

from __future__ import annotations

import functools
import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.warm import bundles
from oneflower_appliance.flower.warm.arrays import in_parts
from oneflower_appliance.flower.warm.bundle_client import CAME, ask, memory_for, whole
from oneflower_appliance.flower.warm.contents import Contents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oneflower_appliance.flower.warm.arrays import Parts
    from oneflower_appliance.flower.warm.kept import Kept
    from oneflower_appliance.flower.warm.pace import Pace

SMALL = 64 * 1024  # bytes: the larger objects of what a ServerApp sends may be in the SuperLink already


class _Sending(threading.local):
    """What this thread is about to send: messages of a task, or replies in the object store of a SuperNode."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.objects: dict[int, tuple[Any, dict[str, Any]]] = {}  # messages and their objects, by id() of the message
        self.store: Any = None
        self.largest = bundles.PART  # bytes of an object that travels with its message


_sending = _Sending()


def send_whole_messages(
    *, kept: Kept | None = None, place: Callable[[], dict[str, bytes]] = dict[str, bytes], pace: Pace | None = None
) -> None:
    """Make Flower's clients in this process use these requests. What is in `kept` is not fetched again.

    The objects of each message that is fetched come into a new `place`. What is sent has at most the size of `pace`,
    if there is one.
    """
    for client, api in ((internals.fleet_client(), "fleet"), (internals.runtime_client(), "runtime")):
        calls = _Calls(api, kept, place, pace)
        acts = {f"/v1/{api}/pull-messages": calls.pull, f"/v1/{api}/push-messages": calls.push,
                f"/v1/{api}/confirm-message-received": calls.confirm}  # fmt: skip
        client._unary_unary = _instead(client._unary_unary, acts)  # type: ignore[method-assign] # noqa: SLF001


def note_messages(module: Any, largest: int = bundles.PART) -> None:
    """Note which messages a task is about to send, in one of Flower's modules, and find their objects only once.

    Objects of more than `largest` bytes do not travel with their message.
    """
    tree_of, objects_of = module.get_object_tree, module.get_all_nested_objects

    @functools.wraps(tree_of)
    def get_object_tree(message: Any) -> Any:
        _sending.messages.append(message)
        _sending.largest = largest
        return tree_of(message)

    @functools.wraps(objects_of)
    def get_all_nested_objects(message: Any) -> Any:
        _, found = _sending.objects.pop(id(message), (None, None))
        if found is None:
            found = objects_of(message)
            _sending.objects[id(message)] = message, found
        return found

    module.get_object_tree, module.get_all_nested_objects = get_object_tree, get_all_nested_objects


def note_store(loop: Any) -> None:
    """Note from which object store a SuperNode is about to send replies."""
    push = loop._push_messages  # noqa: SLF001 - there is no other way in

    @functools.wraps(push)
    def pushing(state: Any, object_store: Any, **arguments: Any) -> None:
        _sending.store = object_store
        try:
            push(state=state, object_store=object_store, **arguments)
        finally:
            _sending.store = None

    loop._push_messages = pushing  # noqa: SLF001


def _instead(stock: Callable[..., Any], acts: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def _unary_unary(self: Any, *, path: str, request: Any, response_type: Any, **more: Any) -> Any:
        act = acts.get(path)
        answer = act(self, request, response_type) if act else None
        if answer is None:
            return stock(self, path=path, request=request, response_type=response_type, **more)
        return answer

    return _unary_unary


class _Calls:
    """The calls of one API. Each returns None if Flower's own has to be made."""

    def __init__(
        self, api: str, kept: Kept | None, place: Callable[[], dict[str, bytes]], pace: Pace | None = None
    ) -> None:
        self._api = api
        self._kept = kept
        self._place = place
        self._pace = pace
        self._confirmed: set[str] = set()

    def pull(self, client: Any, request: Any, response_type: Any) -> Any:
        """Fetch a message, and its objects if they come with it."""
        if self._kept is not None:  # a SuperNode, which has one message at a time
            CAME.clear()
            self._confirmed.clear()
        known, tops = (self._kept.objects, self._kept.tops) if self._kept is not None else ({}, ())
        place, has = self._place(), bundles.write_wanted(tops)
        if self._api == "fleet":
            answer = ask(client, self._api, bundles.PULL_WHOLE, request, [has], bundles.Whole)
            objects: Any = bundles.Answer.FromString(answer.objects).objects if answer else {}
        elif memory := memory_for(client, bundles.PULL_WHOLE):
            with memory:
                answer = ask(client, self._api, bundles.PULL_WHOLE, request, [memory.place, has], bundles.Whole)
                table = bundles.Table.FromString(answer.objects if answer else b"")
                read = memory.pieces if isinstance(place, Contents) else memory.read
                contents: Any = read(table.spans) if table.names else []
                objects = dict(zip(table.names, contents, strict=True))
        else:
            return None
        if answer is None:
            return None
        found = response_type.FromString(answer.flower)
        for tree in found.message_object_trees[:1]:
            if self._kept is not None:
                self._kept.found(tree)
            if answer.message == tree.object_id:
                place |= {name: known[name] for name in bundles.below(tree) if name in known}
                place |= objects
                CAME[tree.object_id] = place
                self._confirmed.add(tree.object_id)
        return found

    def confirm(self, _client: Any, request: Any, response_type: Any) -> Any:
        """Confirm a message, if the other end did not do so when it gave it away."""
        if request.message_object_id not in self._confirmed:
            return None
        self._confirmed.remove(request.message_object_id)
        return response_type()

    def push(self, client: Any, request: Any, response_type: Any) -> Any:
        """Send a message, with its objects."""
        messages, _sending.messages = _sending.messages, []
        known, _sending.objects = _sending.objects, {}
        found = _of_store(request) if _sending.store is not None else _of_task(messages, known)
        objects = dict(_few(in_parts(found), self._pace.size if self._pace else bundles.PART))
        if not objects:
            return None
        if self._api == "fleet":
            parts, began = bundles.write_objects(whole(objects.items())), time.monotonic()
            answer = ask(client, self._api, bundles.PUSH_WHOLE, request, parts, response_type)
            if self._pace:
                self._pace.note(sum(map(len, parts)), time.monotonic() - began)
            return answer
        if memory := memory_for(client, bundles.PUSH_WHOLE):
            with memory:
                table = bundles.write_table(objects, memory.write(objects.values()))
                return ask(client, self._api, bundles.PUSH_WHOLE, request, [memory.place, table], response_type)
        return None


def _of_task(messages: list[Any], known: dict[int, tuple[Any, dict[str, Any]]]) -> Iterator[tuple[str, bytes]]:
    """Yield the objects of messages, each once."""
    done: set[str] = set()
    for message in messages:
        if id(message) in known:
            _, objects = known[id(message)]
        else:  # Flower asks for them after this request
            objects = internals.inflatable_objects().get_all_nested_objects(message)
            _sending.objects[id(message)] = message, objects
        for name, one in objects.items():
            if name not in done and len(getattr(one, "data", b"")) <= _sending.largest:
                done.add(name)
                yield name, one.deflate()


def _of_store(request: Any) -> Iterator[tuple[str, bytes]]:
    """Yield the objects of a reply in the store of a SuperNode, as far as they are there."""
    store = _sending.store
    for name in itertools.chain.from_iterable(map(bundles.below, request.message_object_trees)):
        content = store.get(name)
        if not content:
            return
        yield name, content


def _few(objects: Iterator[tuple[str, bytes | Parts]], most: int) -> Iterator[tuple[str, bytes | Parts]]:
    """Yield objects, as many as a bundle of `most` bytes has."""
    size = 0
    for number, (name, content) in enumerate(objects):
        size += len(content)
        if size > most or number == bundles.MOST:
            return
        yield name, content
