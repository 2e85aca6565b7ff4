"""The API beside Flower's own, in JSON: /oneflower/... on the loopback door, /health/supernode/ID on both.

Through it clients follow runs, SuperNodes learn that they are online, and the SuperLink's agent lets nodes in, starts
what the form asks for, and has a run that was lost go on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.middleware import Middleware
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse
from starlette.routing import Route

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import SHARED, no_room, write_atomic
from oneflower_appliance.run_folder import Origin
from oneflower_appliance.training.abandoned import Abandoned
from oneflower_appliance.use_cases import USE_CASES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from oneflower_appliance.flower.linkstate import LinkState

_ON_SUPERLINK = "On the SuperLink's machine:"
_MISSING = PlainTextResponse("Not found.\n", status_code=404)


class _Id(IntegerConvertor):
    """An id of Flower's: 64 bits without a sign. Of a longer number Flower's state makes an error, not a no."""

    regex = "[0-9]{1,20}"

    def convert(self, value: str) -> int:
        """Return the id, 0 (which nothing has) for a number that is none."""
        number = super().convert(value)
        return number if number < 2**64 else 0


register_url_convertor("id", _Id())


def status_api(link: LinkState, runs: Path) -> ASGIApp:
    """Return the API over a SuperLink's state and the folder where its runs leave what they leave."""
    routes = [*_node_routes(link, Abandoned.beside(runs)), *_run_routes(link, runs)]
    return Starlette(routes=routes, middleware=[Middleware(_Excusing, folder=runs)])


class _Excusing:
    """Answers what fails on a full disk, which is nearly everything, with a sentence that says so."""

    def __init__(self, app: ASGIApp, folder: Path) -> None:
        self._app = app
        self._folder = folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception:  # nothing was sent: an answer is whole before it is
            if not (reason := no_room(self._folder)):
                raise
            await PlainTextResponse(f"{_ON_SUPERLINK} {reason}\n", status_code=507)(scope, receive, send)


def _node_routes(link: LinkState, abandoned: Abandoned) -> list[Route]:
    def health(request: Request) -> Response:
        node = int(request.path_params["id"])
        if not link.is_online(node):
            return PlainTextResponse("not online\n", status_code=404)
        if message := abandoned.of(node):
            if link.is_at(message):
                return PlainTextResponse("stuck\n", status_code=409)
            abandoned.forget(node)
        return PlainTextResponse("online\n")

    def nodes(_: Request) -> Response:
        return JSONResponse(link.nodes())

    async def register(request: Request) -> Response:
        key = str((await request.json())["public_key"]).encode()
        try:
            return JSONResponse({"id": str(await run_in_threadpool(link.register, key))})
        except OneflowerError as error:
            return JSONResponse({"refused": error.message, "spent": error.code is ExitCode.CONFLICT})

    def unregister(request: Request) -> Response:
        link.unregister(int(request.path_params["id"]))
        return JSONResponse({"id": str(request.path_params["id"])})

    return [
        Route("/health/supernode/{id:id}", health),
        Route("/oneflower/nodes", nodes),
        Route("/oneflower/nodes", register, methods=["POST"]),
        Route("/oneflower/nodes/{id:id}", unregister, methods=["DELETE"]),
    ]


def _run_routes(link: LinkState, runs: Path) -> list[Route]:
    def told(run: dict[str, str]) -> dict[str, Any]:
        folder = runs / run["id"]
        lost = {"lost": "YES"} if (folder / Origin.LOST).exists() else {}
        files = {"why_lost": Origin.LOST, "given_up": Origin.GIVEN_UP, "resumed_as": Origin.SUCCESSOR}
        said = {key: Origin.said(folder, name) for key, name in files.items()}
        full = no_room(runs)
        trouble = {"trouble": f"{_ON_SUPERLINK} {full}" if full else ""}
        return run | lost | said | trouble | {"attempt": Origin.of(folder).attempt}

    def all_runs(_: Request) -> Response:
        return JSONResponse([told(run) for run in link.runs()])

    def one_run(request: Request) -> Response:
        run = link.run(int(request.path_params["id"]))
        return _MISSING if run is None else JSONResponse(told(run))

    def stop(request: Request) -> Response:
        number = int(request.path_params["id"])
        if link.run(number) is None:
            return _MISSING
        link.stop(number)
        return JSONResponse({"id": str(number)})

    def log(request: Request) -> Response:
        found = link.log(int(request.path_params["id"]), float(request.query_params.get("after", "0")))
        return _MISSING if found is None else JSONResponse(found)

    def file(request: Request) -> Response:
        folder = (runs / str(request.path_params["id"])).resolve()
        path = (folder / request.path_params["name"]).resolve()
        return FileResponse(path) if path.is_relative_to(folder) and path.is_file() else _MISSING

    def files(request: Request) -> Response:
        folder = (runs / str(request.path_params["id"])).resolve()
        found = (path for path in folder.rglob("*") if path.is_file() and path.resolve().is_relative_to(folder))
        return JSONResponse(sorted(str(path.relative_to(folder)) for path in found))

    def start(wanted: dict[str, Any]) -> str:
        return link.start(USE_CASES[wanted["use_case"]].folder, wanted["config"])

    def resume(wanted: dict[str, Any]) -> str:
        number = str(int(wanted["resumes"]))
        if successor := Origin.successor(runs / number):
            return successor
        before = Origin.of(runs / number)
        origin = Origin(number, before.first, before.attempt + 1)
        started = link.start_again(int(number))
        # The ServerApp reads it when its strategy starts, which is a process and its imports away.
        write_atomic(runs / started / Origin.FILE, origin.text, SHARED)
        write_atomic(runs / number / Origin.SUCCESSOR, f"{started}\n", SHARED)
        link.stop(int(number))  # now that whoever follows it knows which to follow instead
        return started

    async def new_run(request: Request) -> Response:
        try:
            wanted = await request.json()
            act: Callable[[dict[str, Any]], str] = resume if "resumes" in wanted else start
            return JSONResponse({"id": await run_in_threadpool(act, wanted)})
        except OneflowerError as error:
            return PlainTextResponse(f"{error.sentence}\n", status_code=409)
        except (KeyError, TypeError, ValueError) as error:
            return PlainTextResponse(f"That is no run: {error!r}.\n", status_code=400)

    async def tidy(request: Request) -> Response:
        forget = [int(number) for number in (await request.json())["forget"]]
        await run_in_threadpool(link.tidy, forget)
        return JSONResponse({})

    return [
        Route("/oneflower/retention", tidy, methods=["POST"]),
        Route("/oneflower/runs", all_runs),
        Route("/oneflower/runs", new_run, methods=["POST"]),
        Route("/oneflower/runs/{id:id}", one_run),
        Route("/oneflower/runs/{id:id}/stop", stop, methods=["POST"]),
        Route("/oneflower/runs/{id:id}/log", log),
        Route("/oneflower/runs/{id:id}/files", files),
        Route("/oneflower/runs/{id:id}/files/{name:path}", file),
    ]
