"""The calls of oneflower's API about SuperNodes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.flower.audited import told

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from oneflower_appliance.flower.late_replies import LateReplies
    from oneflower_appliance.flower.linkstate import LinkState


class NodeCalls:
    """These calls, over a SuperLink's state."""

    def __init__(self, link: LinkState, late: LateReplies) -> None:
        self._link = link
        self._late = late

    def routes(self) -> list[Route]:
        """Return the table of these calls."""
        return [
            Route("/health/supernode/{id:id}", self.health),
            Route("/oneflower/nodes", self.list_nodes),
            Route("/oneflower/nodes", self.register, methods=["POST"]),
            Route("/oneflower/nodes/{id:id}", self.unregister, methods=["DELETE"]),
        ]

    def health(self, request: Request) -> Response:
        """Say whether a node is online, and whether it is stuck in a round that has ended."""
        node = int(request.path_params["id"])
        if not self._link.is_online(node):
            return PlainTextResponse("not online\n", status_code=404)
        if self._late.settle(node):
            return PlainTextResponse("stuck\n", status_code=409)
        return PlainTextResponse("online\n")

    def list_nodes(self, _: Request) -> Response:
        """Return all nodes."""
        return JSONResponse([node.entry for node in self._link.nodes()])

    async def register(self, request: Request) -> Response:
        """Register a public key; say whether it was refused, and whether it was used before."""
        key = str((await request.json())["public_key"]).encode()
        told(request, key=hashlib.sha256(key).hexdigest())
        try:
            number = str(await run_in_threadpool(self._link.register, key))
            told(request, node=number)
            return JSONResponse({"id": number})
        except OneflowerError as error:
            told(request, refused="YES", why=error.message)
            return JSONResponse({"refused": error.message, "spent": error.code is ExitCode.CONFLICT})

    def unregister(self, request: Request) -> Response:
        """Unregister a node."""
        self._link.unregister(int(request.path_params["id"]))
        return JSONResponse({"id": str(request.path_params["id"])})
