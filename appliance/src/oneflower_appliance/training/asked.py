"""Which nodes a round asked, which of them answered, and what happened to the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from oneflower_appliance.runs import Fault, plain_reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flwr.app import Error, Metadata

# What Flower's codes mean if the SuperLink answers for a node (flwr.common.constant.ErrorCode, as on the wire).
_MEANINGS = {
    3: "it started again, or left, before it had replied",  # MESSAGE_UNAVAILABLE: nobody works on it any more
    4: "its reply is no longer on the SuperLink",  # REPLY_MESSAGE_UNAVAILABLE
    5: "the SuperLink no longer hears from it",  # NODE_UNAVAILABLE
}


class Reply(Protocol):
    """The used part of a reply: Flower's `Message` has it."""

    @property
    def metadata(self) -> Metadata:
        """Who sent it, and which message it answers."""

    @property
    def error(self) -> Error:
        """Why there is no result, if `has_error` says that there is none."""

    def has_error(self) -> bool:
        """Whether it carries no result."""


Received = TypeVar("Received", bound=Reply)


class Asked:
    """The nodes that one phase of a round, train or evaluate, asked.

    `sent` are the messages to them. Flower gives a message its id when it sends it, into this same object, and the list
    may grow until the replies are sorted. `timeout` is None if the messages themselves say how long they are valid.
    """

    def __init__(self, phase: str, nodes: Sequence[int], sent: Sequence[Metadata], timeout: float | None) -> None:
        self.phase = phase
        self._asked = nodes
        self._sent = sent
        self._timeout = timeout
        self._faults: dict[int, Fault] = {}
        self.silent: dict[int, str] = {}

    @property
    def nodes(self) -> set[int]:
        """The nodes that were asked."""
        return set(self._asked)

    def __len__(self) -> int:
        return len(self._asked)

    def sort(self, replies: Iterable[Received]) -> list[Received]:
        """Return the replies that carry a result; remember which nodes failed and which did not answer.

        `silent` then has, by node, the ids of the messages that were not answered.
        """
        waiting: dict[str | int, Metadata] = {sent.message_id or sent.dst_node_id: sent for sent in self._sent}
        good: list[Received] = []
        for reply in replies:
            # If the SuperLink answers with an error for a node, that node is not the source.
            node = reply.metadata.src_node_id
            sent = waiting.pop(reply.metadata.reply_to_message_id, None) or waiting.pop(node, None)
            if sent is not None:
                node = sent.dst_node_id
            if reply.has_error():
                known = _MEANINGS.get(reply.error.code) if reply.metadata.src_node_id != node else None
                self.blame(node, "failed", known or plain_reason(str(reply.error.reason)))
            else:
                good.append(reply)
        self.silent = {sent.dst_node_id: sent.message_id for sent in waiting.values()}
        for sent in waiting.values():
            seconds = sent.ttl if self._timeout is None else self._timeout
            self.blame(sent.dst_node_id, "no answer", f"nothing came within {seconds:.0f} s")
        return good

    def blame(self, node: int, kind: str, reason: str) -> None:
        """Remember what happened to a node."""
        self._faults[node] = Fault(str(node), self.phase, kind, reason)

    def add(self, faults: Iterable[Fault]) -> None:
        """Remember what happened to nodes before the phase asked the others."""
        self._faults |= {int(fault.node): fault for fault in faults}

    @property
    def faulty(self) -> set[int]:
        """The nodes that something went wrong with."""
        return set(self._faults)

    @property
    def faults(self) -> Sequence[Fault]:
        """What went wrong, by the nodes' ids."""
        return [self._faults[node] for node in sorted(self._faults)]
