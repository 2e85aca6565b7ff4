"""What the three protocols share: plain-text errors, and reading a request's body."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from starlette.responses import PlainTextResponse, Response

from oneflower.local.models import CloudError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

log = logging.getLogger(__name__)


def guarded(
    handler: Callable[[Request], Awaitable[Response]], refuse: Callable[[Request], Response | None]
) -> Callable[[Request], Awaitable[Response]]:
    """Return `handler` behind `refuse` (authentication), its `CloudError` sent as plain text, as the servers do."""

    async def handle(request: Request) -> Response:
        if refusal := refuse(request):
            return refusal
        try:
            return await handler(request)
        except CloudError as error:
            return PlainTextResponse(error.message, status_code=error.status)
        except Exception:
            log.exception("%s %s", request.method, request.url.path)
            return PlainTextResponse("Internal server error", status_code=500)

    return handle


async def json_body(request: Request) -> Any:
    """Return the body as JSON, whatever its content type. Raises `CloudError` 400."""
    text = (await request.body()).decode(errors="replace")
    try:
        return json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise CloudError(400, f"JSON::ParserError: {error}") from error


def whole(text: Any, what: str) -> int:
    """Return an id. Raises `CloudError` 404 when it is none."""
    try:
        return int(text)
    except (TypeError, ValueError) as error:
        raise CloudError(404, f"{what} {text} not found") from error
