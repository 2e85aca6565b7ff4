"""What a SuperLink's agent does about runs: it starts the one that the form asks for, resumes lost ones, and reports.

The agent remembers nothing about runs. It reads each time from the SuperLink's own state which runs were started and
resumed. So an agent that restarts neither starts a run twice nor forgets one.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from oneflower_appliance import attributes
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.node_findings import findings_in
from oneflower_appliance.parameters import PARAMETERS
from oneflower_appliance.progress import RunProgress
from oneflower_appliance.run_folder import GIVEN_UP, METRICS, MODEL, Origin
from oneflower_appliance.run_state import COMPLETED, FAILED, FINISHED, RunState
from oneflower_appliance.runs import lines_of, read_rows, shortcoming
from oneflower_appliance.settings import run_config_keys
from oneflower_appliance.use_cases import NO_USE_CASE, publisher_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from oneflower_appliance.agent.link import SuperLinkApi
    from oneflower_appliance.agent.onegate import OneGate
    from oneflower_appliance.node_findings import Finding
    from oneflower_appliance.runs import RunRow
    from oneflower_appliance.settings import Settings

log = logging.getLogger(__name__)

_FRUITLESS = 3  # attempts in a row without a new round, after which a run is given up
_BETWEEN_REPORTS = 5.0
_URGENT = {attributes.RUN_ID.name, attributes.RUN_STATUS.name, attributes.RUN_WAITING.name}


class RunKeeper:
    """Looks after the runs of one SuperLink, which write into the folders of `runs`."""

    def __init__(self, api: SuperLinkApi, settings: Settings, runs: Path) -> None:
        self._api = api
        self._settings = settings
        self._runs = runs
        self.runs: list[RunState] = []  # all runs, as they were at the last look
        self._given_up: set[str] = set()  # even if that cannot be written to the folder
        self._wanted: tuple[str, str] | None = None
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

    def look(self, onegate: OneGate | None, nodes: Sequence[int]) -> dict[str, str]:
        """Do what is due now, and return the attributes to publish.

        Progress is reported at most every five seconds, with all rounds since. The beginning and end of a run are
        reported at once.

        Raises `OneGateError`, `OSError` when the SuperLink does not answer, and `ValueError` when it refuses.
        """
        runs = self._api.runs()
        changed = self._resume_lost(runs) or self._begin(runs, onegate, nodes)
        if changed:
            runs = self._api.runs()
        self._going = any(not run.finished for run in runs)
        self.runs = runs
        newest = runs[-1] if runs else self._refused
        return self._report(newest) if newest else {}

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
        if self._settings.flag("FL_CHECKPOINT_ENABLED") or run.app == self._app or self._is_trained(run.id):
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

    @property
    def _app(self) -> str:
        return publisher_name(self._wanted[0]) if self._wanted else ""

    def _begin(self, runs: Sequence[RunState], onegate: OneGate | None, nodes: Sequence[int]) -> bool:
        """Start the run that the form asks for, once, when enough nodes are online."""
        if self._wanted is None and onegate is not None and nodes:
            published = onegate.attributes(nodes[0])
            if attributes.READY.is_set(published):
                use_case = attributes.USE_CASE.read(published) or NO_USE_CASE
                self._wanted = (use_case, attributes.FRAMEWORK.read(published))
        if self._wanted is None or self._wanted[0] == NO_USE_CASE or any(run.app == self._app for run in runs):
            return False
        if self._api.nodes_online() < self._settings.integer("FL_MIN_AVAILABLE_CLIENTS"):
            return False
        use_case, framework = self._wanted
        config = {
            key: PARAMETERS[name].parse(self._settings[name]) for name, key in run_config_keys(self._settings).items()
        }
        try:
            number = self._api.start(use_case, config | {PARAMETERS["ML_FRAMEWORK"].key: framework})
        except ValueError as error:
            log.error("%s cannot be started, as the form asks (FL_USE_CASE): %s", use_case, error)  # noqa: TRY400
            self._refused = RunState("-", self._app, FINISHED, FAILED, str(error))
            self._wanted = (NO_USE_CASE, "")
            return False
        log.info("Run %s: %s, as the form asks (FL_USE_CASE).", number, use_case)
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
