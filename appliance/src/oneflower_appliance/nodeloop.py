"""A correction to the loop of Flower's SuperNode, in its own process.

The loop takes a message, waits for *a* reply, and sends it. When a run is stopped while a message of it is being taken,
Flower 1.41 drops the message but not its task: the reply to it is what the next message then waits for, and from there
on each reply is sent one message too late, so that a round waits for ever.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any


def answer_in_turn() -> None:
    """Have the loop wait for the reply to the very message that it took."""
    loop: Any = importlib.import_module("flwr.supernode.start_client_internal")
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
    def pushing(state: Any, **arguments: Any) -> None:
        push(state=state, **arguments)
        # A message is forgotten when its reply is sent.
        while taken & set(state.msg_store):
            push(state=state, **arguments)

    loop._pull_and_store_message, loop._push_messages = pulling, pushing  # noqa: SLF001
