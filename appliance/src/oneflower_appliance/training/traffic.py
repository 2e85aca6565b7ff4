"""The messages of a ServerApp: how many it sent, how many were answered, and how long and how large they were.

For an app without a strategy the counts are its only signs of life. For a strategy of the legacy API the messages tell
which node an answer or an error belongs to, because Flower does not tell the strategy. For all apps they tell which
nodes have not answered yet (`live_round`).
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.run_folder import MESSAGES, Messages
from oneflower_appliance.training.live_round import LiveRound

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from flwr.app import Array, Error, Message, Metadata, RecordDict
    from flwr.serverapp import Grid

_NAME = "_oneflower_traffic"  # of the attribute of a grid


@dataclass(frozen=True)
class Answer:
    """A reply without its content. `error` is None if it carries a result."""

    metadata: Metadata
    error: Any = None

    def has_error(self) -> bool:
        """Whether it carries no result."""
        return self.error is not None


@dataclass
class Measure:
    """What the messages to one node took in a phase: bytes of arrays, and seconds until the replies; None if none came.

    A node that gets several messages in a phase has the sum of them.
    """

    sent: int = 0
    received: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Exchange:
    """The messages of one phase of a round and their replies so far, in the order in which they came."""

    sent: list[Metadata] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    measured: dict[int, Measure] = field(default_factory=dict)
    begun: dict[str, tuple[int, float]] = field(default_factory=dict)  # node and time, by message

    def push(self, messages: Sequence[Message], since: float) -> None:
        """Measure messages that were sent at the time `since`."""
        sizes: dict[int, int] = {}  # by the content's id: the same goes to many nodes
        for message in messages:
            node, content = message.metadata.dst_node_id, message.content
            if id(content) not in sizes:
                sizes[id(content)] = _size_of(content)
            self.sent.append(message.metadata)
            self.measured.setdefault(node, Measure()).sent += sizes[id(content)]
            self.begun[message.metadata.message_id] = node, since

    def pull(self, reply: Message) -> None:
        """Measure a reply."""
        node, since = self.begun.pop(reply.metadata.reply_to_message_id, (0, 0.0))
        if measure := self.measured.get(node):
            size = _size_of(reply.content) if reply.has_content() else 0
            measure.received = (measure.received or 0) + size
            measure.seconds = (measure.seconds or 0.0) + time.monotonic() - since


def bytes_in(arrays: Iterable[Array]) -> int:
    """Return the bytes of arrays, as Flower sends them. Those in a file are not read."""
    return sum(getattr(array, "length", None) or len(array.data) for array in arrays)


def _size_of(content: RecordDict) -> int:
    return bytes_in(array for record in content.array_records.values() for array in record.values())


class Traffic:
    """Counts the messages that go through a grid. Its file in the run's folder has the counts.

    `run_config` is that of the app, with what overrides it, as far as it is known.
    """

    def __init__(self) -> None:
        self.run_config: Mapping[str, Any] = {}
        self._lock = threading.Lock()
        self._path: Path | None = None
        self.live: LiveRound | None = None
        self._sent: dict[str, Metadata] = {}  # not answered
        self._counts = Messages()
        self._exchange = Exchange()

    @classmethod
    def of(cls, grid: Grid) -> Traffic:
        """Return what counts the messages of a grid, from its first use on."""
        if found := cls.known(grid):
            return found
        traffic = cls()
        traffic._watch(grid)
        vars(grid)[_NAME] = traffic
        return traffic

    @classmethod
    def known(cls, grid: Grid) -> Traffic | None:
        """Return what counts the messages of a grid already."""
        return vars(grid).get(_NAME)

    def _watch(self, grid: Grid) -> None:
        push, pull = grid.push_messages, grid.pull_messages

        def push_messages(messages: Iterable[Message]) -> Iterable[str]:
            pushed, since = list(messages), time.monotonic()
            ids = list(push(pushed))
            self._note_sent([message for message, given in zip(pushed, ids, strict=False) if given], since)
            return ids

        def pull_messages(message_ids: Iterable[str]) -> Iterable[Message]:
            found = list(pull(message_ids))
            if found:
                self._note_answers(found)
            return found

        vars(grid).update(push_messages=push_messages, pull_messages=pull_messages)

    def begin_exchange(self) -> Exchange:
        """Collect what is sent and answered from now on. It does not hold the content of messages."""
        self._exchange = Exchange()
        return self._exchange

    def write_to(self, folder: Path) -> None:
        """Write into the folder of the run what it does at this moment, and the counts."""
        with self._lock:
            self._path, self.live = folder / MESSAGES, LiveRound(folder, self._write)

    def write_no_counts(self) -> None:
        """Write no counts from now on, because a strategy's rounds are recorded."""
        with self._lock:
            self._path = None

    @property
    def counts(self) -> bool:
        """Whether counts are written: no strategy has begun."""
        return self._path is not None

    def close(self) -> None:
        """Write the counts for the last time."""
        if self.live:
            self.live.close()
        self._write(synced=True)

    def _note_sent(self, sent: list[Message], since: float) -> None:
        with self._lock:
            self._sent |= {message.metadata.message_id: message.metadata for message in sent}
            self._exchange.push(sent, since)
            if self.live:
                self.live.note_sent([message.metadata for message in sent])
            self._count(sent=len(sent))

    def _note_answers(self, replies: list[Message]) -> None:
        with self._lock:
            for reply in replies:
                sent = self._sent.pop(reply.metadata.reply_to_message_id, None)
                error: Error | None = reply.error if reply.has_error() else None
                if error and sent and time.time() >= sent.created_at + sent.ttl:
                    continue  # the SuperLink's: nobody answered in the time that the message had
                self._exchange.pull(reply)
                if sent and self.live:
                    self.live.note_answer(sent, failed=error is not None)
                self._exchange.answers.append(Answer(reply.metadata, error))
                self._count(**{"failed" if error else "answered": 1})

    def _count(self, **more: int) -> None:
        self._counts = Messages(**{name: number + more.get(name, 0) for name, number in vars(self._counts).items()})

    def _write(self, *, synced: bool = False) -> None:
        path, counts = self._path, self._counts
        if path is not None and counts.sent:
            with suppress(OneflowerError):  # the next write may succeed; the run is not worse without
                write_atomic(path, counts.text, SHARED, synced=synced)
