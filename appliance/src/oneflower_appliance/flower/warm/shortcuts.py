"""The shortest way through Flower's application.

Each of its middlewares handles requests under one path and passes on all others, at the cost of a task and two queues
per request and middleware. So a request of a SuperNode or of a task skips the middlewares for other paths.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from oneflower_appliance.flower.places import CONTROL_LAYERS, FLEET_LAYERS, TRACING_LAYER

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Receive, Scope, Send

_CONTROL = frozenset(CONTROL_LAYERS)
_FLEET = frozenset(FLEET_LAYERS)
_RUNTIME = frozenset({TRACING_LAYER})


class Shortcuts:
    """ASGI application: `app`, without the middlewares that have nothing to do with a request.

    `paths` has the application for each path prefix. Middlewares are identified by name; a name that a release of
    Flower does not have is ignored.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        tracing = frozenset[str]() if os.environ.get("FLWR_TRACING_ENABLED") == "1" else _RUNTIME
        self.paths = {
            "/v1/fleet/": _without(app, _CONTROL | _RUNTIME),
            "/v1/runtime/": _without(app, _CONTROL | _FLEET | tracing),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        path = scope.get("path", "")
        for prefix, short in self.paths.items():
            if path.startswith(prefix):
                scope["app"] = self._app
                await short(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _without(app: FastAPI, names: frozenset[str]) -> ASGIApp:
    layers = app.user_middleware
    app.user_middleware = [layer for layer in layers if getattr(layer.cls, "__name__", "") not in names]
    try:
        return app.build_middleware_stack()
    finally:
        app.user_middleware = layers
