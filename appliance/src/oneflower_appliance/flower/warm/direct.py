"""Calls of Flower's APIs, without the machinery of its web framework.

FastAPI looks for the route of a request, and solves its dependencies one after the other, each in a thread of its own.
For a call of Flower's that takes longer than the work. Here the route is found in a table, and the functions that
FastAPI would call are called in the same order, in one thread: the check of the versions, of a task's token or of a
node's signature, then Flower's own function. They are read from FastAPI's own description of the route. A route that
needs anything else is left to FastAPI.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fastapi.routing import iter_route_contexts
from fastapi.security import APIKeyHeader
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from oneflower_appliance.flower import internals

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from fastapi import FastAPI
    from fastapi.dependencies.models import Dependant
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.types import ASGIApp, Receive, Scope, Send

    Next = Callable[[Request], Awaitable[Response]]
    Layer = Callable[[Request, Next], Awaitable[Response]]

NODE_AUTHENTICATION = "NodeAuthMiddleware"
_TRACING = "trace_task_completion"  # a dependency that does nothing unless tracing is on


class DirectCalls:
    """ASGI application: Flower's calls under `prefix`. `layers` are the middlewares before them, `other` has the rest.

    `layers` and `other` are what is left of Flower's application for this prefix (see `shortcuts`).
    """

    def __init__(self, app: FastAPI, prefix: str, layers: list[BaseHTTPMiddleware], other: ASGIApp) -> None:
        self._other = other
        self._layers = [layer.dispatch_func for layer in layers if _name(layer) != NODE_AUTHENTICATION]
        first = [internals.node_authentication().authenticate_node] if len(self._layers) < len(layers) else []
        kinds = internals.translation().PROTOBUF_REQUEST_TYPES
        self.calls: dict[str, Next] = {}
        for route in iter_route_contexts(app.routes):
            path = getattr(route, "path", "")
            if path.startswith(prefix) and ("POST", path) in kinds and _is_plain(route.dependant):
                self.calls[path] = self._chain(_Call(route, first))

    def _chain(self, call: _Call) -> Next:
        chain: Next = call.answer
        for layer in reversed(self._layers):
            chain = _before(layer, chain)
        return chain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        call = self.calls.get(scope["path"]) if scope["method"] == "POST" else None
        if call is None:
            await self._other(scope, receive, send)
            return
        response = await call(Request(scope, receive, send))
        await response(scope, receive, send)


class _Call:
    """What FastAPI does for a request at one route; `first` is called before that."""

    def __init__(self, route: Any, first: Iterable[Callable[[Request], None]]) -> None:
        self._first = tuple(first)
        self._dependant: Dependant = route.dependant
        self._function = route.endpoint.__wrapped__

    async def answer(self, request: Request) -> Response:
        """Return an empty response: the layer before this one makes it from what is noted in the request."""
        request.state.protobuf_response = await run_in_threadpool(self._do, request)
        return Response()

    def _do(self, request: Request) -> Any:
        for check in self._first:
            check(request)
        values = _values(self._dependant, request, {})
        values.pop(self._dependant.request_param_name or "", None)  # Flower's wrapper of the function takes it
        return self._function(**values)


def _values(dependant: Dependant, request: Request, known: dict[Any, Any]) -> dict[str, Any]:
    """Return the arguments of a function, as FastAPI finds them."""
    values: dict[str, Any] = {}
    for one in dependant.dependencies:
        if one.cache_key not in known:
            below = _values(one, request, known)
            known[one.cache_key] = None if _is_tracing(one) else _call(one.call, below)
        if one.name is not None:
            values[one.name] = known[one.cache_key]
    if dependant.request_param_name:
        values[dependant.request_param_name] = request
    return values


def _call(function: Any, values: dict[str, Any]) -> Any:
    if not isinstance(function, APIKeyHeader):
        return function(**values)
    try:
        function(**values).send(None)  # a coroutine that waits for nothing
    except StopIteration as done:
        return done.value
    raise RuntimeError("it waits for something")


def _is_plain(dependant: Dependant) -> bool:
    """Whether these functions get nothing but the request and each other's results, and only return a result."""
    of_request = (*dependant.path_params, *dependant.query_params, *dependant.header_params, *dependant.cookie_params,
                  *dependant.body_params)  # fmt: skip
    special = (dependant.websocket_param_name, dependant.http_connection_param_name, dependant.response_param_name,
               dependant.background_tasks_param_name, dependant.security_scopes_param_name)  # fmt: skip
    return not of_request and not any(special) and all(map(_is_plain_dependency, dependant.dependencies))


def _is_plain_dependency(one: Dependant) -> bool:
    waits = one.is_coroutine_callable or one.is_gen_callable or one.is_async_gen_callable
    return (not waits or isinstance(one.call, APIKeyHeader) or _is_tracing(one)) and one.use_cache and _is_plain(one)


def _is_tracing(one: Dependant) -> bool:
    return getattr(one.call, "__name__", "") == _TRACING and os.environ.get("FLWR_TRACING_ENABLED") != "1"


def _name(layer: BaseHTTPMiddleware) -> str:
    return type(layer).__name__


def _before(layer: Layer, chain: Next) -> Next:
    async def answer(request: Request) -> Response:
        return await layer(request, chain)

    return answer
