"""The shortest way through Flower's application.

Each of its middlewares handles requests under one path and passes on all others, at the cost of two tasks and a queue
per request and middleware, with which Starlette can stream an answer. So a request of a SuperNode or of a task skips
the middlewares for other paths. The others are called directly: these answers are never streamed. Where all of them
are known, so are the functions behind them (`direct`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.routing import APIRouter
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request

from oneflower_appliance.flower import places
from oneflower_appliance.flower.features import Feature
from oneflower_appliance.flower.places import CONTROL_LAYERS, FLEET_LAYERS, TRACING_LAYER
from oneflower_appliance.flower.warm.direct import DirectCalls
from oneflower_appliance.flower.warm.longpoll import Answer, body_of

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
        needless = {"/v1/fleet/": _CONTROL | _RUNTIME, "/v1/runtime/": _CONTROL | _FLEET | tracing}
        self.paths = {prefix: _without(app, names) for prefix, names in needless.items()}
        if places.have(Feature.DIRECT_CALLS):
            self.paths = {prefix: _directly(app, prefix, short) for prefix, short in self.paths.items()}

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
        return _direct(app.build_middleware_stack())
    finally:
        app.user_middleware = layers


def _direct(outermost: ASGIApp) -> ASGIApp:
    """Call the middlewares below this one directly."""
    layer: Any = outermost
    while inner := getattr(layer, "app", None):
        if isinstance(inner, BaseHTTPMiddleware) and type(inner).__call__ is BaseHTTPMiddleware.__call__:
            layer.app = inner = Direct(inner)
        layer = inner
    return outermost


def _directly(app: FastAPI, prefix: str, short: ASGIApp) -> ASGIApp:
    """Return what answers Flower's calls directly, if nothing unknown is before them; else `short`."""
    layers: list[BaseHTTPMiddleware] = []
    layer: Any = short
    while not isinstance(layer := layer.app, APIRouter):
        if isinstance(layer, Direct):
            layers.append(layer.middleware)
        elif not isinstance(layer, (ExceptionMiddleware, AsyncExitStackMiddleware)):
            return short
    return DirectCalls(app, prefix, layers, short)


class Direct:
    """One of Starlette's middlewares, which gets the whole answer of the application below it."""

    def __init__(self, middleware: BaseHTTPMiddleware) -> None:
        self.middleware, self.app = middleware, middleware.app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on through the middleware."""
        body = await body_of(receive)
        if body is None:
            return

        async def call_next(_: Request) -> Response:
            answer = Answer()
            await self.app(scope, _again(body, receive), answer.take)
            return answer.response()

        response = await self.middleware.dispatch_func(Request(scope, _again(body, receive)), call_next)
        await response(scope, receive, send)


def _again(body: bytes, receive: Receive) -> Receive:
    """Return what gives the body once more, and then what the client sends after it: that it is gone."""
    said = False

    async def receive_again() -> Message:
        nonlocal said
        if said:
            return await receive()
        said = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
