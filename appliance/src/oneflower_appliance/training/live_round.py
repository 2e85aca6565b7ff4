"""Writes what a run does at this moment into the folder of the run, where the SuperLink's process finds it."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.round_state import Phase, RoundState
from oneflower_appliance.run_folder import NOW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from flwr.app import Metadata

_INTERVAL = 0.5  # seconds between two writes, however many nodes answer


class LiveRound:
    """The file NOW in a run's folder. A thread writes it at the first change, and at most twice a second.

    A strategy's run says with `begin` what it does. Until it does, what is sent begins a phase by itself. `beside` is
    called with each write.
    """

    def __init__(self, folder: Path, beside: Callable[[], None] = lambda: None) -> None:
        self._path = folder / NOW
        self._beside = beside
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._writer: threading.Thread | None = None
        self._ended = threading.Event()
        self._supervised = False
        self.state: RoundState | None = None
        self._unanswered: dict[int, set[str]] = {}  # the ids of messages, by node
        self._usual: dict[Phase, float] = {}

    def begin(self, phase: Phase, number: int, rounds: int, asked: Iterable[int] = ()) -> None:
        """Begin a phase of round `number` of `rounds`; `asked` are the nodes that will get a message."""
        with self._lock:
            self._supervised = True
            self._unanswered = {}
            self._enter(phase, number, rounds, asked)

    def note_sent(self, sent: Sequence[Metadata]) -> None:
        """Learn what was sent."""
        with self._lock:
            nodes = {metadata.dst_node_id for metadata in sent}
            begins = not self._supervised and (self.state is None or bool(self.state.answered))
            if begins:  # what these nodes have not answered from before is no longer waited for
                self._unanswered = {node: ids for node, ids in self._unanswered.items() if node not in nodes}
            for metadata in sent:
                self._unanswered.setdefault(metadata.dst_node_id, set()).add(metadata.message_id)
            if begins and sent:
                self._enter(Phase.of(sent[0].message_type), 0, 0, self._unanswered)
            elif self.state:
                asked = dict.fromkeys([*self.state.asked, *map(str, self._unanswered)])
                answers = {node: after for node, after in self.state.answered.items() if int(node) not in nodes}
                self._set(replace(self.state, asked=tuple(asked), answered=answers))

    def note_answer(self, sent: Metadata, *, failed: bool) -> None:
        """Learn that a message was answered, perhaps with an error. A node has answered when all of its are."""
        with self._lock:
            node, state = sent.dst_node_id, self.state
            waiting = self._unanswered.get(node)
            if state is None or waiting is None or sent.message_id not in waiting:
                return
            waiting.discard(sent.message_id)
            failures = (*state.failed, str(node)) if failed and str(node) not in state.failed else state.failed
            answers = state.answered
            if not waiting:
                del self._unanswered[node]
                answers = {**answers, str(node): round(time.time() - state.began, 3)}
            self._set(replace(state, answered=answers, failed=failures))

    def close(self) -> None:
        """Remove the file at the end of the run."""
        self._ended.set()
        self._changed.set()
        if self._writer:
            self._writer.join()

    def _enter(self, phase: Phase, number: int, rounds: int, asked: Iterable[int]) -> None:
        if self.state and self.state.answered:
            self._usual[self.state.phase] = max(self.state.answered.values())
        nodes = tuple(map(str, asked))
        self._set(RoundState(phase, number, rounds, time.time(), nodes, usual=self._usual.get(phase)))

    def _set(self, state: RoundState) -> None:
        self.state = state
        if self._writer is None:
            self._writer = threading.Thread(target=self._write_changes, name="live round", daemon=True)
            self._writer.start()
        self._changed.set()

    def _write_changes(self) -> None:
        while not self._ended.is_set():
            self._changed.wait()
            self._changed.clear()
            with self._lock:
                state = self.state
            assert state is not None  # noqa: S101 - the thread starts with the first one
            with suppress(OneflowerError):  # the next write may succeed; the run is not worse without
                write_atomic(self._path, json.dumps(state.entry), SHARED, synced=False)
            self._beside()
            self._ended.wait(_INTERVAL)
        with suppress(OSError):
            self._path.unlink()
