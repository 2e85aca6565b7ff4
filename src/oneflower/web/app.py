"""The page as a web application: which address shows what, and how an error becomes a page."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from oneflower.web.actions import Actions
from oneflower.web.guard import ENTRANCE, STATIC, Guard
from oneflower.web.office import Office
from oneflower.web.sites import SiteActions
from oneflower.web.views import Views
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

    from oneflower.api import Cloud
    from oneflower.web.guard import Keys

log = logging.getLogger(__name__)
_STATUS = {ExitCode.NOT_FOUND: 404, ExitCode.INVALID_INPUT: 422, ExitCode.USAGE: 422, ExitCode.CONFLICT: 409}


class Page:
    """Everything that one start of the page has. `application` answers requests."""

    def __init__(self, connect: Callable[[], Cloud], where: str, keys: Keys) -> None:
        self.office = Office.open(connect, where, keys)
        self._origin = keys.origin
        views = Views(self.office)
        routes = [
            Route(ENTRANCE, views.entrance, methods=["GET"]),
            Mount(STATIC.rstrip("/"), StaticFiles(directory=Path(__file__).parent / "static")),
            *views.routes(),
            *Actions(self.office).routes(),
            *SiteActions(self.office).routes(),
        ]
        inner = Starlette(
            routes=routes,
            exception_handlers={OneflowerError: self._refused, HTTPException: self._missing, Exception: self._defect},
        )
        self.application: ASGIApp = Guard(inner, keys)

    def close(self) -> None:
        """End the streams."""
        self.office.streams.close()

    def leave(self, tell: Callable[[str], None]) -> None:
        """Remove what was fetched, and end what was begun. `tell` receives what becomes of it."""
        self.office.downloads.close()
        self.office.jobs.end(tell)

    async def _refused(self, request: Request, error: Exception) -> Response:
        """Show what is wrong and what to do, as the command line does."""
        assert isinstance(error, OneflowerError)  # noqa: S101 - how it is registered
        status = _STATUS.get(error.code, 502)
        came_from = request.headers.get("referer", "")
        back = came_from if error.code is not ExitCode.NOT_FOUND and came_from.startswith(f"{self._origin}/") else ""
        return self.office.pages.show(
            "error.html", status, title="That did not work", message=error.message, hint=error.hint, back=back
        )

    async def _missing(self, request: Request, error: Exception) -> Response:
        """Show that there is no such page."""
        assert isinstance(error, HTTPException)  # noqa: S101 - how it is registered
        message = f"There is no page {request.url.path}." if error.status_code == 404 else error.detail
        return self.office.pages.show(
            "error.html",
            error.status_code,
            title="That did not work",
            message=message,
            hint="Start at the federations.",
            back="",
        )

    async def _defect(self, _request: Request, error: Exception) -> Response:
        """Show that there is a defect, whose traceback is in the log."""
        log.error("a defect in the page", exc_info=error)
        message = f"A defect in oneflower: {type(error).__name__}: {error}"
        return self.office.pages.show(
            "error.html", 500, title="A defect", message=message, hint="Please report it.", back=""
        )
