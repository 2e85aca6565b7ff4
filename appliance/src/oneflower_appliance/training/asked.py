"""Which nodes a round asked, which of them answered, and what happened to the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower_appliance.runs import Fault, plain_reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flwr.app import Message, Metadata


class Asked:
    """The nodes that were sent a message for one phase of a round, train or evaluate."""

    def __init__(self, phase: str, messages: Iterable[Message], timeout: float) -> None:
        self._phase = phase
        self._timeout = timeout
        # Flower gives a message its id when it sends it, into this same object.
        self._sent: list[Metadata] = [message.metadata for message in messages]
        self._faults: dict[int, Fault] = {}
        self.silent: dict[int, str] = {}

    @property
    def nodes(self) -> set[int]:
        """The nodes that were asked."""
        return {sent.dst_node_id for sent in self._sent}

    def __len__(self) -> int:
        return len(self._sent)

    def sort(self, replies: Iterable[Message]) -> list[Message]:
        """Return the replies that carry a result; remember which nodes failed and which did not answer.

        `silent` then has, by node, the ids of the messages that were not answered.
        """
        nodes = {sent.message_id: sent.dst_node_id for sent in self._sent if sent.message_id}
        silent = {sent.dst_node_id: sent.message_id for sent in self._sent}
        good: list[Message] = []
        for reply in replies:
            # If the SuperLink answers with an error for a node, that node is not the source.
            node = nodes.get(reply.metadata.reply_to_message_id, reply.metadata.src_node_id)
            silent.pop(node, None)
            if reply.has_error():
                self.blame(node, "failed", plain_reason(str(reply.error.reason)))
            else:
                good.append(reply)
        self.silent = silent
        for node in silent:
            self.blame(node, "no answer", f"nothing came within {self._timeout:.0f} s")
        return good

    def blame(self, node: int, kind: str, reason: str) -> None:
        """Remember what happened to a node."""
        self._faults[node] = Fault(str(node), self._phase, kind, reason)

    @property
    def faults(self) -> Sequence[Fault]:
        """What went wrong, by the nodes' ids."""
        return [self._faults[node] for node in sorted(self._faults)]
