"""oneflower's API next to Flower's own, in JSON: /oneflower/... on the loopback door, /health/supernode/ID on both.

Through it clients follow runs, SuperNodes learn that they are online, and the SuperLink's agent admits nodes, starts
what the form asks for, and resumes a run that was lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from oneflower_appliance.flower.late_replies import LateReplies
from oneflower_appliance.flower.news import Bell
from oneflower_appliance.flower.nodecalls import NodeCalls
from oneflower_appliance.flower.runcalls import RunCalls, full_disk
from oneflower_appliance.training.abandoned import Abandoned

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

    from oneflower_appliance.flower.bytecount import ByteCount
    from oneflower_appliance.flower.key_order import KeyOrder
    from oneflower_appliance.flower.linkstate import LinkState
    from oneflower_appliance.flower.sitecalls import SiteCalls


class _Id(IntegerConvertor):
    """An id of Flower's: 64 bits without a sign. For a longer number Flower's state raises an error."""

    regex = "[0-9]{1,20}"

    def convert(self, value: str) -> int:
        """Return the id, or 0 (which nothing has) if it is not valid."""
        number = super().convert(value)
        return number if number < 2**64 else 0


register_url_convertor("id", _Id())


def superlink_api(
    link: LinkState,
    runs: Path,
    bell: Bell | None = None,
    count: ByteCount | None = None,
    sites: SiteCalls | None = None,
    order: KeyOrder | None = None,
) -> ASGIApp:
    """Return the API over a SuperLink's state and the folder with the files of its runs.

    `bell` rings when there may be news of a run. `count` counts the bytes of SuperNodes, if that is wanted. `sites` are
    the calls about other sites, and `order` is the one to make other keys.
    """
    late = LateReplies(link, Abandoned.beside(runs))
    routes = [*NodeCalls(link, late).routes(), *RunCalls(link, runs, bell or Bell()).routes()]
    if sites:
        routes += sites.routes()
    if order:
        routes += order.routes()
    if count:
        routes.append(Route("/oneflower/traffic", count.show))
    return Starlette(routes=routes, middleware=[Middleware(_Excusing, folder=runs)])


class _Excusing:
    """Answers requests that fail because of a full disk with a sentence that says so. Nearly all do."""

    def __init__(self, app: ASGIApp, folder: Path) -> None:
        self._app = app
        self._folder = folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception:  # nothing was sent: an answer is sent only when it is complete
            if not (sentence := full_disk(self._folder)):
                raise
            await PlainTextResponse(f"{sentence}\n", status_code=507)(scope, receive, send)
