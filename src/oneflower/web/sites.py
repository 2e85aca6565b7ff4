"""Lets other sites of a federation take part, suspends and removes them; what cannot be undone is confirmed first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import RedirectResponse
from starlette.routing import Route

from oneflower.api import Federation

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from oneflower.api import Cloud
    from oneflower.web.office import Office

_SEE_OTHER = 303


class SiteActions:
    """The requests that change how a site, or a node of a site, stands: `of` is its name, `key` the fingerprints."""

    def __init__(self, office: Office) -> None:
        self._office = office

    def routes(self) -> list[Route]:
        """Return which address does what."""
        one = "/federations/{number:int}/sites"
        return [
            Route(f"{one}/approve", self.approve, methods=["POST"]),
            Route(f"{one}/suspend", self.suspend, methods=["POST"]),
            Route(f"{one}/remove", self.ask_to_remove, methods=["GET"]),
            Route(f"{one}/remove", self.remove, methods=["POST"]),
        ]

    async def approve(self, request: Request) -> Response:
        """Let a node take part whose key was shown, or those of a site that were suspended."""
        return await self._change(request, "approve")

    async def suspend(self, request: Request) -> Response:
        """Let a site or a node take no part until it is approved again."""
        return await self._change(request, "suspend")

    async def ask_to_remove(self, request: Request) -> Response:
        """Say what removing a site or a node loses."""
        number, query = request.path_params["number"], request.query_params
        of, key = query.get("of", ""), query.get("key", "")
        name = await self._office.background.ask(lambda cloud: Federation.find(cloud, str(number)).name)
        what = f"{of} with the key {key}" if key else of
        lost = [
            f"{what} takes no further part in {name}. Its keys are never accepted again: to come back, it needs others."
        ]
        if "/" not in of:
            lost.append("Its invitation is revoked.")
        return self._office.pages.show(
            "confirm.html", title=f"Remove {of} from {name}?", address=f"/federations/{number}/sites/remove", lost=lost,
            number=number, button=f"Remove {of}", fields={"of": of, "key": key},
        )  # fmt: skip

    async def remove(self, request: Request) -> Response:
        """Remove a site or a node for good, or refuse a key that asks."""
        return await self._change(request, "remove")

    async def _change(self, request: Request, action: str) -> Response:
        number, given = request.path_params["number"], request.state.form
        of, keys = given.get("of", ""), given.get("key", "").split()

        def work(cloud: Cloud) -> None:
            sites = Federation.find(cloud, str(number)).sites
            if action == "approve":
                sites.approve([of], keys)
            elif action == "suspend":
                sites.suspend(of)
            else:
                sites.remove(of, keys)

        await self._office.background.ask(work)
        self._office.looks.expect_sites(number)
        return RedirectResponse(f"/federations/{number}#sites", _SEE_OTHER)
