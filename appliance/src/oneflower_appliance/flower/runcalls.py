"""The calls of oneflower's API about runs."""

from __future__ import annotations

import json
import time
from base64 import b64decode
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse
from starlette.routing import Route

from oneflower_appliance import node_reports
from oneflower_appliance.audit import FOLDER, AuditLog
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import SHARED, no_room, write_atomic
from oneflower_appliance.flower.audited import told
from oneflower_appliance.flower.news import Bell, mark
from oneflower_appliance.flower.sitecalls import refusal
from oneflower_appliance.round_state import RoundState
from oneflower_appliance.run_folder import GIVEN_UP, LOST, MESSAGES, METRICS, NOW, ORIGIN, SUCCESSOR, WAITING, Origin
from oneflower_appliance.site_choice import read_sites
from oneflower_appliance.use_cases import USE_CASES

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response

    from oneflower_appliance.flower.linkstate import LinkState
    from oneflower_appliance.run_state import RunState

_LONGEST_NUMBER = 9  # digits
_MISSING = PlainTextResponse("Not found.\n", status_code=404)


def full_disk(folder: Path) -> str:
    """Return a sentence if nothing more can be written where `folder` is, or an empty text."""
    return f"On the SuperLink's machine: {reason}" if (reason := no_room(folder)) else ""


