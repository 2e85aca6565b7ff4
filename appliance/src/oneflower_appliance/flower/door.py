"""The front door of a SuperLink: what each of its two sockets lets through.

Since Flower 1.40 the Fleet API (SuperNodes), the Control API (start a run: arbitrary code on every node) and the
Runtime API (tasks, objects) are routes of one application without authentication. So the application is served on two
sockets: the federation's, through which only Fleet and health pass, and one on the machine's own loopback, which
answers processes of the same user (or root) only. Whatever is not named here stays shut.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.responses import PlainTextResponse

from oneflower_appliance.peers import can_tell, peer_uid

if TYPE_CHECKING:
    from asyncio import Transport

    from starlette.types import ASGIApp, Receive, Scope, Send

    from oneflower_appliance.peers import Address

_FLEET = "/v1/fleet/"
_STATUS = "/oneflower/"
_NODE_HEALTH = "/health/supernode/"
_SAME_USER = "same_user"


class FrontDoor:
    """ASGI middleware before Flower's application `flower` and the API beside it, `status`."""

    def __init__(self, flower: ASGIApp, status: ASGIApp, control: Address) -> None:
        self._flower = flower
        self._status = status
        self._control = control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to whom it is for, or refuse it."""
        if scope["type"] == "lifespan":
            await self._flower(scope, receive, send)
        elif scope["type"] == "http":
            await self._choose(scope)(scope, receive, send)
        # A WebSocket is not part of any of the three APIs: it is left unanswered, which closes it.

    def _choose(self, scope: Scope) -> ASGIApp:
        path: str = scope["path"]
        ours = path.startswith((_STATUS, _NODE_HEALTH))
        if tuple(scope.get("server") or ())[:2] == self._control:
            if not scope.get("state", {}).get(_SAME_USER):
                return PlainTextResponse("This door is for the user who runs the SuperLink.\n", status_code=403)
        elif not (path.startswith((_FLEET, _NODE_HEALTH)) or path == "/health"):
            return PlainTextResponse(
                "Only the Fleet API is served here. The Control API is on the SuperLink's own loopback address.\n",
                status_code=403,
            )
        return self._status if ours else self._flower


def configuration(door: FrontDoor, control: Address, **settings: Any) -> uvicorn.Config:
    """Return how uvicorn is to serve the door: whose a connection is, is found out once, when it is made."""
    config = uvicorn.Config(door, proxy_headers=False, **settings)
    config.load()
    protocol: Any = config.http_protocol_class

    class KnowingProtocol(protocol):  # type: ignore[misc]
        def connection_made(self, transport: Transport) -> None:
            super().connection_made(transport)
            if self.server == control:
                connection: Any = self
                connection.app_state = {**connection.app_state, _SAME_USER: _same_user(self.client, control)}

    config.http_protocol_class = KnowingProtocol
    return config


def _same_user(client: Address | None, server: Address) -> bool:
    if not can_tell():
        return True
    return client is not None and peer_uid(client, server) in (0, os.geteuid())
