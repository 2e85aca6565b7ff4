"""What each page shows while it is open, as events: see `streams.py`."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from oneflower.web.downloads import FILES, LOG, MODEL
from oneflower.web.streams import as_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from oneflower.api import FederationStatus, RunState
    from oneflower.web.followers import Followed
    from oneflower.web.jobs import Job
    from oneflower.web.looks import Look
    from oneflower.web.office import Office

    Events = Iterator[tuple[str, str]]
    Parts = Callable[[], Iterable[tuple[str, str]]]


@contextmanager
def all_federations(office: Office) -> Iterator[Parts]:
    """Yield what returns the events of the page with all federations."""
    with office.looks.all() as look:

        def parts() -> Events:
            yield "trouble", office.pages.text("_trouble.html", error=look.error)
            yield "jobs", office.pages.text("_underway.html", jobs=office.jobs.shown())
            if look.all is not None:
                yield "federations", office.pages.text("_federations.html", federations=look.all)

        yield parts


@contextmanager
def job(office: Office, number: int) -> Iterator[Parts]:
    """Yield what returns the events of the page of a job."""

    def parts() -> Events:
        found = office.jobs.find(number)
        yield "job", office.pages.text("_job.html", job=found)
        if found.over:
            yield "end", office.pages.text("_end.html", job=found)

    yield parts


@contextmanager
def one_federation(office: Office, number: int, wanted: str) -> Iterator[Parts]:
    """Yield what returns the events of the page of a federation; `wanted` is a run, empty for the newest."""
    with office.looks.one(number) as look:
        yield _Federation(office, number, wanted, look)


class _Federation:
    """The events of the page of one federation. Rounds and lines of the log are sent once, then only new ones."""

    def __init__(self, office: Office, number: int, wanted: str, look: Look) -> None:
        self._office = office
        self._number = number
        self._wanted = wanted
        self._look = look
        self._followed: Followed | None = None
        self._rows = 0
        self._written = 0
        self._reported = 0

    def __call__(self) -> Events:
        look, show = self._look, self._office.pages.text
        status = look.status
        if look.gone:
            error = f"{status.name} is no longer there: it was removed." if status else look.error
            yield "gone", show("_trouble.html", error=error)
            return
        yield "trouble", show("_trouble.html", error=look.error)
        if status is None:
            return
        yield "overview", show("_overview.html", status=status)
        yield "sites", show("_sites.html", number=self._number, sites=look.sites)
        jobs = self._office.jobs.of(status.name)
        yield "jobs", show("_jobs.html", jobs=_shown([job for job in jobs if job.alone]))
        yield "starts", show("_jobs.html", jobs=_shown([job for job in jobs if not job.alone]))
        run = self._wanted or _newest(status, look.runs)
        state = next((state for state in look.runs if state.id == run), None)
        yield "runs", show("_runs.html", status=status, runs=look.runs, run=run)
        if run:
            yield from self._of_run(run, state)

    def _of_run(self, run: str, state: RunState | None) -> Events:
        followed = self._office.followers.follow(self._number, run)
        if followed is not self._followed:
            self._followed, self._rows, self._written, self._reported = followed, 0, 0, 0
        show = self._office.pages.text
        files = {what: label for what, label in FILES.items() if _has(followed, what)}
        yield "run", show("_run.html", number=self._number, run=run, state=state, followed=followed, files=files)
        yield "now", show("_now.html", followed=followed)
        rows = followed.rows[self._rows :]
        if rows or not self._rows:
            yield "rows", as_json({"run": run, "from": self._rows, "rows": rows})
            self._rows += len(rows)
        written = followed.written
        if written > self._written or not self._written:
            yield "log", as_json({"run": run, "from": self._written, "lines": followed.since(self._written)})
            self._written = written
        curves = followed.curves
        if curves.rounds > self._reported:
            yield "nodes", show("_nodes.html", number=self._number, lines=curves.lines(), across=curves.across)
            yield "curves", as_json({"run": run, "rounds": curves.rounds, "quantities": curves.quantities})
            self._reported = curves.rounds


def _shown(jobs: list[Job]) -> list[Job]:
    """Return the jobs that are not over, and the newest one if it failed, or a short while if it did not."""
    return [job for job in jobs if not job.over or (job is jobs[0] and (job.error or job.fresh))]


def _has(followed: Followed, what: str) -> bool:
    """Whether a run that is over has such a file: without a round there is a log, and a failed run has no model."""
    return what == LOG or (bool(followed.rows) and not (what == MODEL and followed.error))


def _newest(status: FederationStatus, runs: Iterable[RunState]) -> str:
    """Return the id of the newest run, as far as it is known."""
    found = [state.id for state in runs]
    return found[-1] if found else status.training.id if status.training else ""
