"""How many nodes a phase of a round needs before its time may end it (FL_ROUND_QUORUM).

Without a quorum a phase ends when its time is over, even if nobody has answered. With one it ends when every node that
was asked has answered, or when the time is over and enough nodes have answered with a result. If all have answered and
too few of them with a result, the round changes nothing.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oneflower_appliance.formats import read_quorum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from flwr.app import Message
    from flwr.serverapp import Grid

log = logging.getLogger("flwr")

_PAUSE = 1.0  # seconds between two requests for replies, after the time is over


@dataclass(frozen=True)
class Quorum:
    """A share of the nodes that were asked, or a number of nodes. Both 0: there is no quorum."""

    share: float = 0.0
    number: int = 0

    @classmethod
    def of(cls, text: str) -> Quorum:
        """Return what FL_ROUND_QUORUM says."""
        return cls(*read_quorum(text)) if text else cls()

    def needed(self, asked: int) -> int:
        """Return how many of the nodes that were asked must answer: at most all of them."""
        return min(asked, max(self.number, math.ceil(round(self.share * asked, 9))))

    @contextmanager
    def kept(self, grid: Grid, pause: Callable[[float], None] = time.sleep) -> Iterator[None]:
        """Let what a strategy sends inside the context wait for the quorum after its time is over."""
        if self == Quorum():
            yield
            return
        stock, before = grid.send_and_receive, vars(grid).get("send_and_receive")

        def send_and_receive(messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
            sent = list(messages)
            replies = list(stock(sent, timeout=timeout))
            left = {message.metadata.message_id for message in sent} - set(map(_answered, replies))
            needed, said = self.needed(len(sent)), -1
            while left and (count := _results(replies)) < needed:
                if count != said:
                    said = count
                    log.warning(
                        "The time of this phase is over (FL_ROUND_TIMEOUT), and %d of the %d nodes that it needs "
                        "(FL_ROUND_QUORUM) have answered. It waits for more.", count, needed,
                    )  # fmt: skip
                pause(_PAUSE)
                found = list(grid.pull_messages(left))
                replies += found
                left -= set(map(_answered, found))
            return replies

        vars(grid)["send_and_receive"] = send_and_receive
        try:
            yield
        finally:
            if before is None:
                del vars(grid)["send_and_receive"]
            else:
                vars(grid)["send_and_receive"] = before


def _answered(reply: Message) -> str:
    return reply.metadata.reply_to_message_id


def _results(replies: list[Message]) -> int:
    return sum(not reply.has_error() for reply in replies)
