"""What the servers share: a table of routes, plain-text errors, and reading a request's body."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from oneflower.local.models import CloudError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request

    Handler = Callable[[Request], Awaitable[Response]]

log = logging.getLogger(__name__)

_CONFUSION = (TypeError, AttributeError, KeyError, IndexError)
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]


@dataclass(frozen=True)
class Call:
    """One call of the real server: how it is made, by what it is served here (None: not at all), and what to know."""

    method: str
    path: str
    handler: Handler | None
    note: str = ""

    def route(self, guard: Callable[[Handler], Handler]) -> Route:
        """Return the route of the call."""
        return Route(self.path, guard(self.handler or _missing), methods=[self.method])


async def _missing(request: Request) -> Response:
    raise CloudError(501, f"The local cloud does not implement {request.method} {request.url.path}")


def application(
    calls: Sequence[Call], refuse: Callable[[Request], Response | None], otherwise: Handler, error_type: str
) -> Starlette:
    """Return an application that serves `calls` behind `refuse` (authentication), anything else by `otherwise`."""

    def guard(handler: Handler) -> Handler:
        return _guarded(handler, refuse, error_type)

    rest = [Route("/", guard(otherwise), methods=METHODS), Route("/{path:path}", guard(otherwise), methods=METHODS)]
    return Starlette(routes=[*(call.route(guard) for call in calls), *rest])


def _guarded(handler: Handler, refuse: Callable[[Request], Response | None], error_type: str) -> Handler:
    async def handle(request: Request) -> Response:
        if refusal := refuse(request):
            return refusal
        try:
            return await handler(request)
        except CloudError as error:
            return Response(error.message, error.status, media_type=error_type)
        except _CONFUSION as error:
            # The body is of another shape than anybody expects. The real server stumbles, too, and says the same.
            log.warning("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
            return Response(internal(str(error)).message, 500, media_type=error_type)
        except Exception:
            log.exception("%s %s", request.method, request.url.path)
            return PlainTextResponse("Internal server error", status_code=500)

    return handle


def html(content: Any, status: int = 200) -> Response:
    """Return JSON as OneFlow sends it, but for its indentation, which would take ten times as long."""
    return HTMLResponse(json.dumps(content), status_code=status)


def internal(reason: str) -> CloudError:
    """Return what OneFlow answers to an exception that nobody caught."""
    return CloudError(500, json.dumps({"message": "Internal server error", "reason": reason}, separators=(",", ":")))


async def text_body(request: Request) -> str:
    """Return the body as text, whatever its content type."""
    return (await request.body()).decode(errors="replace")


async def json_body(request: Request, status: int = 500) -> Any:
    """Return the body as JSON, whatever its content type. Raises `CloudError`: 400 in the parser's words, or 500."""
    text = await text_body(request)
    try:
        return json.loads(text)
    except ValueError as error:
        words = f"unexpected token at '{text}'"
        raise (CloudError(400, words) if status == 400 else internal(words)) from error


def whole(text: Any) -> int:
    """Return what Ruby's to_i makes of a path parameter: the digits it begins with, else 0."""
    digits = ""
    for character in str(text).strip():
        if not (character.isascii() and character.isdigit()):
            break
        digits += character
    return int(digits[:18] or 0)
