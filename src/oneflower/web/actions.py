"""Changes federations: what takes long becomes a job, and what loses something is confirmed first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from oneflower.api import Federation
from oneflower.printable import counted
from oneflower.web import form
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from oneflower.api import Cloud, FederationStatus, RunState, VmStatus
    from oneflower.web.jobs import Job
    from oneflower.web.office import Office

_SEE_OTHER = 303
_CONFIRMED = "confirmed"
_GOES_ON = "The cloud continues it. Look with `oneflower show`."


class Actions:
    """The requests that change something, and the pages that ask for them."""

    def __init__(self, office: Office) -> None:
        self._office = office

    def routes(self) -> list[Route]:
        """Return which address does what."""
        one = "/federations/{number:int}"
        return [
            Route("/new", self.form, methods=["GET"]),
            Route("/new", self.deploy, methods=["POST"]),
            Route("/new/check", self.check, methods=["POST"]),
            Route(f"{one}/run", self.run, methods=["POST"]),
            Route(f"{one}/scale", self.scale, methods=["POST"]),
            Route(f"{one}/recover", self.recover, methods=["POST"]),
            Route(f"{one}/remove", self.ask_to_remove, methods=["GET"]),
            Route(f"{one}/remove", self.remove, methods=["POST"]),
            Route(f"{one}/runs/{{run:int}}/stop", self.ask_to_stop, methods=["GET"]),
            Route(f"{one}/runs/{{run:int}}/stop", self.stop, methods=["POST"]),
        ]

    # -- deploying ---------------------------------------------------------------------------------------------------

    async def form(self, request: Request) -> Response:
        """Show the form that deploys a federation, with the answers of an earlier deployment if it is `again`."""
        defaults = await self._office.background.ask(Federation.defaults)
        again = request.query_params.get("again", "")
        given = self._office.jobs.find(int(again)).answers if again.isdecimal() and again.isascii() else {}
        given = given or {form.NAME: await self._office.background.ask(form.free_name)}
        return self._office.pages.show("new.html", title="Deploy", parts=form.questions(defaults, given), count=0)

    async def check(self, request: Request) -> Response:
        """Say what is wrong with the form so far, and start nothing."""
        given = request.state.form
        try:
            remarks = await self._office.background.ask(lambda cloud: form.check(cloud, given))
        except OneflowerError as error:
            return self._office.pages.show("_problems.html", problems=form.problems(error), remarks=())
        return self._office.pages.show("_problems.html", problems={}, remarks=remarks)

    async def deploy(self, request: Request) -> Response:
        """Deploy what the form says, or show what is wrong with it."""
        given = request.state.form
        defaults = await self._office.background.ask(Federation.defaults)
        try:
            await self._office.background.ask(lambda cloud: form.check(cloud, given))
            wish = form.Wish.of(given, defaults)
            job = self._office.jobs.start(
                f"deploying {wish.name}",
                wish.name,
                lambda cloud, job: _deploy(cloud, wish, job),
                alone=True,
                interrupted="Nothing of it is left.",
                answers=given,
            )
        except OneflowerError as error:
            parts, count = form.questions(defaults, given, error), len(form.problems(error))
            return self._office.pages.show("new.html", 422, title="Deploy", parts=parts, count=count)
        return _to(f"/jobs/{job.id}")

    # -- training ----------------------------------------------------------------------------------------------------

    async def run(self, request: Request) -> Response:
        """Start to train an app."""
        number, given = request.path_params["number"], request.state.form
        app, rounds = given.get("app", "").strip(), given.get("rounds", "").strip()
        if rounds and not (rounds.isascii() and rounds.isdigit() and int(rounds[:9]) > 0):
            raise OneflowerError(f"Rounds: is {rounds!r}; expected an integer of at least 1.", "Nothing was started.")
        least = given.get("min_sites", "").strip()
        if least and not (least.isascii() and least.isdigit() and len(least) < 10):
            raise OneflowerError(f"Different sites: is {least!r}; expected a number.", "Nothing was started.")
        sites = given.get("sites", "").strip()
        config = [line.strip() for line in given.get("config", "").splitlines() if line.strip()]

        def work(cloud: Cloud, job: Job) -> str:
            federation = Federation.find(cloud, str(number))
            federation.submit(
                app or None,
                int(rounds) if rounds else None,
                config or None,
                install="install" in given,
                sites=sites.split(",") if sites else None,
                min_sites=int(least) if least else None,
                notify=job.notify,
            )
            self._office.looks.expect_run(number)
            return f"/federations/{number}"

        name = await self._name(number)
        self._office.jobs.start(f"starting {app or 'the use case'} on {name}", name, work)
        return _to(f"/federations/{number}#training")

    async def ask_to_stop(self, request: Request) -> Response:
        """Say what stopping a run loses."""
        number, run = request.path_params["number"], str(request.path_params["run"])
        status, _ = await self._office.background.ask(lambda cloud: _known(cloud, number))
        training = status.training
        done = f"Round {training.round} of {training.rounds} is done. " if training and training.id == run else ""
        lost = [
            f"{done}The round that is running is lost. With checkpoints, `oneflower run --resume {run}` continues it."
        ]
        return self._confirm(
            f"Stop run {run} of {status.name}?", f"/federations/{number}/runs/{run}/stop", lost, number, "Stop the run"
        )

    async def stop(self, request: Request) -> Response:
        """Stop a run."""
        number, run = request.path_params["number"], str(request.path_params["run"])
        await self._office.background.ask(lambda cloud: Federation.find(cloud, str(number)).stop(run))
        return _to(f"/federations/{number}")

    # -- changing ----------------------------------------------------------------------------------------------------

    async def scale(self, request: Request) -> Response:
        """Change the number of SuperNodes, once it is confirmed which ones leave."""
        number, given = request.path_params["number"], request.state.form
        wanted = given.get("supernodes", "").strip()
        if not (wanted.isascii() and wanted.isdigit() and len(wanted) < 10):
            raise OneflowerError(f"SuperNodes: is {wanted!r}; expected a number.", "Nothing was changed.")
        nodes = int(wanted)
        name, going = await self._office.background.ask(lambda cloud: _leaving(cloud, number, nodes))
        if going and _CONFIRMED not in given:
            lost = [f"{vm.name} is removed, with what only it has." for vm in going]
            fields = {"supernodes": wanted, _CONFIRMED: "yes"}
            what = f"Scale {name} to {counted(nodes, 'SuperNode')}?"
            return self._confirm(what, f"/federations/{number}/scale", lost, number, "Remove them", fields)

        def work(cloud: Cloud, job: Job) -> str:
            Federation.find(cloud, str(number)).scale(nodes, watch=job.watch)
            return f"/federations/{number}"

        self._office.jobs.start(
            f"scaling {name} to {counted(nodes, 'SuperNode')}", name, work, alone=True, interrupted=_GOES_ON
        )
        return _to(f"/federations/{number}")

    async def recover(self, request: Request) -> Response:
        """Retry what failed."""
        number = request.path_params["number"]

        def work(cloud: Cloud, job: Job) -> str:
            Federation.find(cloud, str(number)).recover(watch=job.watch)
            return f"/federations/{number}"

        name = await self._name(number)
        self._office.jobs.start(f"recovering {name}", name, work, alone=True, interrupted=_GOES_ON)
        return _to(f"/federations/{number}")

    async def ask_to_remove(self, request: Request) -> Response:
        """Say what removing a federation loses."""
        number = request.path_params["number"]
        status, runs = await self._office.background.ask(lambda cloud: _known(cloud, number))
        return self._confirm(
            f"Remove {status.name}?",
            f"/federations/{number}/remove",
            _lost(status, runs),
            number,
            f"Remove {status.name}",
        )

    async def remove(self, request: Request) -> Response:
        """Remove a federation and all its machines."""
        number = request.path_params["number"]

        def work(cloud: Cloud, _job: Job) -> str:
            Federation.find(cloud, str(number)).delete()
            return "/"

        name = await self._name(number)
        job = self._office.jobs.start(f"removing {name}", name, work)
        return _to(f"/jobs/{job.id}")

    async def _name(self, number: int) -> str:
        return await self._office.background.ask(lambda cloud: Federation.find(cloud, str(number)).name)

    def _confirm(
        self,
        what: str,
        address: str,
        lost: list[str],
        number: int,
        button: str,
        fields: Mapping[str, str] | None = None,
    ) -> Response:
        return self._office.pages.show(
            "confirm.html", title=what, address=address, lost=lost, number=number, button=button, fields=fields or {}
        )


def _deploy(cloud: Cloud, wish: form.Wish, job: Job) -> str:
    federation = Federation.deploy(
        cloud, wish.supernodes, wish.settings, wish.name, limits=wish.limits, watch=job.watch, notify=job.notify
    )
    return f"/federations/{federation.id}"


def _leaving(cloud: Cloud, number: int, nodes: int) -> tuple[str, list[VmStatus]]:
    federation = Federation.find(cloud, str(number))
    return federation.name, federation.leaving(nodes)


def _known(cloud: Cloud, number: int) -> tuple[FederationStatus, tuple[RunState, ...] | None]:
    """Return what is known of a federation: without its runs if its SuperLink cannot be asked."""
    federation = Federation.find(cloud, str(number))
    status = federation.status()
    try:
        return status, federation.runs()
    except OneflowerError as error:
        if error.code is ExitCode.NOT_FOUND:
            raise
        return status, None


def _lost(status: FederationStatus, runs: tuple[RunState, ...] | None) -> list[str]:
    """Return what removing a federation loses, a sentence each."""
    machines = ", ".join(vm.name for vm in status.vms)
    lost = [f"{len(status.vms)} machines with their disks: {machines}."] if status.vms else []
    if runs is None:
        return [
            *lost,
            "All runs with their models and checkpoints. Which there are is not known: the SuperLink does not answer.",
        ]
    lost += [f"Run {run.id} of {run.app}, which is not over. It is stopped." for run in runs if not run.finished]
    if ended := [run for run in runs if run.finished]:
        names = ", ".join(run.id for run in ended)
        lost.append(f"Models, metrics and checkpoints that you have not saved, of these runs: {names}.")
    return lost


def _to(address: str) -> Response:
    return RedirectResponse(address, _SEE_OTHER)
