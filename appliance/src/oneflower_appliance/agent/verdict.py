"""Which result of the form's runs is the model of the federation.

A run that has completed, with a model and an evaluation, gives the model, unless its value of the usual metric after
its last round is worse than that of the best result so far by more than FL_MIN_GAIN.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from oneflower_appliance.best_round import is_better, lower_is_better, metrics_of, value_of
from oneflower_appliance.run_folder import METRICS, MODEL
from oneflower_appliance.run_state import COMPLETED
from oneflower_appliance.runs import lines_of, read_rows, shortcoming

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from oneflower_appliance.run_state import RunState
    from oneflower_appliance.runs import RunRow
    from oneflower_appliance.schedule import Result, Schedule

log = logging.getLogger(__name__)

GONE = "gone"  # how a run ended of which the SuperLink knows nothing any more


def judged(schedule: Schedule, runs: Sequence[RunState], folder: Path, gain: str) -> Schedule:
    """Return the schedule with the outcome of each run that has ended.

    `gain` is FL_MIN_GAIN, empty: any result will do. `runs` are all runs, and `folder` has the folders of their files.
    """
    known = {run.id: run for run in runs}
    for place, result in enumerate(schedule.results):
        if result.outcome or not result.run:
            continue
        last = _last_of(known, result.run)
        if last is not None and not last.finished:
            continue
        schedule = _with(schedule, place, _ended(result, last), folder, gain)
        log.info("%s", schedule.results[place].sentence)
    return schedule


def _last_of(known: dict[str, RunState], number: str) -> RunState | None:
    """Return the run that resumed a run last, or the run itself. None if it is not known."""
    run = known.get(number)
    while run is not None and run.resumed_as in known:
        run = known[run.resumed_as]
    return run


def _ended(result: Result, run: RunState | None) -> Result:
    if run is None:
        return replace(result, outcome=GONE, why_not="the SuperLink has no record of it any more")
    return replace(result, outcome=run.outcome, last="" if run.id == result.run else run.id, why_not=run.details)


def _with(schedule: Schedule, place: int, result: Result, folder: Path, gain: str) -> Schedule:
    """Return the schedule with a result that has ended in its place, and with what that changes."""
    number = result.last or result.run
    if result.outcome == COMPLETED:
        rows = _rows(folder / number)
        metric = schedule.metric or next(iter(metrics_of(rows[-1:])), "")
        value = value_of(rows[-1], metric) if rows and metric else None
        why_not = _lack(folder / number, rows) or _worse(schedule, metric, value, gain)
        result = replace(result, metric=metric, value=value, why_not=why_not)
        if not why_not:
            schedule = replace(schedule, model=number)
            if value is not None and (schedule.best is None or is_better(metric, value, schedule.best)):
                schedule = replace(schedule, metric=metric, best=value, best_run=number)
    results = (*schedule.results[:place], result, *schedule.results[place + 1 :])
    return replace(schedule, results=results)


def _rows(folder: Path) -> list[RunRow]:
    try:
        return read_rows(lines_of(folder / METRICS))[0]
    except OSError:
        return []


def _lack(folder: Path, rows: Sequence[RunRow]) -> str:
    if not rows or not (folder / MODEL).exists():
        return "it has none"
    return shortcoming(rows)


def _worse(schedule: Schedule, metric: str, value: float | None, gain: str) -> str:
    """Return why a result is not good enough, empty if it is."""
    if not gain or schedule.best is None:
        return ""
    if value is None:
        return f"it has no {metric} to compare with that of run {schedule.best_run}"
    loss = (value - schedule.best) if lower_is_better(metric) else (schedule.best - value)
    if loss <= float(gain):
        return ""
    return (
        f"{metric} {value:.4g} is worse than the best, {schedule.best:.4g} of run {schedule.best_run}, by more than "
        f"{gain} (FL_MIN_GAIN)"
    )
