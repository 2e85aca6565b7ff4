"""Shows federations, their runs, and what takes long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import FileResponse, JSONResponse
from starlette.routing import Route

from oneflower.api import Federation, FederationStatus
from oneflower.web import live
from oneflower.web.downloads import FILES
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.use_cases import USE_CASES

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from oneflower.api import Cloud, Logs
    from oneflower.web.office import Office


_LINES = 200  # of each console


class Views:
    """The pages that only show."""

    def __init__(self, office: Office) -> None:
        self._office = office

    def routes(self) -> list[Route]:
        """Return which address shows what."""
        one = "/federations/{number:int}"
        return [
            Route("/", self.federations),
            Route("/events", self.federations_events),
            Route(one, self.federation),
            Route(f"{one}/events", self.federation_events),
            Route(f"{one}/logs", self.logs),
            Route(f"{one}/runs/{{run:int}}/nodes", self.nodes),
            Route(f"{one}/runs/{{run:int}}/files/{{what:str}}", self.file),
            Route("/jobs/{number:int}", self.job),
            Route("/jobs/{number:int}/events", self.job_events),
        ]

    async def entrance(self, _request: Request) -> Response:
        """Show the page whose script exchanges the token for the cookie."""
        return self._office.pages.show("enter.html", title="Opening")

    async def federations(self, _request: Request) -> Response:
        """Show all federations."""
        found = await self._office.background.ask(statuses)
        return self._office.pages.show("federations.html", title="Federations", federations=found)

    async def federations_events(self, _request: Request) -> Response:
        """Send all federations whenever they change."""
        return self._office.streams.answer(live.all_federations(self._office))

    async def federation(self, request: Request) -> Response:
        """Show one federation, with its newest run or the one that was asked for."""
        number, run = request.path_params["number"], request.query_params.get("run", "")
        if not run.isdigit():
            run = ""
        status = await self._office.background.ask(lambda cloud: _status(cloud, number))
        return self._office.pages.show(
            "federation.html", title=status.name, status=status, run=run, apps=list(USE_CASES),
        )  # fmt: skip

    async def federation_events(self, request: Request) -> Response:
        """Send what changes on the page of a federation."""
        number, wanted = request.path_params["number"], request.query_params.get("run", "")
        return self._office.streams.answer(live.one_federation(self._office, number, wanted))

    async def nodes(self, request: Request) -> Response:
        """Return the values of one quantity of all nodes."""
        followed = self._office.followers.follow(request.path_params["number"], str(request.path_params["run"]))
        query = request.query_params
        after = query.get("after", "")
        return JSONResponse(followed.curves.of(query.get("of", ""), int(after) if after.isdigit() else 0))

    async def logs(self, request: Request) -> Response:
        """Show what the federation reports: the service's log, its machines, their consoles."""
        number, vm = request.path_params["number"], request.query_params.get("vm") or None
        name, found = await self._office.background.ask(lambda cloud: _logs(cloud, number, vm))
        return self._office.pages.show(
            "logs.html", title=f"Logs of {name}", name=name, number=number, logs=found,
            lines=found.lines(consoles_only=vm is not None),
        )  # fmt: skip

    async def file(self, request: Request) -> Response:
        """Return a file of a run, to be saved; the plot also to be shown."""
        number, run, what = (request.path_params[name] for name in ("number", "run", "what"))
        if what not in FILES:
            raise OneflowerError(f"A run has no file {what!r}.", f"It has: {', '.join(FILES)}.", ExitCode.NOT_FOUND)
        path = await self._office.background.ask(
            lambda cloud: self._office.downloads.get(cloud, number, str(run), what)
        )
        return FileResponse(path, filename=f"run-{run}-{path.name}", content_disposition_type="attachment")

    async def job(self, request: Request) -> Response:
        """Show something that takes long."""
        job = self._office.jobs.find(request.path_params["number"])
        return self._office.pages.show("job.html", title=job.title, job=job)

    async def job_events(self, request: Request) -> Response:
        """Send how far it is."""
        number = request.path_params["number"]
        self._office.jobs.find(number)
        return self._office.streams.answer(live.job(self._office, number))


def statuses(cloud: Cloud) -> list[FederationStatus]:
    """Return the status of every federation."""
    return [federation.status() for federation in Federation.all(cloud)]


def _status(cloud: Cloud, number: int) -> FederationStatus:
    return Federation.find(cloud, str(number)).status()


def _logs(cloud: Cloud, number: int, vm: str | None) -> tuple[str, Logs]:
    federation = Federation.find(cloud, str(number))
    return federation.name, federation.logs(_LINES, vm)
