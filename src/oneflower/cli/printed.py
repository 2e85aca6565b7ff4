"""Shows the last lines of what an app printed under the table of its rounds."""

from __future__ import annotations

from collections import deque

from oneflower.cli.screen import say

_UNDER_A_TABLE = 5
_WITHOUT_ONE = 200


class Printed:
    """What an app printed so far."""

    def __init__(self) -> None:
        from oneflower.cloud.app_output import AppOutput  # noqa: PLC0415 - as in `training`

        self._output = AppOutput()
        self._last: deque[str] = deque(maxlen=_WITHOUT_ONE)
        self._count = 0

    def add(self, text: str) -> None:
        """Take a piece of the run's log."""
        self._keep(self._output.add(text))

    def _keep(self, lines: list[str]) -> None:
        self._count += len(lines)
        # A progress bar returns to the beginning of its line, again and again: what is seen is its last state.
        self._last += [line.rstrip("\r").rpartition("\r")[2] for line in lines]

    def show(self, *, table: bool) -> None:
        """Print the last lines: a few if there is a `table` of rounds, otherwise as many as are kept."""
        self._keep(self._output.end())
        lines = list(self._last)[-_UNDER_A_TABLE if table else 0 :]
        if not lines:
            return
        told = f"{self._count} lines" if self._count > 1 else "1 line"
        more = f", of which these are the last {len(lines)} (`--log` shows all)" if self._count > len(lines) else ""
        say(f"  the app printed {told}{more}:")
        for line in lines:
            say(f"  | {line}")
