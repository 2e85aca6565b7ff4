"""Gives a message to its SuperNode again when the first answer was lost on the way.

Flower notes a message as delivered when it answers the request for it. If the line breaks in silence just then, the
answer is lost. The SuperNode stays online and asks again, but nobody gives it that message a second time: the round
would wait for its timeout. A SuperNode has one message at a time, and asks for another one when it has answered it. So
if it asks and has not answered, it did not get the message, as long as its objects have not been confirmed either.

Objects that travel with their message are therefore confirmed when the reply comes, and not when they leave.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

from oneflower_appliance.flower import internals

if TYPE_CHECKING:
    from oneflower_appliance.flower.late_replies import LateReplies
    from oneflower_appliance.flower.linkstate import LinkState

log = logging.getLogger("flwr")


class Redeliveries:
    """The last message that each node was given, until it is known that the node has it."""

    def __init__(self) -> None:
        self._given: dict[int, str] = {}
        self._whole: dict[int, str] = {}  # those whose objects went along, and were not confirmed
        self.is_active = False

    def start(self, link: LinkState, late: LateReplies) -> None:
        """Have Flower's state in this process give lost messages again."""
        state_class = internals.link_state()
        take, store = state_class.get_message_ins, state_class.store_message_and_object_tree

        @functools.wraps(take)
        def get_message_ins(state: Any, node_id: int, *args: Any, **kwargs: Any) -> Any:
            self._whole.pop(node_id, None)
            lost = self._given.pop(node_id, "")
            if lost and lost in state.object_store and link.is_at(lost):
                log.warning("%s has not got its message %s: it is given to it again.", link.called(node_id), lost)
                link.take_back(lost)
                late.settle(node_id)
            found = take(state, node_id, *args, **kwargs)
            if found:
                self._given[node_id] = found[0].metadata.message_id
            return found

        @functools.wraps(store)
        def store_message_and_object_tree(state: Any, message: Any, *args: Any, **kwargs: Any) -> Any:
            node, answered = message.metadata.src_node_id, message.metadata.reply_to_message_id
            if answered and self._whole.get(node) == answered:
                del self._whole[node]
                state.object_store.delete(answered)  # what Flower does when a SuperNode confirms
            return store(state, message, *args, **kwargs)

        state_class.get_message_ins = get_message_ins  # type: ignore[method-assign, assignment]
        state_class.store_message_and_object_tree = store_message_and_object_tree  # type: ignore[method-assign, assignment]
        self.is_active = True

    def came_whole(self, node: int, message: str) -> None:
        """Note that all objects of a message went to a node with it. They are confirmed when it replies."""
        self._whole[node] = message
