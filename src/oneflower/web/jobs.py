"""What takes long - deploying, scaling, removing - in threads, with what is known of it: it survives a reload."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from oneflower.events import ConsoleLine, Note, RunBegan, Step, StepEnded
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from oneflower.api import Cloud, FederationStatus
    from oneflower.events import Event
    from oneflower.web.background import Background
    from oneflower.web.signal import Signal

log = logging.getLogger(__name__)
_AT_ONCE = 8
_KEPT = 50
_FRESH = 60.0  # seconds


class State(StrEnum):
    """How far something is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass
class Line:
    """A step of a job, or a remark, which has no state."""

    text: str
    state: State | None = None
    since: float = field(default_factory=time.time)  # seconds of the epoch
    seconds: float = 0.0


@dataclass
class Job:
    """One of these. `federation` is a name; `page` is where its result is to be seen, empty if there is none.

    A job that is `alone` excludes others of that kind, and can be interrupted: `interrupted` says what is left then.
    `machines` has a line for each machine while the job waits for them. `error` and `hint` say why it failed. `answers`
    are those of the form that began a deployment.
    """

    id: int
    title: str
    federation: str
    signal: Signal = field(repr=False)
    alone: bool = False
    interrupted: str = ""
    answers: Mapping[str, str] = field(default_factory=dict, repr=False)
    state: State = State.WAITING
    lines: list[Line] = field(default_factory=list)
    machines: tuple[tuple[str, str], ...] = ()
    error: str = ""
    hint: str = ""
    page: str = ""
    ended_at: float = 0.0  # seconds of the epoch
    ended: threading.Event = field(default_factory=threading.Event, repr=False)
    _stop: bool = False

    @property
    def heading(self) -> str:
        """What it does, as a heading."""
        return self.title[:1].upper() + self.title[1:]

    @property
    def fresh(self) -> bool:
        """Whether it has changed a federation just now."""
        return self.alone and time.time() - self.ended_at < _FRESH

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in (State.DONE, State.FAILED)

    def interrupt(self) -> None:
        """Interrupt it at its next step, or at its next look at the machines."""
        self._stop = True

    def heed(self) -> None:
        """Raise `KeyboardInterrupt` if it was interrupted: once, as it may have to tidy up then."""
        if self._stop:
            self._stop = False
            raise KeyboardInterrupt

    def notify(self, event: Event) -> None:
        """Record what happens."""
        self.heed()
        match event:
            case Step(text):
                self.end(State.DONE)
                self.lines = [*self.lines, Line(text, State.RUNNING)]
            case StepEnded(well):
                self.end(State.DONE if well else State.FAILED)
            case Note() | ConsoleLine() | RunBegan():
                self.lines = [*self.lines, Line(str(event))]
        self.signal.notify()

    def watch(self, status: FederationStatus) -> None:
        """Record the state of every machine."""
        self.heed()
        self.machines = tuple((vm.name, vm.line) for vm in status.vms)
        self.signal.notify()

    def end(self, state: State) -> None:
        """Record that the current step has ended."""
        for line in self.lines:
            if line.state is State.RUNNING:
                line.state, line.seconds = state, time.time() - line.since


class Jobs:
    """All jobs of this start of the page: so many run at once, and the newest are kept."""

    def __init__(self, background: Background, signal: Signal) -> None:
        self._background = background
        self._signal = signal
        self._threads = ThreadPoolExecutor(_AT_ONCE, "job")
        self._numbers = itertools.count(1)
        self._jobs: dict[int, Job] = {}

    def start(
        self,
        title: str,
        federation: str,
        work: Callable[[Cloud, Job], str],
        *,
        alone: bool = False,
        interrupted: str = "",
        answers: Mapping[str, str] | None = None,
    ) -> Job:
        """Begin `work`, which returns the page with its result.

        Raises `OneflowerError` if it has to be `alone` and its federation has another such job.
        """
        if alone and (busy := next((job for job in self.of(federation) if job.alone and not job.over), None)):
            raise OneflowerError(
                f"{federation} is busy: {busy.title}.", "Wait until that has ended, and try again.", ExitCode.CONFLICT
            )
        job = Job(next(self._numbers), title, federation, self._signal, alone, interrupted, answers or {})
        self._jobs[job.id] = job
        for old in [old for old in self._jobs.values() if old.over][:-_KEPT]:
            del self._jobs[old.id]
        self._threads.submit(self._work, job, work)
        return job

    def find(self, number: int) -> Job:
        """Return a job. Raises `OneflowerError`."""
        if number in self._jobs:
            return self._jobs[number]
        raise OneflowerError(
            "That is not known here: the page was started again since, or it is long ago.",
            "Look at the federation.",
            ExitCode.NOT_FOUND,
        )

    def shown(self) -> list[Job]:
        """Return those that are not over, and the newest if it failed; newest first."""
        newest = max(self._jobs, default=0)
        return [job for job in reversed(self._jobs.values()) if not job.over or (job.error and job.id == newest)]

    def of(self, federation: str) -> list[Job]:
        """Return the jobs of a federation, newest first."""
        return [job for job in reversed(self._jobs.values()) if job.federation == federation]

    def end(self, tell: Callable[[str], None]) -> None:
        """Interrupt what can be interrupted and wait for the rest. `tell` receives what becomes of each.

        An interrupt ends the waiting.
        """
        left = [job for job in self._jobs.values() if not job.over]
        for job in left:
            tell(f"{'Interrupting' if job.alone else 'Waiting for'}: {job.title}. Ctrl-C leaves it as it is.")
            if job.alone:
                job.interrupt()
        try:
            for job in left:
                job.ended.wait()
        except KeyboardInterrupt:
            for job in left:
                if not job.over:
                    what, name = f"Left as it is: {job.title}.", job.federation
                    tell(f"{what} Look with `oneflower show {name}`; remove it with `oneflower down {name}`.")
            return
        for job in left:
            tell(f"{job.title}: {job.error or 'done.'} {job.hint}".rstrip())

    def _work(self, job: Job, work: Callable[[Cloud, Job], str]) -> None:
        job.state = State.RUNNING
        self._signal.notify()
        try:
            job.heed()
            job.page = work(self._background.cloud(), job)
        except OneflowerError as error:
            job.error, job.hint = "\n".join([error.message, *getattr(error, "__notes__", ())]), error.hint
        except KeyboardInterrupt as error:
            job.error = " ".join(["Interrupted.", *(getattr(error, "__notes__", ()) or [job.interrupted])])
        except Exception as error:
            log.exception("a defect in a job")
            job.error = f"A defect in oneflower: {type(error).__name__}: {error}"
            job.hint = "Please report it."
        job.state = State.FAILED if job.error else State.DONE
        job.end(job.state)
        job.machines = ()
        job.ended_at = time.time()
        job.ended.set()
        self._signal.notify()
