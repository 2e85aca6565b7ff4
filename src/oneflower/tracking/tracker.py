"""What each tool is for us: a place to which one run is sent, round by round and at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from oneflower.cloud import RunResult
    from oneflower_appliance.runs import RunRow


class Tracker(Protocol):
    """One run in one tool. Methods may raise whatever the tool's library raises."""

    def begin(self, federation: str, run: str) -> None:
        """Begin a run of a federation, or continue the same run: nothing is there twice."""

    def add(self, row: RunRow) -> None:
        """Send a round that has just ended."""

    def finish(self, result: RunResult, outcome: str) -> str:
        """Send all else of a run, with how it ended or what it is doing (`RunState.outcome`).

        Returns where to look at it.
        """

    def fail(self) -> None:
        """Note that the run failed or was stopped."""
