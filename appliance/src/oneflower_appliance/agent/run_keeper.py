"""What a SuperLink's agent does about runs: it starts the one that the form asks for, resumes lost ones, and reports.

It reads each time from the SuperLink's own state which runs were started and resumed. So an agent that restarts neither
starts a run twice nor forgets one. With FL_SCHEDULE, the form's run is started again at planned times (`scheduler`).
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING

from oneflower_appliance import attributes
from oneflower_appliance.agent.form_run import FormRun
from oneflower_appliance.agent.scheduler import Scheduler
from oneflower_appliance.agent.tls import current_time
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.node_findings import findings_in
from oneflower_appliance.progress import RunProgress
from oneflower_appliance.run_folder import GIVEN_UP, METRICS, MODEL, Origin
from oneflower_appliance.run_state import COMPLETED, FAILED, FINISHED, RunState
from oneflower_appliance.runs import lines_of, read_rows, shortcoming

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path

    from oneflower_appliance.agent.link import SuperLinkApi
    from oneflower_appliance.agent.onegate import OneGate
    from oneflower_appliance.node_findings import Finding
    from oneflower_appliance.runs import RunRow
    from oneflower_appliance.values import Settings

log = logging.getLogger(__name__)

_FRUITLESS = 3  # attempts in a row without a new round, after which a run is given up
_BETWEEN_REPORTS = 5.0
_URGENT = {attributes.RUN_ID.name, attributes.RUN_STATUS.name, attributes.RUN_WAITING.name}


class RunKeeper:
    """Looks after the runs of one SuperLink, which write into the folders of `runs`."""

    def __init__(
        self, api: SuperLinkApi, settings: Settings, runs: Path, clock: Callable[[], datetime] = current_time
    ) -> None:
        self._api = api
        self._settings = settings
        self._runs = runs
        self.runs: list[RunState] = []  # all runs, as they were at the last look
        self._given_up: set[str] = set()  # even if that cannot be written to the folder
        self._form = FormRun(api, settings)
        self._scheduler = Scheduler(self._form, settings, runs, clock) if settings.text("FL_SCHEDULE") else None
        self._refused: RunState | None = None
        self._reported: dict[str, str] = {}
        self._reported_at = 0.0
        self._going = False
        self._read: tuple[tuple[str, float], list[RunRow]] = (("", 0.0), [])
        self._findings: tuple[Finding, ...] = ()  # as of the rounds that were read last
        self._damaged: set[str] = set()  # runs with rounds that cannot be read, which was said

    @property
    def following(self) -> bool:
        """Whether there is a run whose end is to be reported at once."""
        return self._going

    def report_again(self) -> None:
        """Report everything at the next look, because the last report could not be published."""
        self._reported = {}
        if self._scheduler:
            self._scheduler.report_again()

    @property
    def pause(self) -> float:
        """Seconds until a run is planned to start."""
        return self._scheduler.pause if self._scheduler else math.inf

    @property
    def kept(self) -> set[str]:
        """The runs to keep, however old they are."""
        return {self._scheduler.model} if self._scheduler else set()

    def look(self, onegate: OneGate | None, nodes: Sequence[int]) -> dict[str, str]:
        """Do what is due now, and return the attributes to publish.

        Progress is reported at most every five seconds, with all rounds since. The beginning and end of a run are
        reported at once.

        Raises `OneGateError`, `OSError` when the SuperLink does not answer, and `ValueError` when it refuses.
        """
        runs = self._api.runs()
        scheduler = self._scheduler
        if self._resume_lost(runs) or self._begin(runs, onegate, nodes) or (scheduler and scheduler.look(runs)):
            runs = self._api.runs()
        self._going = any(not run.finished for run in runs)
        self.runs = runs
        newest = runs[-1] if runs else self._refused
        return (scheduler.news() if scheduler else {}) | (self._report(newest) if newest else {})

    def _resume_lost(self, runs: Sequence[RunState]) -> bool:
        """Resume every lost run that was not resumed yet. Returns whether there was one."""
        resumed = False
        for run in runs:
            if not run.lost or run.resumed_as or run.given_up or run.id in self._given_up:
                continue
            if reason := self._why_not_resumed(run):
                self._give_up(run, reason)
                continue
            try:
                successor = self._api.resume(run.id)
            except ValueError as error:
                self._give_up(run, f"It cannot be resumed: {error}")
                continue
            resumed = True
            log.warning("Run %s was lost; run %s resumes from its last checkpoint.", run.id, successor)
        return resumed

    def _give_up(self, run: RunState, reason: str) -> None:
        """Record, for clients that follow a run, that it is not resumed, and why."""
        log.warning("Run %s was lost. %s %s", run.id, run.why_lost or run.details, reason)
        self._given_up.add(run.id)
        try:
            write_atomic(self._runs / run.id / GIVEN_UP, f"{reason}\n", SHARED)
        except OneflowerError as error:
            log.warning("%s", error.sentence)

    def _why_not_resumed(self, run: RunState) -> str:
        """Return why a lost run must not be resumed, empty if it can be."""
        if self._fruitless(run.id) >= _FRUITLESS:
            return f"It was lost {_FRUITLESS} times in a row without a new round; something ends it every time."
        if self._settings.flag("FL_CHECKPOINT_ENABLED") or run.app == self._form.app or self._is_trained(run.id):
            return ""
        return "It has no checkpoints; with FL_CHECKPOINT_ENABLED=YES it would be resumed."

    def _fruitless(self, number: str) -> int:
        """Return how many attempts at a run, this one being the last, have ended without a new round in a row."""
        rounds = [_last_round(folder) for folder in Origin.line(self._runs / number)]
        return next(
            (index for index, last in enumerate(rounds) if last > max(rounds[index + 1 :], default=0)), len(rounds)
        )

    def _is_trained(self, number: str) -> bool:
        """Whether all rounds were trained, and only the evaluation of the last one is missing."""
        line = Origin.line(self._runs / number)
        return any((folder / MODEL).exists() for folder in line)  # it is written then

    def _begin(self, runs: Sequence[RunState], onegate: OneGate | None, nodes: Sequence[int]) -> bool:
        """Start the run that the form asks for, once, when enough nodes are online."""
        self._form.learn(onegate, nodes)
        app = self._form.app
        if not app or self._refused or any(run.app == app for run in runs) or self._form.lacks_nodes():
            return False
        try:
            number = self._form.start()
        except ValueError as error:
            log.error("%s cannot be started, as the form asks (FL_USE_CASE): %s", self._form.use_case, error)  # noqa: TRY400
            self._refused = RunState("-", app, FINISHED, FAILED, str(error))
            return False
        log.info("Run %s: %s, as the form asks (FL_USE_CASE).", number, self._form.use_case)
        return True

    def _report(self, run: RunState) -> dict[str, str]:
        """Return what has changed since the last report, or nothing if that can wait."""
        rows, model = self._rows(run.id), self._runs / run.id / MODEL
        error = shortcoming(rows) if run.sub_status == COMPLETED else run.details if run.sub_status else ""
        path = str(model) if model.exists() else ""
        progress = RunProgress(
            run.id, run.app, run.outcome, error=error, model=path, findings=self._findings, waiting=run.waiting
        )
        report = progress.after(rows).published
        changes = {key: value for key, value in report.items() if self._reported.get(key) != value}
        recent = time.monotonic() - self._reported_at < _BETWEEN_REPORTS
        if not changes or (recent and not _URGENT & set(changes)):
            return {}
        self._reported, self._reported_at = report, time.monotonic()
        return changes

    def _rows(self, number: str) -> list[RunRow]:
        """Return the rounds of a run so far, read again only when there are more."""
        path = self._runs / number / METRICS
        try:
            state = (number, path.stat().st_mtime)
            if self._read[0] != state:
                rows, damage = read_rows(lines_of(path))
                if damage and number not in self._damaged:
                    log.warning("Run %s: %s", number, damage)
                    self._damaged.add(number)
                self._read = (state, rows)
                last = rows[-1].round if rows else 0
                self._findings = tuple(findings_in(self._runs / number, last))
        except OSError:
            self._findings = ()
            return []
        return self._read[1]


def _last_round(folder: Path) -> int:
    """Return the last round that has a row, or 0."""
    try:
        rows, _ = read_rows(lines_of(folder / METRICS))
    except OSError:
        return 0
    return rows[-1].round if rows else 0
