"""OneFlow's REST interface. As in the real one, replies are JSON with the type text/html, errors are plain text."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse

from oneflower.local.oned.accounts import Sessions
from oneflower.local.oneflow.service_calls import ServiceCalls
from oneflower.local.oneflow.template_calls import TemplateCalls
from oneflower.local.wire import Call, application, not_found

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from oneflower.local.oned.compute import Compute
    from oneflower.local.oneflow.documents import Documents
    from oneflower.local.oneflow.lifecycle import Lifecycle


def oneflow_app(
    documents: Documents, lifecycle: Lifecycle, compute: Compute, secret: str, extra: Sequence[Call] = ()
) -> Starlette:
    """Return the application. `secret` is oneadmin's `user:password`; `extra` are calls that the real one lacks."""
    password = _Password(Sessions(compute.catalogue.accounts, secret))
    calls = [*oneflow_calls(documents, lifecycle, compute), *extra]
    return application(calls, password.refuse, password.unknown, "text/html")


def oneflow_calls(documents: Documents, lifecycle: Lifecycle, compute: Compute) -> list[Call]:
    """Return every call that OneFlow 7.4 has."""
    return [call for part in (ServiceCalls, TemplateCalls) for call in part(documents, lifecycle, compute).table()]


class _Password:
    """Accepts requests with the right user and password."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def refuse(self, request: Request) -> Response | None:
        """Return the refusal of a request, or None if it is accepted."""
        kind, _, encoded = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "basic":
            return HTMLResponse("A username and password must be provided", 401)
        try:
            given = base64.b64decode(encoded)
        except binascii.Error:
            given = b""
        request.state.user = self._sessions.user_of(given.decode(errors="replace"))
        return None if request.state.user else HTMLResponse("Invalid credentials", 401)

    async def unknown(self, request: Request) -> Response:
        """Answer a request that matches no call."""
        return self.refuse(request) or not_found(request.method, request.url.path)
