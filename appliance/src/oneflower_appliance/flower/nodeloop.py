"""Corrections of the loop of Flower's SuperNode, in its own process.

The loop takes a message, waits for *a* reply, and sends it. If a run is stopped while the loop takes one of its
messages, Flower drops the message but not its task. The loop then takes the reply to that task for the reply to its
next message. From there on each reply is one message too late, and a round waits forever. Also, if a ClientApp dies
with its reply half sent, the loop waits forever for the rest. A message that cannot be fetched, because its objects are
gone or are wrong, and a reply that cannot be sent are given up without a word; here the node reports it.
"""

from __future__ import annotations

import functools
from typing import Any

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.flower import internals

UNFINISHED = ("pending", "starting", "running")  # what Flower calls a task that has not ended


def answer_in_turn() -> None:
    """Make the loop wait for the reply to the message that it took, as long as a task can still send it."""
    loop = internals.node_loop()
    pull, push = loop._pull_and_store_message, loop._push_messages  # noqa: SLF001 - there is no other way in
    taken: dict[str, Any] = {}

    @functools.wraps(pull)
    def pulling(state: Any, object_store: Any, receive: Any, **arguments: Any) -> int | None:
        before = set(state.msg_store)
        receive = Noted(receive)
        run_id: int | None = pull(state=state, object_store=object_store, receive=receive, **arguments)
        taken.clear()
        taken.update({key: entry for key, entry in state.msg_store.items() if key not in before})
        if run_id is None and receive.answer is not None and not taken:
            message = receive.answer[0]
            loop._insert_message(_error(state, message, "could not fetch this message"), state, object_store)  # noqa: SLF001
            return int(message.metadata.run_id)
        return run_id

    @functools.wraps(push)
    def pushing(state: Any, object_store: Any, send: Any, push_object: Any, **arguments: Any) -> None:
        objects = ReplyObjects(object_store, state)
        calls = {"send": Noted(send), "push_object": Noted(push_object)}
        push(state=state, object_store=objects, **calls, **arguments)
        # A message is forgotten when its reply is sent.
        while taken.keys() & set(state.msg_store):
            push(state=state, object_store=objects, **calls, **arguments)
        failed = [call.failed for call in calls.values() if call.failed]
        if (objects.gave_up or failed) and taken:
            # The SuperLink has half of the reply, and this error replaces it.
            state.msg_store.update(taken)
            runs = {entry.message.metadata.run_id for entry in taken.values()}
            answer_for(
                state, runs, "died before it had sent its whole reply" if objects.gave_up else _unsent(failed[0])
            )
            push(state=state, object_store=object_store, send=send, push_object=push_object, **arguments)

    loop._pull_and_store_message, loop._push_messages = pulling, pushing  # noqa: SLF001


def _unsent(error: Exception) -> str:
    why = f": {error.sentence.rstrip('.')}" if isinstance(error, OneflowerError) else ""
    return f"gave a reply that cannot be sent{why}"


def answer_for(state: Any, runs: set[int], how: str) -> None:
    """Answer all open messages of `runs` with an error; `how` says what happened to their ClientApp."""
    from flwr.app import Error  # noqa: PLC0415 - Flower is imported when it is needed

    nodestate = internals.node_states()
    reason = Error(nodestate.CLIENT_APP_CRASHED_ERROR.code, f"The ClientApp of node {state.get_node_id()} {how}.")
    with state.lock_msg_store:
        for entry in state.msg_store.values():
            metadata = entry.message.metadata
            if metadata.run_id in runs and not metadata.reply_to_message_id:
                entry.is_retrieved = True  # Flower answers only what a ClientApp has seen
        state._store_error_replies(runs, reason)  # noqa: SLF001


def _error(state: Any, message: Any, what: str) -> Any:
    from flwr.app import Error, Message  # noqa: PLC0415 - Flower is imported when it is needed

    code = internals.node_states().CLIENT_APP_CRASHED_ERROR.code
    return Message(Error(code, f"Node {state.get_node_id()} {what}."), reply_to=message)


class Noted:
    """One of the loop's functions: its last answer, and how it `failed` for another reason than the end of a run."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.answer: Any = None
        self.failed: Exception | None = None

    def __call__(self, *args: Any) -> Any:
        """Call it."""
        try:
            self.answer = self._function(*args)
        except internals.run_errors().RunNotRunningException:
            raise
        except Exception as error:
            self.failed = error
            raise
        return self.answer


class ReplyObjects:
    """Flower's object store, for a reply: it does not wait for objects that will never come."""

    def __init__(self, store: Any, state: Any) -> None:
        self._store = store
        self._state = state
        self.gave_up = False

    def get(self, object_id: str) -> bytes | None:
        """Return an object, or b"" if it may still come. Raises `RuntimeError` if it cannot."""
        # In this order: when no task is left, everything that was sent is there.
        working = bool(self._state.get_tasks(statuses=UNFINISHED))
        content: bytes | None = self._store.get(object_id)
        if content == b"" and not working:
            self.gave_up = True
            raise RuntimeError("the ClientApp died before it had sent the whole reply")
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
