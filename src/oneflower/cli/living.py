"""The line that says what a run does: between two rounds on a terminal, and seldom elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from oneflower.printable import in_a_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oneflower_appliance.round_state import RoundState
    from oneflower_appliance.runs import RunRow

SILENCE = 15.0  # seconds after which somebody who reads a log would wonder
_BETWEEN = " · "
_FEW = 3  # nodes whose names are worth more than the time that is left
_LONGEST = 200  # characters of a line that stays


class LivingLine:
    """What a run does now, in the words of a line, from its rounds and from what the SuperLink says in between."""

    def __init__(self) -> None:
        self._rows: list[RunRow] = []
        self._state: RoundState | None = None
        self._heard = self._since = time.monotonic()
        self._exchanged = ""
        self._told: set[object] = set()

    def end_round(self, row: RunRow) -> None:
        """Learn that a round has ended."""
        self._rows.append(row)
        self._since = time.monotonic()

    def hear(self, state: RoundState) -> None:
        """Learn what the run does now."""
        self._state, self._heard = state, time.monotonic()

    def exchanged(self, text: str) -> None:
        """Learn how many messages an app without a strategy has exchanged."""
        self._exchanged = text

    def text(self, width: int) -> str:
        """Return the longest line that is at most so many characters wide, or the shortest that says anything."""
        line = ""
        for parts in self._versions():
            line = in_a_line(_BETWEEN.join(filter(None, parts)))
            if len(line) <= width:
                break
        return line

    def due(self) -> str:
        """Return the line if it is time for it where lines stay: a phase takes long, or a node is late in it.

        Each is told once. An empty text means that it is not.
        """
        seconds, state = self._spent, self._current
        if min(seconds, time.monotonic() - self._since) < SILENCE:
            return ""
        phase = state.began if state else len(self._rows)
        key = (phase, bool(state and state.late(seconds)))
        if key in self._told:
            return ""
        self._told |= {key, (phase, False)}
        return self.text(_LONGEST)

    @property
    def _current(self) -> RoundState | None:
        """What the run does, unless that is of a round that has ended since."""
        over = self._rows[-1].round if self._rows else 0
        return self._state if self._state and (not self._state.rounds or self._state.round > over) else None

    @property
    def _spent(self) -> float:
        """For how many seconds it has done so."""
        now = time.monotonic()
        return now - self._heard + self._state.seconds if self._current and self._state else now - self._since

    def _versions(self) -> Iterator[tuple[str, ...]]:
        """Yield the parts of the line, ever fewer."""
        seconds, state = self._spent, self._current
        heading = (state.heading if state else "") or self._heading
        if state is None:
            yield heading, f"{seconds:.0f} s", self._left
            yield heading, f"{seconds:.0f} s"
            return
        late = state.late(seconds)
        doing = f"{state.doing(seconds)} {seconds:.0f} s"
        count = state.count if state.rounds else ""  # which the messages of an app without a strategy have already
        left = "" if late or state.waits(seconds) else self._left  # nobody knows for how long
        for most in (5, 3, 2, 1):
            yield heading, doing, count, state.waited_for(seconds, most), left
        if late or len(state.missing) <= _FEW:
            yield heading, doing, count, state.waited_for(seconds, _FEW)
            yield heading, doing, state.waited_for(seconds, _FEW)
        for more in ((state.waited_for(seconds, 1),) if late else (count, left), (count,)):
            yield heading, doing, *more
        yield heading, doing

    @property
    def _heading(self) -> str:
        if not self._rows:
            return self._exchanged or "first round"
        last = self._rows[-1]
        return f"round {last.round + 1}/{last.rounds}" if last.round < last.rounds else "after the last round"

    @property
    def _left(self) -> str:
        from oneflower.cloud.pace import duration, seconds_left  # noqa: PLC0415 - costs time that --help need not spend

        found = seconds_left(self._rows, time.monotonic() - self._since)
        return (
            f"about {duration(found)} left"
            if found is not None and self._rows[-1].round < self._rows[-1].rounds
            else ""
        )
