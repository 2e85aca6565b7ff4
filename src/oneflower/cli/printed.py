"""Shows what an app prints, as it comes, between the rounds; where it prints very much, the last lines of it."""

from __future__ import annotations

from collections import deque

from oneflower.cli.screen import say

_WITHOUT_ROUNDS = 200  # lines that are shown as they come before the first round
_BETWEEN_ROUNDS = 20
_LAST = 12


class Printed:
    """What an app has printed since the last round.

    A traceback is held back: if the run fails, its error has it, and otherwise it is shown after the round.
    """

    def __init__(self) -> None:
        from oneflower.cloud.app_output import AppOutput, begins_traceback  # noqa: PLC0415 - as in `training`

        self._output = AppOutput()
        self._begins_traceback = begins_traceback
        self._begin(_WITHOUT_ROUNDS)

    def _begin(self, room: int) -> None:
        self._room = room
        self._late, self._traceback = _Last(), _Last()
        self._traced = False

    def add(self, text: str) -> None:
        """Take a piece of the run's log."""
        self._show(self._output.add(text))

    def _show(self, lines: list[str]) -> None:
        for line in lines:
            # A progress bar returns to the beginning of its line, again and again: what is seen is its last state.
            text = line.rstrip("\r").rpartition("\r")[2]
            self._traced = self._traced or self._begins_traceback(text)
            if self._traced:
                self._traceback.add(text)
            elif self._room:
                self._room -= 1
                _say(text)
            else:
                self._late.add(text)

    def end_round(self) -> None:
        """Show what is late, before the row of a round."""
        self._late.show()
        self._traceback.show()
        self._begin(_BETWEEN_ROUNDS)

    def end(self, *, failed: bool) -> None:
        """Show what is late, at the end of the run."""
        self._show(self._output.end())
        self._late.show()
        if not failed:
            self._traceback.show()


class _Last:
    """The last of some lines, and how many there were."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_LAST)
        self._count = 0

    def add(self, line: str) -> None:
        self._lines.append(line)
        self._count += 1

    def show(self) -> None:
        if more := self._count - len(self._lines):
            say(f"  | ... {more} more lines (`--log` shows all)" if more > 1 else "  | ... 1 more line")
        for line in self._lines:
            _say(line)


def _say(line: str) -> None:
    say(f"  | {line}")
