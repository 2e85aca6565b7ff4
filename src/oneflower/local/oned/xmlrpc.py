"""The core's XML-RPC protocol: requests, sessions, answers.

Every call answers `[success, value or message, error code]`. A method that is not implemented says so in its answer.
"""

from __future__ import annotations

import logging
import re
import xmlrpc.client as protocol
from html import unescape
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from oneflower.local.errors import CloudError, CoreError
from oneflower.local.oned.accounts import Sessions
from oneflower.local.oned.methods import xmlrpc_methods
from oneflower.local.oned.rights import Asking
from oneflower.local.wire import chunks_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from oneflower.local.oned.compute import Compute

log = logging.getLogger(__name__)

_EAUTHENTICATION, _EAUTHORIZATION, _ENO_EXISTS = 0x0100, 0x0200, 0x0400
_EACTION, _EXMLRPCAPI, _EINTERNAL = 0x0800, 0x1000, 0x2000
_CODES = {400: _EXMLRPCAPI, 401: _EAUTHORIZATION, 404: _ENO_EXISTS, 501: _EXMLRPCAPI}
# The session is the first parameter, so it stands at the beginning of a call.
_HEAD = 4096
_SESSION = re.compile(rb"<params>\s*<param>\s*<value>(?:\s*<string>)?([^<]*)")
_METHOD = re.compile(rb"<methodName>\s*([\w.]{1,100})\s*</methodName>")

Answer = tuple[bool, Any, int]


def xmlrpc_app(compute: Compute, secret: str) -> Starlette:
    """Return the application; `secret` is oneadmin's session string `user:password`."""
    return Starlette(routes=[Route("/RPC2", _Protocol(compute, secret).serve, methods=["POST"])])


class _Protocol:
    """Reads calls, checks their session and answers them."""

    def __init__(self, compute: Compute, secret: str) -> None:
        self._methods = xmlrpc_methods(compute)
        self._sessions = Sessions(compute.catalogue.accounts, secret)

    async def serve(self, request: Request) -> Response:
        try:
            content = await self._content(request)
            params, method = protocol.loads(content, use_builtin_types=True)
        except CloudError as error:
            return Response(error.message, error.status, media_type="text/plain", headers={"Connection": "close"})
        except Exception as error:  # noqa: BLE001 - a hostile body can make expat or the unmarshaller raise anything
            fault = protocol.Fault(-503, f"Call XML not a proper XML-RPC call. {error}")
            return Response(protocol.dumps(fault), media_type="text/xml")
        reply = protocol.dumps((list(self._answer(method or "", params)),), methodresponse=True)
        return Response(reply, media_type="text/xml")

    def _answer(self, method: str, params: tuple[Any, ...]) -> Answer:
        user = self._sessions.user_of(params[0]) if params and isinstance(params[0], str) else None
        if user is None:
            return False, f"[{method}] User couldn't be authenticated, aborting call.", _EAUTHENTICATION
        if method not in self._methods:
            return False, f"The local cloud does not implement {method}", _EXMLRPCAPI
        try:
            return True, self._methods[method](Asking(user, method), *params[1:]), 0
        except CloudError as error:
            code = _EINTERNAL if isinstance(error, CoreError) else _CODES.get(error.status, _EACTION)
            return False, error.message, code
        except (TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
            return False, f"[{method}] {error}", _EXMLRPCAPI
        except Exception:
            log.exception("%s", method)
            return False, f"[{method}] Internal error.", _EINTERNAL

    async def _content(self, request: Request) -> bytes:
        """Return the body: all of it if it begins with the right session, otherwise only what a refusal needs.

        Raises `CloudError` 413 or 408 if the body is too long or takes too long.
        """
        content, trusted = bytearray(), False
        async for chunk in chunks_of(request):
            content += chunk
            if not trusted and len(content) > _HEAD:
                head = bytes(content[:_HEAD])
                trusted = self._shows_session(head)
                if not trusted:
                    return _refusable(head)
        return bytes(content)

    def _shows_session(self, head: bytes) -> bool:
        found = _SESSION.search(head)
        if found is None:
            return False
        return self._sessions.user_of(unescape(found[1].decode(errors="replace"))) is not None


def _refusable(head: bytes) -> bytes:
    """Return a call of the same method without a session, so that the refusal names the method."""
    found = _METHOD.search(head)
    return protocol.dumps((), found[1].decode() if found else "unknown").encode()
