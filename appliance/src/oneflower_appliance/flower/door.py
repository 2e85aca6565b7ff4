"""The doors of Flower's applications: which requests may pass each socket.

Since Flower 1.40 the Fleet API (SuperNodes), the Control API (start a run: arbitrary code on every node) and the
Runtime API (tasks, objects) are routes of one application without authentication. So a SuperLink's is served on two
sockets: the federation's, through which only Fleet and health pass, and one on the machine's own loopback, which
answers processes of the same user (or root) only. A SuperNode has only the second kind. Everything that is not named
here is refused.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

from oneflower_appliance.flower import leaving
from oneflower_appliance.flower.bodies import PATIENCE, SLOWEST, Bodies
from oneflower_appliance.flower.membership import NotAMemberError, unauthorized
from oneflower_appliance.flower.serving import VISIT
from oneflower_appliance.flower.waiters import HEADER
from oneflower_appliance.flower.warm.bundles import PART, PULL_OBJECTS
from oneflower_appliance.joining import LARGEST

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from oneflower_appliance.flower.key_order import KeyOrder
    from oneflower_appliance.flower.leaving import Leaving
    from oneflower_appliance.flower.membership import Membership
    from oneflower_appliance.flower.sitecalls import SiteDoor
    from oneflower_appliance.flower.visits import Visit
    from oneflower_appliance.flower.waiters import Waiters

_FLEET = "/v1/fleet/"
_PULL_OBJECTS = f"{_FLEET}{PULL_OBJECTS}"
_API = "/oneflower/"
_NODE_HEALTH = "/health/supernode/"
_CLOSE = {"Connection": "close"}
# A message's objects are sent one by one, arrays in parts of 5 MiB. A record of an app cannot be split.
_LARGEST = 128 * 2**20
_LARGEST_OF_STRANGERS = 64 * 2**10
_AT_A_TIME = 512 * 2**20
_BUNDLES = 4  # that one SuperNode may be receiving at a time; it asks for one after the other
_LONGEST = PATIENCE + PART / SLOWEST  # seconds in which a bundle must be received


class OwnDoor:
    """ASGI middleware before `app`, for processes of the user who runs it, but for no other user and no web browser."""

    def __init__(self, app: ASGIApp, api: ASGIApp | None = None) -> None:
        self._app = app
        self._api = api or app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        await self._choose(scope)(scope, receive, send)

    def _choose(self, scope: Scope) -> ASGIApp:
        visit = _visit(scope)
        headers = Headers(scope=scope)
        if not visit.who:
            return _refused("This door is for the user who runs Flower here.")
        # Any page in the user's browser may send requests here: with its own host name that resolves to this address,
        # or directly; then the browser says where the page is from.
        if not all(_is_loopback(host) for host in headers.getlist("host") or [""]) or "origin" in headers:
            return _refused("This door is for programs on this machine, which call it by a loopback address.")
        return self._api if scope["path"].startswith((_API, _NODE_HEALTH)) else self._app


class FleetDoor:
    """ASGI middleware before a SuperLink's application, for its SuperNodes."""

    def __init__(
        self, flower: ASGIApp, api: ASGIApp, membership: Membership, sites: SiteDoor | None = None,
        waiters: Waiters | None = None, leaving: Leaving | None = None, order: KeyOrder | None = None,
    ) -> None:  # fmt: skip
        self._order = order
        self._waiters = waiters
        self._leaving = leaving
        self._flower = flower
        self._api = api
        self._membership = membership
        self._sites = sites
        self._bodies = Bodies(_AT_A_TIME)
        self._giving: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        path: str = scope["path"]
        if path.startswith(_FLEET):
            answer = await self._refusal(scope)
            if answer is None:
                self._note(scope)
                bring = self._give if path == _PULL_OBJECTS else self._bring
                send = self._order.tell(send) if self._order else send
                await bring(scope, *self._while_served(scope, receive, send))
                return
        elif path.startswith(_NODE_HEALTH):
            answer = self._api
        elif path == "/health":
            answer = self._flower
        elif self._sites and self._sites.answers(path):
            await self._bodies.bring(
                self._sites, scope, receive, send, size=min(_size(scope) or 0, LARGEST), give_up=_visit(scope).drop
            )
            return
        else:
            answer = _refused(
                "Only the Fleet API is served here. The Control API is on the SuperLink's own loopback address."
            )
        await answer(scope, receive, send)

    async def _bring(self, scope: Scope, receive: Receive, send: Send) -> None:
        visit, size = _visit(scope), _size(scope) or 0
        await self._bodies.bring(self._flower, scope, receive, send, size=size, give_up=visit.drop)

    async def _give(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a bundle, which is in memory until the SuperNode has received it."""
        visit = _visit(scope)
        if self._giving[visit.who] >= _BUNDLES:
            # Flower's client tries this again. Earlier connections of the node may be broken, without a word of it.
            await PlainTextResponse(f"Ask for {_BUNDLES} bundles at a time.\n", 503, _CLOSE)(scope, receive, send)
            return
        self._giving[visit.who] += 1
        try:
            async with asyncio.timeout(_LONGEST):
                await self._bring(scope, receive, send)
        except TimeoutError:
            visit.drop()
        finally:
            self._giving[visit.who] -= 1
            self._giving += Counter()  # which forgets those who are receiving none

    def _note(self, scope: Scope) -> None:
        """Note what the node says that it holds (`waiters`), and whether it is about to leave."""
        if not (who := _visit(scope).who):
            return
        headers = Headers(scope=scope)
        if self._waiters and (said := headers.get(HEADER)):
            self._waiters.note(who, said)
        if self._leaving:
            self._leaving.note(who, scope["path"], headers.get(leaving.HEADER))

    def _is_barred(self, visit: Visit) -> bool:
        return self._sites is not None and visit.who in self._sites.barred

    def _while_served(self, scope: Scope, receive: Receive, send: Send) -> tuple[Receive, Send]:
        """Return them so that they end with the permission: a site may be suspended in the middle of a request."""
        visit = _visit(scope)

        async def receive_while_served() -> Message:
            message = await receive()
            if self._is_barred(visit):
                visit.drop()
                return {"type": "http.disconnect"}
            return message

        async def send_while_served(message: Message) -> None:
            if self._is_barred(visit):
                visit.drop()
                return
            await send(message)

        return (receive_while_served, send_while_served) if self._sites else (receive, send)

    async def _refusal(self, scope: Scope) -> ASGIApp | None:
        """Return the answer to a request that is not from a SuperNode. Its body is not read."""
        visit, size = _visit(scope), _size(scope)
        if size is None:
            return PlainTextResponse("Say how long the body is (Content-Length).\n", 411, _CLOSE)
        if size > _LARGEST:
            return _too_large(_LARGEST)
        if not visit.who:
            try:
                who = await run_in_threadpool(self._membership.member, scope["path"], Headers(scope=scope))
            except NotAMemberError as error:
                return error.answer
            if who:
                visit.know(who)
            elif size > _LARGEST_OF_STRANGERS:
                return _too_large(_LARGEST_OF_STRANGERS)
        return unauthorized() if self._is_barred(visit) else None


def _visit(scope: Scope) -> Visit:
    visit: Visit = scope["state"][VISIT]
    return visit


def _refused(why: str) -> ASGIApp:
    return PlainTextResponse(f"{why}\n", 403, _CLOSE)


def _too_large(limit: int) -> ASGIApp:
    return PlainTextResponse(f"A body may have {limit} bytes here.\n", 413, _CLOSE)


def _size(scope: Scope) -> int | None:
    """Return the length of a request's body, or None if it is not given."""
    headers = Headers(scope=scope)
    if "transfer-encoding" in headers:
        return None
    length = headers.get("content-length", "0")
    return int(length) if length.isascii() and length.isdigit() else None


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    try:
        return name.lower() == "localhost" or ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
