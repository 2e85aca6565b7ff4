"""One run, sent to the tools that were asked for. A tool that fails never makes the run fail."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from oneflower.events import Note, RunBegan, ignore
from oneflower.tracking.mlflow import MlflowTracker
from oneflower.tracking.tensorboard import LOCAL, TensorboardTracker
from oneflower.tracking.values import first_line
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.run_state import COMPLETED

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from oneflower.cloud import RunResult
    from oneflower.events import Event, Notify
    from oneflower.tracking.tracker import Tracker
    from oneflower_appliance.runs import RunRow

_TOOLS = ("mlflow", "tensorboard")


def open_tracker(where: str, register: str = "") -> Tracker:
    """Return what `where` names: TOOL or TOOL:PLACE, such as mlflow, mlflow:URI or tensorboard:FOLDER.

    Raises `OneflowerError` if it cannot be used.
    """
    tool, _, place = where.partition(":")
    if tool not in _TOOLS:
        raise OneflowerError(
            f"{tool!r} is not a tool for tracking.",
            "Give mlflow, mlflow:URI, tensorboard or tensorboard:FOLDER.",
            ExitCode.USAGE,
        )
    return MlflowTracker(place, register) if tool == "mlflow" else TensorboardTracker(Path(place) if place else LOCAL)


class Tracking:
    """A run of a federation in the tools `trackers`. `notify` is told what cannot be sent, and where it can be seen."""

    def __init__(self, trackers: dict[str, Tracker], federation: str, notify: Notify = ignore) -> None:
        self._trackers = trackers
        self._federation = federation
        self._notify = notify
        self._run = ""
        self.incomplete: list[str] = []  # tools to which a run could not be sent

    @classmethod
    def to(cls, *places: str, federation: str, register: str = "", notify: Notify = ignore) -> Self:
        """Open the tools that `places` name. Raises `OneflowerError` if one cannot be used."""
        if register and not any(place.partition(":")[0] == "mlflow" for place in places):
            raise OneflowerError(
                f"The model cannot be registered as {register!r} without MLflow.", "Track it with mlflow, too.",
                ExitCode.USAGE,
            )  # fmt: skip
        return cls({place: open_tracker(place, register) for place in dict.fromkeys(places)}, federation, notify)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        if kind is not None:
            self._all(lambda tracker: tracker.fail())

    def during(self, train: Callable[..., RunResult]) -> Callable[..., RunResult]:
        """Return `train` (`Federation.run` or `resume`), so that each round is sent as it ends, and then the rest."""

        def tracked(
            *arguments: Any, on_row: Callable[[RunRow], None] | None = None, notify: Notify | None = None, **more: Any
        ) -> RunResult:
            def row(ended: RunRow) -> None:
                if on_row:
                    on_row(ended)
                self._add(ended)

            def tell(event: Event) -> None:
                if notify:
                    notify(event)
                if isinstance(event, RunBegan):
                    self._begin(event.run)

            result = train(*arguments, on_row=row, notify=tell, **more)
            self._finish(result)
            return result

        return tracked

    def send(self, result: RunResult, outcome: str = COMPLETED) -> None:
        """Send a run as a whole, with how it ended or what it is doing. To send it again does no harm."""
        self._run = ""
        self._begin(result.id)
        for row in result.rows:
            self._add(row)
        self._finish(result, outcome)

    def _begin(self, run: str) -> None:
        if not self._run:  # the run that resumes a lost one continues its curves
            self._run = run
            self._all(lambda tracker: tracker.begin(self._federation, run))

    def _add(self, row: RunRow) -> None:
        self._all(lambda tracker: tracker.add(row))

    def _finish(self, result: RunResult, outcome: str = COMPLETED) -> None:
        self._all(lambda tracker: self._notify(Note(f"tracked: {tracker.finish(result, outcome)}")))

    def _all(self, act: Callable[[Tracker], None]) -> None:
        for place, tracker in list(self._trackers.items()):
            try:
                act(tracker)
            except Exception as error:  # noqa: BLE001 - whatever the library raises, the run continues
                del self._trackers[place]
                reason = first_line(error).rstrip(".")
                tool = place.partition(":")[0]
                self.incomplete.append(tool)
                again = f"oneflower track {self._federation} --run {self._run} --to {tool}"
                self._notify(Note(f"this run is not tracked in full: {reason}. Send it again later: {again}"))
