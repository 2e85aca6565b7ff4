"""Sends what the threads of Flower's legacy API send at the same time as one request, and asks for the replies as one.

The legacy API has a thread for each node, which sends one message and waits for its reply. Sent one by one, the model
goes to the SuperLink once for each node.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from oneflower_appliance.flower import internals

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flwr.app import Message
    from flwr.serverapp import Grid

_GATHER = 0.05  # seconds to wait for one more thread
_PAUSE = 3.0  # seconds between two requests for replies, as in Flower


@dataclass
class _Member:
    """A thread that waits for the reply to its message."""

    message: Message
    answered: threading.Event = field(default_factory=threading.Event)
    reply: Message | None = None
    error: BaseException | None = None

    def end(self, reply: Message | None = None, error: BaseException | None = None) -> None:
        self.reply, self.error = reply, error
        self.answered.set()

    def wait(self) -> list[Message]:
        self.answered.wait()
        if self.error is not None:
            raise self.error
        return [self.reply] if self.reply is not None else []


class Together:
    """The exchanges of a grid. In a phase of a round, single messages are sent together."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._alone = grid.send_and_receive
        self._changed = threading.Condition()
        self._members: list[_Member] = []  # that were not sent yet
        self._expected = 0
        vars(grid)["send_and_receive"] = self._send_and_receive

    def expect(self, messages: int) -> None:
        """Begin a phase in which so many messages will be sent, each by a thread; 0 ends it."""
        self._expected = messages

    def _send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        found = list(messages)
        if len(found) != 1 or timeout is not None or self._expected <= 1:
            return self._alone(found, timeout=timeout)
        member = _Member(found[0])
        with self._changed:
            self._members.append(member)
            self._changed.notify()
            leads = len(self._members) == 1
        if leads:
            self._exchange(self._gathered())
        return member.wait()

    def _gathered(self) -> list[_Member]:
        """Return the members that came, once all are there or no more come."""
        with self._changed:
            count = 0
            while count < len(self._members) < self._expected:
                count = len(self._members)
                self._changed.wait(_GATHER)
            gathered, self._members = self._members, []
            return gathered

    def _exchange(self, members: list[_Member]) -> None:
        """Send the messages of all members, and give each its reply as it comes."""
        waiting: dict[str, _Member] = {}
        try:
            ids = list(self._grid.push_messages([member.message for member in members]))
            for member, number in zip(members, ids, strict=True):
                if number:
                    waiting[number] = member
                else:
                    member.end(error=ValueError("the SuperLink took no message for it"))
            while waiting:
                for reply in self._grid.pull_messages(set(waiting)):
                    number = reply.metadata.reply_to_message_id
                    if number in waiting:
                        waiting.pop(number).end(reply)
                if waiting:
                    internals.grid().time.sleep(_PAUSE)
        except BaseException as error:  # noqa: BLE001 - every thread gets it
            for member in members:
                if not member.answered.is_set():
                    member.end(error=error)
