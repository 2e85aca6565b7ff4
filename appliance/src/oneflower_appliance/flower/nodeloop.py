"""What is changed in the loop of Flower's SuperNode, in its own process.

Two corrections. The loop takes a message, waits for *a* reply, and sends it. When a run is stopped while a message of
it is being taken, Flower 1.41 drops the message but not its task: the reply to it is what the next message then waits
for, and from there on each reply is sent one message too late, so that a round waits for ever. And when a ClientApp
dies with a part of its reply handed over, the loop waits for the rest, for ever, too.

Warm execution: the loop does not sleep while there is something to do, and its tasks do not wait to be taken.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oneflower_appliance.flower.warm.superexec import WarmSuperExec

_LOOP = "flwr.supernode.start_client_internal"
_UNFINISHED = ("pending", "starting", "running")


def answer_in_turn() -> None:
    """Have the loop wait for the reply to the very message that it took, while there is somebody to give it."""
    loop: Any = importlib.import_module(_LOOP)
    pull, push = loop._pull_and_store_message, loop._push_messages  # noqa: SLF001 - there is no other way in
    taken: set[str] = set()

    @functools.wraps(pull)
    def pulling(state: Any, **arguments: Any) -> int | None:
        before = set(state.msg_store)
        run_id: int | None = pull(state=state, **arguments)
        taken.clear()
        taken.update(set(state.msg_store) - before)
        return run_id

    @functools.wraps(push)
    def pushing(state: Any, object_store: Any, **arguments: Any) -> None:
        objects = _Objects(object_store, state)
        push(state=state, object_store=objects, **arguments)
        # A message is forgotten when its reply is sent.
        while taken & set(state.msg_store):
            push(state=state, object_store=objects, **arguments)

    loop._pull_and_store_message, loop._push_messages = pulling, pushing  # noqa: SLF001


class _Objects:
    """Flower's object store, for a reply: what will never come is not waited for."""

    def __init__(self, store: Any, state: Any) -> None:
        self._store = store
        self._state = state

    def get(self, object_id: str) -> bytes | None:
        # In this order: when no task is left, everything that was handed over is there.
        working = bool(self._state.get_tasks(statuses=_UNFINISHED))
        content: bytes | None = self._store.get(object_id)
        if content == b"" and not working:
            raise RuntimeError("the ClientApp died before it had handed over the whole reply")
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def run_warm(superexec: WarmSuperExec) -> None:
    """Have the loop work by events instead of polls, with `superexec` as its SuperExec."""
    from oneflower_appliance.flower.warm.longpoll import ACQUIRE_TASK, LongPoll  # noqa: PLC0415 - not needed by stock Flower
    from oneflower_appliance.flower.warm.shortcuts import Shortcuts  # noqa: PLC0415
    from oneflower_appliance.flower.warm.waits import WAITS, ask_to_wait, replace_sleep  # noqa: PLC0415

    ask_to_wait()
    replace_sleep(_LOOP, WAITS.sleep)
    superexec.replace_in(_LOOP)
    loop: Any = importlib.import_module(_LOOP)
    application: Any = importlib.import_module("flwr.supernode.main")
    create, register = application.create_app, loop.register_signal_handlers
    pull = loop._pull_and_store_message  # noqa: SLF001
    polls: list[LongPoll] = []

    @functools.wraps(create)
    def create_app(*args: Any, **kwargs: Any) -> LongPoll:
        polls.append(LongPoll(Shortcuts(create(*args, **kwargs)), on_change=WAITS.something_happened))
        return polls[-1]

    @functools.wraps(pull)
    def pulling(**arguments: Any) -> int | None:
        run_id: int | None = pull(**arguments)
        # Its task was made before its content was there, so it is offered now.
        for poll in polls:
            poll.wake(ACQUIRE_TASK)
        return run_id

    @functools.wraps(register)
    def register_signal_handlers(**arguments: Any) -> None:
        register(**arguments, exit_handlers=[poll.close for poll in polls])

    application.create_app = create_app
    loop._pull_and_store_message, loop.register_signal_handlers = pulling, register_signal_handlers  # noqa: SLF001