class RunCalls:
    """The calls about runs, whose files are in folders of `runs`."""

    def __init__(self, link: LinkState, runs: Path, bell: Bell) -> None:
        self._link = link
        self._runs = runs
        self._bell = bell

    def routes(self) -> list[Route]:
        """Return the table of these calls."""
        return [
            Route("/oneflower/audit", self.audit),
            Route("/oneflower/retention", self.tidy, methods=["POST"]),
            Route("/oneflower/runs", self.list_runs),
            Route("/oneflower/runs", self.start, methods=["POST"]),
            Route("/oneflower/runs/{id:id}", self.show),
            Route("/oneflower/runs/{id:id}/stop", self.stop, methods=["POST"]),
            Route("/oneflower/runs/{id:id}/log", self.log),
            Route("/oneflower/runs/{id:id}/news", self.news),
            Route("/oneflower/runs/{id:id}/reports", self.reports),
            Route("/oneflower/runs/{id:id}/files", self.files),
            Route("/oneflower/runs/{id:id}/files/{name:path}", self.file),
        ]

    def audit(self, _: Request) -> Response:
        """Return the lines of the audit log, and its head."""
        return JSONResponse(AuditLog(self._runs.parent / FOLDER).read().entry)

    def list_runs(self, _: Request) -> Response:
        """Return all runs."""
        return JSONResponse([self._described(run) for run in self._link.runs()])

    def show(self, request: Request) -> Response:
        """Return one run."""
        run = self._link.run(int(request.path_params["id"]))
        return _MISSING if run is None else JSONResponse(self._described(run))

    async def start(self, request: Request) -> Response:
        """Start a run of a use case, of an app that consists of `files` (in base 64), or one that resumes another.

        An app that comes with a choice of sites is inside `chosen`, which an older release refuses.
        """
        try:
            wanted = await request.json()
            wanted = wanted.get("chosen", wanted)
            start = self._resume if "resumes" in wanted else self._submit if "files" in wanted else self._start
            told(request, resumes=str(wanted.get("resumes", "")), use_case=str(wanted.get("use_case", "")))
            told(request, sites=", ".join(map(str, wanted.get("sites") or ())))
            number = await run_in_threadpool(start, wanted)
            told(request, run=number)
            return JSONResponse({"id": number})
        except OneflowerError as error:
            told(request, why=error.message)
            if "files" in wanted and error.code is ExitCode.NOT_FOUND:  # a site that was chosen
                return refusal(error)
            status = 501 if error.code is ExitCode.ENVIRONMENT else 409
            return PlainTextResponse(f"{error.sentence}\n", status_code=status)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return PlainTextResponse(f"Not a valid run: {error!r}.\n", status_code=400)

    def stop(self, request: Request) -> Response:
        """Stop a run."""
        number = int(request.path_params["id"])
        if self._link.run(number) is None:
            return _MISSING
        self._link.stop(number)
        return JSONResponse({"id": str(number)})

    def log(self, request: Request) -> Response:
        """Return what a run's ServerApp logged after a given time."""
        found = self._link.log(int(request.path_params["id"]), float(request.query_params.get("after", "0")))
        return _MISSING if found is None else JSONResponse(found)

    async def news(self, request: Request) -> Response:
        """Return the run, its log after a given time and its rounds beyond a number of them, once there is news.

        With them is what the run does `now` (`round_state`), unless it has ended.

        `mark` is that of an earlier answer. After `wait` seconds what is known is returned.
        """
        number, query = int(request.path_params["id"]), request.query_params
        try:
            after, rows, wait = float(query.get("after", "0")), int(query.get("rows", "0")), float(query["wait"])
        except (KeyError, ValueError) as error:
            return PlainTextResponse(f"Not a valid request for news: {error!r}.\n", status_code=400)

        async def look() -> dict[str, Any] | None:
            return await run_in_threadpool(self._news, number, after, max(rows, 0))

        def enough(found: dict[str, Any] | None) -> bool:
            return found is None or bool(found["mark"] != query.get("mark") or found["rows"] or found["log"]["text"])

        found = await self._bell.wait(look, enough, wait, lambda: _changed_at(self._runs / str(number) / NOW))
        return _MISSING if found is None else JSONResponse(found | {"held": not self._bell.closing})

    def _news(self, number: int, after: float, rows: int) -> dict[str, Any] | None:
        run = self._link.run(number)
        if run is None:
            return None
        entry, folder = self._described(run), self._runs / str(number)
        log = self._link.log(number, after) or {"text": "", "latest": after}
        lines = _text(folder / METRICS).splitlines()
        messages = None if lines else json.loads(_text(folder / MESSAGES) or "null")
        now = None if run.finished else _now(folder / NOW)
        marked = mark(entry, messages, now and now.entry)
        if now:
            now = replace(now, seconds=max(0.0, round(time.time() - now.began, 1)))
        return {
            "run": entry, "log": log, "rows": lines[rows:], "messages": messages, "now": now and now.entry,
            "mark": marked,
        }  # fmt: skip

    def reports(self, request: Request) -> Response:
        """Return what each node did in the rounds after a given round: the next of them, a line each."""
        after = request.query_params.get("after", "0")
        if not (after.isascii() and after.isdecimal() and len(after) <= _LONGEST_NUMBER):
            return PlainTextResponse(f"Not a round: {after[:40]!r}.\n", status_code=400)
        return PlainTextResponse("\n".join(node_reports.some_after(self._folder(request), int(after))))

    def files(self, request: Request) -> Response:
        """Return the names of a run's files."""
        folder = self._folder(request)
        found = (path for path in folder.rglob("*") if path.is_file() and path.resolve().is_relative_to(folder))
        return JSONResponse(sorted(str(path.relative_to(folder)) for path in found))

    def file(self, request: Request) -> Response:
        """Return a run's file. A file outside its folder, or a link to one, is not found."""
        folder = self._folder(request)
        path = (folder / request.path_params["name"]).resolve()
        return FileResponse(path) if path.is_relative_to(folder) and path.is_file() else _MISSING

    async def tidy(self, request: Request) -> Response:
        """Delete the data that ended runs no longer need, and all data of the runs to forget."""
        forget = [int(number) for number in (await request.json())["forget"]]
        await run_in_threadpool(self._link.tidy, forget)
        return JSONResponse({})

    def _folder(self, request: Request) -> Path:
        return (self._runs / str(request.path_params["id"])).resolve()

    def _described(self, run: RunState) -> dict[str, Any]:
        """Return a run with what the files in its folder say about it."""
        folder = self._runs / run.id
        return replace(
            run,
            lost=run.lost or (folder / LOST).exists(),
            why_lost=Origin.said(folder, LOST),
            given_up=Origin.said(folder, GIVEN_UP),
            resumed_as=Origin.successor(folder),
            attempt=Origin.of(folder).attempt,
            waiting="" if run.finished else self._waiting(run.id),
            trouble=full_disk(self._runs),
        ).entry

    def _waiting(self, number: str) -> str:
        """Return why a run waits: for sites, for nodes, or for a site's answer. Empty if it does not."""
        of_sites = self._link.waits_for_sites(int(number))
        return of_sites or Origin.said(self._runs / number, WAITING) or self._link.held(number)

    def _start(self, wanted: dict[str, Any]) -> str:
        return self._link.start(USE_CASES[wanted["use_case"]].folder, wanted["config"])

    def _submit(self, wanted: dict[str, Any]) -> str:
        files = {str(name): b64decode(content, validate=True) for name, content in wanted["files"].items()}
        sites, least = wanted.get("sites"), wanted.get("least")
        chosen = None if sites is None else read_sites(",".join(map(str, sites)))
        return self._link.submit(files, dict(wanted["config"]), chosen, None if least is None else max(0, int(least)))

    def _resume(self, wanted: dict[str, Any]) -> str:
        number = str(int(wanted["resumes"]))
        if successor := Origin.successor(self._runs / number):
            return successor
        before = Origin.of(self._runs / number)
        origin = Origin(number, before.first, before.attempt + 1)
        started = self._link.start_again(int(number))
        # The ServerApp reads it when its strategy starts, which is after a process start and imports.
        write_atomic(self._runs / started / ORIGIN, origin.text, SHARED)
        write_atomic(self._runs / number / SUCCESSOR, f"{started}\n", SHARED)
        self._link.stop(int(number))  # clients that follow the old run know by now which run to follow instead
        return started


def _now(file: Path) -> RoundState | None:
    """Return what a run does. Its app can write the file, too, so it may hold anything."""
    with suppress(AttributeError, KeyError, TypeError, ValueError):
        return RoundState.parse(json.loads(_text(file)))
    return None


def _changed_at(file: Path) -> int:
    """Return when a file was replaced, 0 if it does not exist."""
    with suppress(FileNotFoundError):
        return file.stat().st_mtime_ns
    return 0


def _text(file: Path) -> str:
    with suppress(FileNotFoundError):
        return file.read_text(encoding="utf-8", errors="replace")
    return ""
