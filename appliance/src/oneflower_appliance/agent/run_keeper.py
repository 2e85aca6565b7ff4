"""What a SuperLink's agent does about runs: starts the one that the form asks for, has lost ones go on, tells of them.

Nothing of this is remembered by the agent: what was started and what took whose place is read from the SuperLink's own
state each time, so an agent that is started again neither starts a run twice nor forgets one.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any

from oneflower_appliance import attributes
from oneflower_appliance.attributes import NOTHING
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.parameters import PARAMETERS
from oneflower_appliance.run_folder import METRICS, MODEL, Origin
from oneflower_appliance.runs import RunRow, pack, shortcoming
from oneflower_appliance.settings import run_config_keys
from oneflower_appliance.use_cases import NO_USE_CASE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from oneflower_appliance.agent.link import SuperLinkApi
    from oneflower_appliance.agent.onegate import OneGate
    from oneflower_appliance.settings import Settings

log = logging.getLogger(__name__)

_PUBLISHER = "oneflower"
_FRUITLESS = 3  # attempts in a row without a new round, after which a run is given up
_BETWEEN_NEWS = 5.0
_LONGEST_ERROR = 500
_NUMBERS = (attributes.RUN_ROUND, attributes.RUN_ROUNDS, attributes.RUN_NODES, attributes.RUN_FAILURES,
            attributes.RUN_SECONDS, attributes.RUN_LOSS, attributes.RUN_ACCURACY)  # fmt: skip
_PROGRESS = (*_NUMBERS, attributes.RUN_ROWS, attributes.RUN_FAULT)
_LATEST = 10  # rounds, told together, so that whoever looks now and then misses none
_FINISHED = "finished"


class RunKeeper:
    """Looks after the runs of one SuperLink, whose runs leave what they leave in `runs`."""

    def __init__(self, door: SuperLinkApi, settings: Settings, runs: Path) -> None:
        self._door = door
        self._settings = settings
        self._runs = runs
        self.runs: list[dict[str, Any]] = []  # all, as they were when it last looked
        self._given_up: set[str] = set()  # also where it cannot be written down
        self._wanted: tuple[str, str] | None = None
        self._refused: dict[str, str] | None = None
        self._told: dict[str, str] = {}
        self._told_at = 0.0
        self._going = False
        self._read: tuple[tuple[str, float], list[RunRow]] = (("", 0.0), [])

    @property
    def following(self) -> bool:
        """Whether there is a run whose end is to be told at once."""
        return self._going

    def unsaid(self) -> None:
        """Tell everything again: what `look` returned last could not be published."""
        self._told = {}

    def look(self, onegate: OneGate | None, nodes: Sequence[int]) -> dict[str, str]:
        """Do what is to be done now, and return what there is to be published.

        Progress is told at most every five seconds, with the rounds since; how a run begins and ends, at once.

        Raises `OneGateError`, `OSError` when the SuperLink does not answer, and `ValueError` when it refuses.
        """
        runs = self._door.runs()
        changed = self._rescue(runs) or self._begin(runs, onegate, nodes)
        if changed:
            runs = self._door.runs()
        self._going = any(run["status"] != _FINISHED for run in runs)
        self.runs = runs
        newest = runs[-1] if runs else self._refused
        return self._news(newest) if newest else {}

    def _rescue(self, runs: list[dict[str, Any]]) -> bool:
        """Have every run go on that was lost and that nothing took the place of."""
        lost = [
            run
            for run in runs
            if run["lost"] == "YES"
            and not run["resumed_as"]
            and not run["given_up"]
            and run["id"] not in self._given_up
        ]
        rescued = False
        for run in lost:
            if reason := self._may_not_go_on(run):
                self._give_up(run, reason)
                continue
            try:
                successor = self._door.resume(run["id"])
            except ValueError as error:
                self._give_up(run, f"It cannot go on: {error}")
                continue
            rescued = True
            log.warning("Run %s was lost; run %s goes on from its last checkpoint.", run["id"], successor)
        return rescued

    def _give_up(self, run: Mapping[str, Any], reason: str) -> None:
        """Write down for whoever follows a run that it does not go on, and why."""
        log.warning("Run %s was lost. %s %s", run["id"], run["why_lost"] or run["details"], reason)
        self._given_up.add(run["id"])
        try:
            write_atomic(self._runs / run["id"] / Origin.GIVEN_UP, f"{reason}\n", SHARED)
        except OneflowerError as error:
            log.warning("%s", error.sentence)

    def _may_not_go_on(self, run: Mapping[str, Any]) -> str:
        """Return why a run that was lost may not go on, nothing where it may."""
        if self._fruitless(run["id"]) >= _FRUITLESS:
            return f"It was lost {_FRUITLESS} times in a row without a new round; something ends it again and again."
        if self._settings.flag("FL_CHECKPOINT_ENABLED") or run["app"] == self._app or self._is_trained(run["id"]):
            return ""
        return "It has no checkpoints; with FL_CHECKPOINT_ENABLED=YES it would go on."

    def _fruitless(self, number: str) -> int:
        """Return how many attempts at a run, this one being the last, have ended without a new round in a row."""
        rounds = [_last_round(folder) for folder in Origin.line(self._runs / number)]
        return next(
            (index for index, last in enumerate(rounds) if last > max(rounds[index + 1 :], default=0)), len(rounds)
        )

    def _is_trained(self, number: str) -> bool:
        """Whether all rounds were trained, so that only the evaluation of the last one was left to do."""
        line = Origin.line(self._runs / number)
        return any((folder / MODEL).exists() for folder in line)  # which is written then

    @property
    def _app(self) -> str:
        return f"{_PUBLISHER}/{self._wanted[0]}" if self._wanted else ""

    def _begin(self, runs: list[dict[str, Any]], onegate: OneGate | None, nodes: Sequence[int]) -> bool:
        """Start the run that the form asks for, once, when enough nodes are online."""
        if self._wanted is None and onegate is not None and nodes:
            published = onegate.attributes(nodes[0])
            if attributes.READY.is_set(published):
                use_case = attributes.USE_CASE.read(published) or NO_USE_CASE
                self._wanted = (use_case, attributes.FRAMEWORK.read(published))
        if self._wanted is None or self._wanted[0] == NO_USE_CASE or any(run["app"] == self._app for run in runs):
            return False
        if self._door.nodes_online() < self._settings.integer("FL_MIN_AVAILABLE_CLIENTS"):
            return False
        use_case, framework = self._wanted
        config = {
            key: PARAMETERS[name].parse(self._settings[name]) for name, key in run_config_keys(self._settings).items()
        }
        try:
            number = self._door.start(use_case, config | {PARAMETERS["ML_FRAMEWORK"].key: framework})
        except ValueError as error:
            log.error("%s cannot be started, as the form asks (FL_USE_CASE): %s", use_case, error)  # noqa: TRY400
            self._refused = {"id": "-", "app": self._app, "status": "", "sub_status": "failed", "details": str(error)}
            self._wanted = (NO_USE_CASE, "")
            return False
        log.info("Run %s: %s, as the form asks (FL_USE_CASE).", number, use_case)
        return True

    def _news(self, run: Mapping[str, Any]) -> dict[str, str]:
        rows = self._rows(run["id"])
        news = {
            attributes.RUN_ID.name: run["id"],
            attributes.RUN_APP.name: run["app"],
            attributes.RUN_STATUS.name: run["sub_status"] or run["status"],
            attributes.RUN_ERROR.name: NOTHING,
            **self._progress(run["id"], rows),
        }
        error = shortcoming(rows) if run["sub_status"] == "completed" else run["details"] if run["sub_status"] else ""
        if error:
            news[attributes.RUN_ERROR.name] = attributes.RUN_ERROR.write(error[:_LONGEST_ERROR])
        changes = {key: value for key, value in news.items() if self._told.get(key) != value}
        urgent = {attributes.RUN_ID.name, attributes.RUN_STATUS.name} & set(changes)
        if not changes or (not urgent and time.monotonic() - self._told_at < _BETWEEN_NEWS):
            return {}
        self._told, self._told_at = news, time.monotonic()
        return changes

    def _progress(self, number: str, rows: Sequence[RunRow]) -> dict[str, str]:
        """Return how far a run is. OneGate forgets nothing, so what is not known replaces what was of another run."""
        model = self._runs / number / MODEL
        news = {found.name: NOTHING for found in _PROGRESS}
        news[attributes.RUN_MODEL.name] = attributes.RUN_MODEL.write(str(model) if model.exists() else "")
        if not rows:
            return news
        row = rows[-1]
        found = (row.round, row.rounds, row.nodes, row.failures, row.seconds, row.loss, row.accuracy)
        news |= {key.name: f"{value:.6g}" for key, value in zip(_NUMBERS, found, strict=True) if value is not None}
        news[attributes.RUN_ROWS.name] = pack(rows[-_LATEST:])
        blamed = [(row.round, fault) for row in rows for fault in row.faults]
        if blamed:
            number_of_round, fault = blamed[-1]
            news[attributes.RUN_FAULT.name] = attributes.RUN_FAULT.write(
                json.dumps({"round": number_of_round, **fault.entry})
            )
        return news

    def _rows(self, number: str) -> list[RunRow]:
        """Return the rounds of a run so far, read again only when there are more."""
        path = self._runs / number / METRICS
        try:
            state = (number, path.stat().st_mtime)
            if self._read[0] != state:
                lines = path.read_text(encoding="utf-8").splitlines()
                self._read = (state, [RunRow.parse(line) for line in lines])
        except OSError:
            return []
        return self._read[1]


def _last_round(folder: Path) -> int:
    """Return the last round of which there is a row, 0 where there is none."""
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return RunRow.parse(lines[-1]).round if lines else 0
