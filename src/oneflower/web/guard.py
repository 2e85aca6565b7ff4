"""Lets only the person in who started the page.

Other users of this machine can connect to its port, and every web site in the same browser can send requests to it. So:

- The name of the host is a secret of this start, `oneflower-….localhost`, which browsers resolve to the loopback. Other
  names are refused (DNS rebinding). A page that another user serves on another port of the loopback has another name,
  so it gets no cookie of ours. Cookies do not tell ports apart.
- The address that is printed has a token behind `#`, which a browser never sends. A script exchanges it, once, for a
  cookie that scripts cannot read and that no other site's requests carry.
- A request that changes something needs the page's own origin and its CSRF token.
- No page of ours runs inline code or what another host serves, and none can be put into a frame.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

ENTRANCE = "/enter"  # where the token is exchanged for the cookie
STATIC = "/static/"  # what everybody may read: it is the same in every release
COOKIE = "oneflower-page"
CSRF_FIELD, CSRF_HEADER = "csrf", "x-csrf-token"
MOST_BYTES = 1 << 20  # of a form
_READING = ("GET", "HEAD")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer, a form's request would not name its origin
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_HOW = "Open the address that `oneflower ui` printed. It works once; start `oneflower ui` again for another.\n"


def _secret() -> str:
    return secrets.token_urlsafe(32)


def _name() -> str:
    return f"oneflower-{secrets.token_hex(8)}.localhost"


@dataclass
class Keys:
    """The secrets of one start. `token` opens the page once and is empty afterwards."""

    port: int
    name: str = field(default_factory=_name)
    token: str = field(default_factory=_secret, repr=False)
    session: str = field(default_factory=_secret, repr=False)
    csrf: str = field(default_factory=_secret, repr=False)

    @property
    def host(self) -> str:
        """What the Host header of a request must be."""
        return f"{self.name}:{self.port}"

    @property
    def origin(self) -> str:
        """The origin of the page."""
        return f"http://{self.host}"

    @property
    def address(self) -> str:
        """The address that opens the page, once."""
        return f"{self.origin}{ENTRANCE}#{self.token}"

    def use(self, token: str) -> bool:
        """Whether this is the token. It is none afterwards."""
        if not self.token or not _same(token, self.token):
            return False
        self.token = ""
        return True


class Guard:
    """Refuses what does not come from the person who started the page, and passes all else on."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; there are no WebSockets and no lifespan here."""
        if scope["type"] != "http":
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                if not scope["path"].startswith(STATIC):
                    headers["Cache-Control"] = "no-store"
            await send(message)

        refusal = self._refuse(scope) or await self._take_form(scope, receive)
        if refusal is None and (scope["method"], scope["path"]) == ("POST", ENTRANCE):
            refusal = self._enter(scope)
        await (refusal or self._app)(scope, receive, send_safely)

    def _refuse(self, scope: Scope) -> Response | None:
        """Return the answer to a request that does not come from a page of ours in the right browser."""
        headers = Headers(scope=scope)
        if headers.getlist("host") != [self._keys.host]:
            return PlainTextResponse(f"There is no such page here. {_HOW}", 403)
        if scope["method"] not in (*_READING, "POST"):
            return PlainTextResponse("Only GET and POST are answered here.\n", 405)
        public = scope["path"] == ENTRANCE or scope["path"].startswith(STATIC)
        if not public and not self._has_cookie(headers):
            return PlainTextResponse(f"You may not see this page. {_HOW}", 403)
        if scope["path"] != ENTRANCE and headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return PlainTextResponse("Another site may not use this page.\n", 403)
        if scope["method"] not in _READING and headers.get("origin") != self._keys.origin:
            return PlainTextResponse("Another site may not use this page.\n", 403)
        return None

    def _has_cookie(self, headers: Headers) -> bool:
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return found is not None and _same(found.value, self._keys.session)

    async def _take_form(self, scope: Scope, receive: Receive) -> Response | None:
        """Put the fields of a form into the request's state. Return the answer if it is not a form of this page."""
        if scope["method"] in _READING:
            return None
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > MOST_BYTES:
                return PlainTextResponse("That is too long.\n", 413)
            if not message.get("more_body"):
                break
        try:
            fields = dict(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body)))
        except ValueError:
            return PlainTextResponse("That is no form.\n", 400)
        scope.setdefault("state", {})["form"] = fields
        csrf = fields.pop(CSRF_FIELD, "") or Headers(scope=scope).get(CSRF_HEADER, "")
        if scope["path"] != ENTRANCE and not _same(csrf, self._keys.csrf):
            return PlainTextResponse(
                "The form is of an earlier start of the page. Reload the page and try again.\n", 403
            )
        return None

    def _enter(self, scope: Scope) -> Response:
        """Exchange the token for the cookie."""
        if not self._keys.use(scope["state"]["form"].get("token", "")):
            return PlainTextResponse(f"This address was used already, or is not complete. {_HOW}", 403)
        answer = Response(status_code=204)
        answer.set_cookie(COOKIE, self._keys.session, httponly=True, samesite="strict", path="/")
        return answer


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
