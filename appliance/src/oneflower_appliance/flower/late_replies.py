"""Refuses replies that come after their round has given up on them, so that they do not stay until the run's end.

A round that is limited in time continues without the nodes that did not answer. The ServerApp notes the messages that
it no longer waits for (`Abandoned`). A reply to one of them is refused before its objects are sent, as Flower refuses
that of a node that was offline and of a run that has ended. The log names the node. If a reply is there
already, it is dropped when the ServerApp sends its next message, or when the agent of its node asks for the node.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

from oneflower_appliance.flower import internals

if TYPE_CHECKING:
    from oneflower_appliance.flower.linkstate import LinkState
    from oneflower_appliance.training.abandoned import Abandoned

log = logging.getLogger("flwr")


class LateReplies:
    """The replies that nobody waits for, in the state of a SuperLink."""

    def __init__(self, link: LinkState, abandoned: Abandoned) -> None:
        self._link = link
        self._abandoned = abandoned

    def refuse(self) -> None:
        """Have Flower's state in this process refuse them from now on."""
        late, state_class = self, internals.link_state()
        store = state_class.store_message_and_object_tree

        @functools.wraps(store)
        def store_message_and_object_tree(self: Any, message: Any, object_tree: Any, session_id: str) -> Any:
            answered = message.metadata.reply_to_message_id
            if not answered:
                for node in {node for node, _ in late._abandoned.all()}:
                    late.settle(node)
            elif late._refuses(message.metadata.src_node_id, answered):
                return False, []  # as Flower answers a reply to a message that it does not know
            found = store(self, message, object_tree, session_id)
            if answered and not found[0]:
                late._name(message.metadata.src_node_id, answered)
            return found

        state_class.store_message_and_object_tree = store_message_and_object_tree  # type: ignore[method-assign]

    def stuck(self, nodes: set[int]) -> set[int]:
        """Return which of these nodes are still at work for nobody, and drop what the others answered too late."""
        return {node for node in {node for node, _ in self._abandoned.all()} & nodes if self.settle(node)}

    def settle(self, node: int) -> bool:
        """Drop what a node answered too late or has not begun. Return whether it is still at work for nobody."""
        stuck = False
        for message in self._abandoned.of(node):
            if self._link.is_at(message):
                stuck = True
            else:
                self._forget(node, message)
        return stuck

    def _refuses(self, node: int, answered: str) -> bool:
        if answered not in self._abandoned.of(node):
            return False
        log.warning(
            "The reply of %s to message %s is refused: it came after its round had ended. If nodes need more "
            "time, raise FL_ROUND_TIMEOUT.", self._link.called(node), answered,
        )  # fmt: skip
        self._forget(node, answered)
        return True

    def _name(self, node: int, answered: str) -> None:
        """Say whose reply Flower refused: its own line has no node."""
        log.warning(
            "The reply of %s to message %s is refused: nothing waits for it any more.",
            self._link.called(node),
            answered,
        )

    def _forget(self, node: int, message: str) -> None:
        self._link.give_up(node, message)
        self._abandoned.forget(node, message)
