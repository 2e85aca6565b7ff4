"""What the servers share: tables of calls, plain-text errors, and request bodies within limits.

All servers run in one thread, so a request is checked before it costs anything: first its sender, then the length of
its body and the time that it takes, then its depth.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from oneflower.local import ruby
from oneflower.local.errors import CloudError, internal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from starlette.requests import Request

    Handler = Callable[[Request], Awaitable[Response]]
    Refuse = Callable[[Request], Response | None]

log = logging.getLogger(__name__)

_CONFUSION = (TypeError, AttributeError, KeyError, IndexError, OverflowError, RecursionError)
_WHOLE = re.compile(r"\s*([+-]?[0-9]{1,18})")
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]
LONGEST_BODY = 4 * 1024 * 1024
BODY_SECONDS = 30.0
_TOO_SLOW, _TOO_LARGE = 408, 413


@dataclass(frozen=True)
class Call:
    """One call of the real server: its method and path, its handler here (None if there is none), and a note."""

    method: str
    path: str
    handler: Handler | None
    note: str = ""


async def _missing(request: Request) -> Response:
    raise CloudError(501, f"The local cloud does not implement {request.method} {request.url.path}")


def application(calls: Sequence[Call], refuse: Refuse, otherwise: Handler, error_type: str) -> Starlette:
    """Return an application that serves `calls` behind `refuse` (authentication), and the rest with `otherwise`."""
    routes = [
        Route(call.path, _Guarded(call.handler or _missing, refuse, error_type).serve, methods=[call.method])
        for call in calls
    ]
    unknown = _Protected(otherwise).serve
    rest = [Route("/", unknown, methods=METHODS), Route("/{path:path}", unknown, methods=METHODS)]
    return Starlette(routes=[*routes, *rest])


class _Protected:
    """A handler whose answers have the headers that Sinatra gives every answer (rack-protection)."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def serve(self, request: Request) -> Response:
        response = await self.answer(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        if response.headers.get("content-type", "").startswith("text/html"):
            response.headers["X-XSS-Protection"] = "1; mode=block"
            response.headers["X-Frame-Options"] = "SAMEORIGIN"
        return response

    async def answer(self, request: Request) -> Response:
        return await self._handler(request)


class _Guarded(_Protected):
    """A handler behind authentication. Its errors become answers, as those of the real server do."""

    def __init__(self, handler: Handler, refuse: Refuse, error_type: str) -> None:
        super().__init__(handler)
        self._refuse = refuse
        self._error_type = error_type

    async def answer(self, request: Request) -> Response:
        if refusal := self._refuse(request):
            return refusal
        try:
            return await self._handler(request)
        except CloudError as error:
            response = Response(error.message, error.status, media_type=self._error_type)
            if error.status in (_TOO_SLOW, _TOO_LARGE):
                response.headers["Connection"] = "close"  # the rest of the request is not read
            return response
        except _CONFUSION as error:
            # The body has an unexpected shape. The real server fails too, and says the same.
            log.warning("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
            return Response(internal(str(error)).message, 500, media_type=self._error_type)
        except Exception:
            log.exception("%s %s", request.method, request.url.path)
            return PlainTextResponse("Internal server error", status_code=500)


def html(content: Any, status: int = 200) -> Response:
    """Return JSON as OneFlow sends it."""
    return HTMLResponse(ruby.pretty(content), status_code=status)


def no_content(media_type: str | None = None) -> Response:
    """Return an answer without content."""
    return Response(status_code=204, media_type=media_type)


def not_found(method: str, path: str) -> Response:
    """Return Sinatra's page for a route that does not exist, as in development mode."""
    code = escape(f"{method.lower()} '{path}' do\n  \"Hello World\"\nend\n").replace("&#x27;", "&#39;")
    return HTMLResponse(_PAGE.format(code=code), 404)


_PAGE = """\
<!DOCTYPE html>
<html>
<head>
  <style type="text/css">
  body {{ text-align:center;font-family:helvetica,arial;font-size:22px;
    color:#888;margin:20px}}
  #c {{margin:0 auto;width:500px;text-align:left}}
  </style>
</head>
<body>
  <h2>Sinatra doesn\u2019t know this ditty.</h2>
  <img src='/__sinatra__/404.png'>
  <div id="c">
    Try this:
    <pre>{code}</pre>
  </div>
</body>
</html>
"""


def chunks_of(request: Request) -> AsyncIterator[bytes]:
    """Yield the body as it comes. Raises `CloudError` 413 if it is too long, 408 if it takes too long."""
    if whole(request.headers.get("content-length", "0")) > LONGEST_BODY:
        raise _too_large()
    return _limited(request)


async def _limited(request: Request) -> AsyncIterator[bytes]:
    size, stream = 0, request.stream()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in stream:
                size += len(chunk)
                if size > LONGEST_BODY:
                    raise _too_large()
                yield chunk
    except TimeoutError as error:
        raise CloudError(_TOO_SLOW, f"The request was incomplete after {BODY_SECONDS:.0f} seconds") from error


def _too_large() -> CloudError:
    return CloudError(_TOO_LARGE, f"The local cloud accepts requests of at most {LONGEST_BODY // 1024} KB")


async def text_body(request: Request) -> str:
    """Return the body as text, whatever its content type."""
    return b"".join([chunk async for chunk in chunks_of(request)]).decode(errors="replace")


async def json_body(request: Request, status: int = 500) -> Any:
    """Return the body as JSON, whatever its content type. Raises `CloudError`: 400 in the parser's words, or 500."""
    return parse_json(await text_body(request), status)


def parse_json(text: str, status: int) -> Any:
    """Return the value of JSON text. Raises `CloudError`: `status` with the parser's words, or 500 if not storable."""
    try:
        return ruby.load(text)
    except ruby.GeneratorError as error:
        raise internal(str(error)) from error
    except ruby.JsonError as error:
        raise (CloudError(400, str(error)) if status == 400 else internal(str(error))) from error


def whole(text: Any) -> int:
    """Return what Ruby's to_i makes of a text: the digits that it begins with, or 0."""
    match = _WHOLE.match(str(text))
    return int(match[1]) if match else 0
