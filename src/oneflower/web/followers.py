"""Follows the runs that somebody watches, to their end, and keeps their rounds and the end of their logs."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oneflower.api import Federation
from oneflower.events import Exchanged, InRound, Note
from oneflower.web.curves import Curves
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.run_state import COMPLETED, FAILED
from oneflower_appliance.runs import list_faults

if TYPE_CHECKING:
    from oneflower.events import Event
    from oneflower.web.background import Background
    from oneflower.web.signal import Signal
    from oneflower_appliance.round_state import RoundState
    from oneflower_appliance.runs import RunRow

log = logging.getLogger(__name__)
_AT_ONCE = 16
_AGAIN = 5.0  # seconds after which a run is followed again that could not be followed to its end
_LINES = 2000  # of the log


@dataclass
class Followed:
    """What is known of one run. `doing` is what it did when it was `heard`, `exchanged` how many messages there were.

    `error` is why it failed or cannot be followed. Once it is `over`, `outcome` is how it ended, in Flower's word, and
    empty if that is not known.
    """

    run: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LINES))
    written: int = 0  # lines, all together
    curves: Curves = field(default_factory=Curves)
    notes: tuple[str, ...] = ()
    doing: RoundState | None = None
    heard: float = 0.0
    exchanged: str = ""
    error: str = ""
    outcome: str = ""
    over: bool = False
    ended: float = 0.0
    _rest: str = ""

    def row(self, row: RunRow) -> None:
        """Keep a round."""
        self.rows.append(as_data(row))
        self.doing = None

    def log(self, text: str) -> None:
        """Keep a piece of the log."""
        *lines, self._rest = (self._rest + text).split("\n")
        self.lines.extend(lines)
        self.written += len(lines)

    def notify(self, event: Event) -> None:
        """Keep what a person should know."""
        match event:
            case Note(text):
                self.notes = (*self.notes[-9:], text)
            case Exchanged(text):
                self.exchanged = text
            case InRound(state):
                self.doing, self.heard = state, time.monotonic()

    @property
    def now(self) -> str:
        """What it does at this moment, and for which nodes it waits; empty if that is not known, or it is over."""
        if self.over or self.doing is None:
            return "" if self.over or self.rows else self.exchanged
        seconds = self.doing.seconds + time.monotonic() - self.heard
        doing = self.doing
        said = (doing.heading, doing.doing(seconds), f"{seconds:.0f} s", doing.count, doing.waited_for(seconds))
        return ", ".join(filter(None, said))

    def since(self, written: int) -> list[str]:
        """Return the lines of the log after so many; the last of them if there are too many."""
        lines = list(self.lines)
        return lines[max(0, len(lines) - max(0, self.written - written)) :]


class Followers:
    """The runs that are followed, and those that were: the last ones are kept."""

    def __init__(self, background: Background, signal: Signal) -> None:
        self._background = background
        self._signal = signal
        self._threads = ThreadPoolExecutor(_AT_ONCE, "run")
        self._lock = threading.Lock()
        self._runs: dict[tuple[int, str], Followed] = {}

    def follow(self, number: int, run: str) -> Followed:
        """Return what is known of a run of the federation `number`, and follow it if it is not followed yet."""
        with self._lock:
            found = self._runs.get((number, run))
            if found is None or (found.over and not found.outcome and time.monotonic() - found.ended > _AGAIN):
                found = Followed(run)
                self._runs[number, run] = found
                self._threads.submit(self._follow, number, found)
                for key in [key for key, old in self._runs.items() if old.over][:-_AT_ONCE]:
                    del self._runs[key]
            return found

    def _follow(self, number: int, found: Followed) -> None:
        def heard(take: Any) -> Any:
            def receive(value: Any) -> None:
                take(value)
                self._signal.notify()

            return receive

        try:
            federation = Federation.find(self._background.cloud(), str(number))
            federation.follow(
                found.run,
                on_row=heard(found.row),
                on_reports=heard(found.curves.add),
                on_log=heard(found.log),
                notify=heard(found.notify),
            )
            found.outcome = COMPLETED
        except OneflowerError as error:
            found.error = str(error)
            found.outcome = self._outcome(number, found.run)
        except Exception as error:
            log.exception("a defect in following a run")
            found.error = f"A defect in oneflower: {type(error).__name__}: {error}"
        found.over, found.ended = True, time.monotonic()
        self._signal.notify()

    def _outcome(self, number: int, run: str) -> str:
        """Return how a run ended that did not succeed. An error can also be one of the way to its SuperLink."""
        try:
            runs = Federation.find(self._background.cloud(), str(number)).runs()
        except OneflowerError:
            return ""
        outcome = next((state.outcome for state in runs if state.id == run and state.finished), "")
        return FAILED if outcome == COMPLETED else outcome  # of Flower, for which it need not have trained anything


def as_data(row: RunRow) -> dict[str, Any]:
    """Return a round as data for JSON: what is not known, or no number, is None."""
    names = ("round", "rounds", "seconds", "nodes", "asked", "loss", "accuracy", "train_loss")
    return {name: _number(getattr(row, name)) for name in names} | {"faults": list_faults(row.faults)}


def _number(value: float | None) -> float | None:
    return value if value is None or abs(value) < float("inf") else None
