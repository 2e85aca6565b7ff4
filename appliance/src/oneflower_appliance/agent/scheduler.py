"""Starts the form's run again at the times of FL_SCHEDULE, once each, and remembers what came of it.

It writes down that it starts the run of a planned time, then starts it, then writes down its id. If it does not get
that far, it looks for the run when it looks again. So no time is run twice, whatever ends in between.

While a run of the form is going, or too few nodes are online, the newest time that has passed waits. It is made up for
as soon as possible, and so is the newest of those in which the machine was off. All others are missed.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING

from oneflower_appliance import attributes
from oneflower_appliance.agent.verdict import judged
from oneflower_appliance.cron import Timetable
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.run_folder import ACCEPTED
from oneflower_appliance.run_state import FAILED
from oneflower_appliance.runs import GARBAGE
from oneflower_appliance.schedule import FILE, Result, Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from oneflower_appliance.agent.form_run import FormRun
    from oneflower_appliance.run_state import RunState
    from oneflower_appliance.values import Settings

log = logging.getLogger(__name__)

LAST = "last"  # of FL_SCHEDULE_FROM
_LOOKED_BACK = timedelta(days=366)
_UNSURE = 60.0  # seconds after which a run that was not seen to start has not started


class Scheduler:
    """The schedule of one SuperLink, whose runs write into the folders of `runs`. It is kept beside them."""

    def __init__(self, form: FormRun, settings: Settings, runs: Path, clock: Callable[[], datetime]) -> None:
        self._form = form
        self._settings = settings
        self._runs = runs
        self._clock = clock
        self._times = Timetable.parse(settings.text("FL_SCHEDULE"), settings.text("FL_SCHEDULE_ZONE"))
        self._path = runs.parent / FILE
        self._state = self._recall()
        self._asked_at = -_UNSURE  # when a run was asked for whose id is not known, by the monotonic clock
        self._reported = ""

    @property
    def model(self) -> str:
        """The run that has the model of the federation, empty if there is none yet."""
        return self._state.model

    @property
    def pause(self) -> float:
        """Seconds until the next planned time, unless that has come already."""
        if not self._state.following:
            return math.inf
        left = (datetime.fromisoformat(self._state.following) - self._clock()).total_seconds()
        return left if left > 0 else math.inf

    def news(self) -> dict[str, str]:
        """Return the attribute to publish, if it has changed."""
        said = attributes.SCHEDULE.write(self._state.published)
        if said == self._reported or not self._state.following:
            return {}
        self._reported = said
        return {attributes.SCHEDULE.name: said}

    def report_again(self) -> None:
        """Publish it at the next look, because it could not be published."""
        self._reported = ""

    def look(self, runs: Sequence[RunState]) -> bool:
        """Do what is due now. Returns whether a run was started.

        `runs` are all runs, oldest first. Those that were lost have been resumed, or given up.

        Raises `OSError` when the SuperLink does not answer, and `ValueError` when it refuses.
        """
        before, now = self._state, self._clock()
        self._look_at_clock(now)
        self._find(runs)
        self._state = judged(self._state, runs, self._runs, self._settings.text("FL_MIN_GAIN"))
        self._accept()
        self._pass_by(now)
        started = self._start_due(runs, now)
        if not started and self._state != before:
            self._save()
        return started

    def _look_at_clock(self, now: datetime) -> None:
        looked = datetime.fromisoformat(self._state.looked) if self._state.looked else None
        if looked is not None and now < looked:
            log.warning("The clock went back to %s. Times whose run was started before are not run again.", _text(now))
        if looked is None or now < looked:
            self._settle(now)

    def _settle(self, until: datetime) -> None:
        """Count all times up to one as settled."""
        until = until.astimezone(self._times.zone)
        self._state = replace(self._state, looked=_text(until), following=_text(next(self._times.after(until))))

    def _find(self, runs: Sequence[RunState]) -> None:
        """Learn the id of the run that was asked for last, if it is not known. The first run began by itself."""
        ours = [run.id for run in runs if run.app == self._form.app]
        results = self._state.results
        if not results and ours:
            self._state = replace(self._state, results=(Result(1, run=ours[-1]),))
        elif results and not (last := results[-1]).run and not last.outcome:
            ids = [run.id for run in runs]
            newer = ids[ids.index(last.newest) + 1 :] if last.newest in ids else ids
            if found := next((number for number in newer if number in ours), ""):
                self._end_with(replace(last, run=found))

    def _end_with(self, result: Result) -> None:
        """Put a result in the place of the last one."""
        self._state = replace(self._state, results=(*self._state.results[:-1], result))

    def _pass_by(self, now: datetime) -> None:
        """Count as missed all times that have passed but the newest, which is now the next one."""
        if now < datetime.fromisoformat(self._state.following):
            return
        looked = max(datetime.fromisoformat(self._state.looked), now - _LOOKED_BACK)
        done = {one.planned for one in self._state.results}
        missed, last, newest = 0, None, None
        for moment in takewhile(lambda moment: moment <= now, self._times.after(looked)):
            if _text(moment) not in done:
                missed, last, newest = missed + (newest is not None), newest, moment
        if newest is None:
            self._settle(now)
        else:
            self._settle(newest - timedelta(seconds=1))
        if last is not None:
            self._state = replace(self._state, missed=self._state.missed + missed, last_missed=_text(last))
            log.warning("Schedule: planned times were missed: %d, the last %s.", missed, _text(last))

    def _start_due(self, runs: Sequence[RunState], now: datetime) -> bool:
        """Start the run of the planned time that has passed, or say why it waits. Returns whether it was started."""
        if self._form.is_nothing:
            self._state = replace(self._state, waiting="nothing is started: the form has no use case (FL_USE_CASE).")
            return False
        last = self._state.results[-1] if self._state.results else None
        unsure = last is not None and not last.run and not last.outcome
        planned = datetime.fromisoformat(last.planned if last and unsure else self._state.following)
        if now < planned or (unsure and time.monotonic() - self._asked_at < _UNSURE):
            return False
        if waits := self._waits(runs):
            self._state = replace(self._state, waiting=f"the run of {_text(planned)} has not begun: {waits}.")
            return False
        if not unsure:
            number = last.number + 1 if last else 1
            newest = runs[-1].id if runs else ""
            result = Result(number, _text(planned), _text(now.astimezone(self._times.zone)), newest)
            self._settle(planned)
            self._state = replace(self._state, waiting="", results=(*self._state.results, result))
            if result.on_time:
                self._state = replace(self._state, missed=0, last_missed="")
        return self._save() and self._start(planned)

    def _accept(self) -> None:
        """Mark the run with the model, in its own folder: a client asks the SuperLink itself which one it is."""
        folder = self._runs / self._state.model
        if self._state.model and folder.is_dir() and not (folder / ACCEPTED).exists():
            try:
                write_atomic(folder / ACCEPTED, "", SHARED)
            except OneflowerError as error:
                log.warning("The model of run %s cannot be accepted yet. %s", folder.name, error.sentence)

    def _waits(self, runs: Sequence[RunState]) -> str:
        going = [run.id for run in runs if run.app == self._form.app and not run.finished]
        return f"run {going[-1]} is going" if going else self._form.lacks_nodes()

    def _start(self, planned: datetime) -> bool:
        initial = self._state.model if self._settings.text("FL_SCHEDULE_FROM") == LAST else ""
        self._asked_at = time.monotonic()
        try:
            number = self._form.start(initial)
        except ValueError as error:
            log.error("The run planned for %s cannot be started: %s", _text(planned), error)  # noqa: TRY400
            self._end_with(replace(self._state.results[-1], outcome=FAILED, why_not=str(error)))
            self._save()
            return False
        log.info("Run %s: %s, planned for %s.", number, self._form.use_case, _text(planned))
        self._end_with(replace(self._state.results[-1], run=number))
        self._save()
        return True

    def _recall(self) -> Schedule:
        try:
            return Schedule.parse(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Schedule()
        except (OSError, *GARBAGE) as error:
            log.warning("%s cannot be read (%r): the schedule begins again, and nothing is made up for.", FILE, error)
            return Schedule()

    def _save(self) -> bool:
        """Write it to disk, and return whether that was possible."""
        try:
            write_atomic(self._path, self._state.text, SHARED)
        except OneflowerError as error:
            log.warning("The schedule cannot be kept, so nothing is started. %s", error.sentence)
            return False
        return True


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
