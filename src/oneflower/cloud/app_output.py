"""What an app itself prints, told apart from Flower's log, which is in the same text."""

from __future__ import annotations

from enum import Enum, auto

from oneflower.cloud.wording import begins_traceback, is_of_flowers_log

__all__ = ["AppOutput", "Shown", "begins_traceback", "last_lines"]

_BEFORE_A_TRACEBACK = 5
_AT_THE_END = 12


class Shown(Enum):
    """What a person sees as it comes: all of a run's log, what the app prints without tracebacks, or nothing."""

    ALL = auto()
    PRINTED = auto()
    NOTHING = auto()


class AppOutput:
    """The complete lines that an app printed, out of pieces of its run's log."""

    def __init__(self) -> None:
        self._rest = ""
        self._in_log = False  # the line before is of Flower's log, and lines that are indented go on with it

    def add(self, text: str) -> list[str]:
        """Return the app's lines that this piece of the log completes."""
        *lines, self._rest = (self._rest + text).split("\n")
        return [line for line in lines if self._is_the_apps(line)]

    def end(self) -> list[str]:
        """Return the app's last line if it has no end."""
        return self.add("\n") if self._rest else []

    def _is_the_apps(self, line: str) -> bool:
        if is_of_flowers_log(line):
            self._in_log = True
        elif line.strip() and not line[0].isspace():
            self._in_log = False
        return not self._in_log


def last_lines(log: str, seen: Shown = Shown.NOTHING) -> list[str]:
    """Return the last lines that an app printed, and the end of its traceback, out of a log: what was not seen yet."""
    if seen is Shown.ALL:
        return []
    output = AppOutput()
    lines = [line for line in output.add(log) + output.end() if line.strip()]
    cut = next((number for number, line in enumerate(lines) if begins_traceback(line)), len(lines))
    before, traceback = lines[:cut], lines[cut:][-_AT_THE_END:]
    if seen is Shown.PRINTED:
        return traceback
    return before[-_BEFORE_A_TRACEBACK if traceback else -_AT_THE_END :] + traceback
