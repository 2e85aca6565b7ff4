"""Shows federations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from oneflower.api import Federation, FederationStatus

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from oneflower.api import Cloud
    from oneflower.web.background import Background
    from oneflower.web.pages import Pages


class Views:
    """The pages that only show."""

    def __init__(self, pages: Pages, background: Background) -> None:
        self._pages = pages
        self._background = background

    def routes(self) -> list[Route]:
        """Return which address shows what."""
        return [Route("/", self.federations)]

    async def entrance(self, _request: Request) -> Response:
        """Show the page whose script exchanges the token for the cookie."""
        return self._pages.show("enter.html", title="Opening")

    async def federations(self, _request: Request) -> Response:
        """Show all federations."""
        found = await self._background.ask(statuses)
        return self._pages.show("federations.html", title="Federations", federations=found)


def statuses(cloud: Cloud) -> list[FederationStatus]:
    """Return the status of every federation."""
    return [federation.status() for federation in Federation.all(cloud)]
