"""The calls about sites: at the one door for their machines, and on the loopback for the operator."""

from __future__ import annotations

import ipaddress
import logging
import time
from collections import OrderedDict
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from oneflower_appliance.audit import DONE, REFUSED
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import write_atomic
from oneflower_appliance.flower.audited import told
from oneflower_appliance.flower.serving import VISIT
from oneflower_appliance.flower.sitebook import Wish
from oneflower_appliance.joining import CA_PATH, JOIN_PATH, LARGEST, JoinAnswer, JoinRequest, Reason, Standing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from oneflower_appliance.audit import AuditLog
    from oneflower_appliance.flower.sitebook import SiteBook
    from oneflower_appliance.flower.visits import Visit
    from oneflower_appliance.orders import CertificateFiles

log = logging.getLogger("flwr")

_CLOSE = {"Connection": "close"}
_A_SECOND, _AT_ONCE, _MOST = 50.0, 100.0, 1024  # requests from one address, and addresses that are remembered
_BETWEEN = 60.0  # seconds between two entries about refusals for the same reason


class Rate:
    """How often each address may ask. It remembers the addresses that asked last, and no more than `_MOST`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, address: str) -> bool:
        """Whether it may ask now. If so, this counts."""
        who, now = _network(address), self._clock()
        left, since = self._left.pop(who, (_AT_ONCE, now))
        left = min(_AT_ONCE, left + (now - since) * _A_SECOND)
        self._left[who] = (max(0.0, left - 1), now)
        if len(self._left) > _MOST:
            self._left.popitem(last=False)
        return left >= 1


class SiteDoor:
    """What machines of other sites reach before they are members: the CA's certificate, and a place to ask.

    `book` is None where no site can be invited, because the SuperLink has no TLS or no authentication.
    """

    def __init__(self, book: SiteBook | None, ca: Path | None, audit: AuditLog) -> None:
        self._book = book
        self._ca = ca
        self._audit = audit
        self._rate = Rate()
        self._refused: dict[Reason, float] = {}

    @property
    def barred(self) -> frozenset[str]:
        """The keys that are not served, though Flower knows them: each as the hex of its PEM."""
        return self._book.barred if self._book else frozenset()

    def answers(self, path: str) -> bool:
        """Whether a request to this path is for it."""
        return path in (JOIN_PATH, CA_PATH)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        answer = await self._answer(Request(scope, receive))
        answer.headers.update(_CLOSE)
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        visit: Visit = request.scope["state"][VISIT]
        asks_for_ca = request.url.path == CA_PATH
        if self._ca is None or (self._book is None and not asks_for_ca):
            return PlainTextResponse("Other sites cannot join here.\n", 403)
        if not self._rate.allows(visit.address):
            return PlainTextResponse("Ask less often.\n", 429, {"Retry-After": "2"})
        if self._book is None or asks_for_ca:
            return PlainTextResponse(await run_in_threadpool(self._ca.read_text, encoding="ascii"))
        return _unreadable(request) or await self._hear(self._book, request, visit.address)

    async def _hear(self, book: SiteBook, request: Request, address: str) -> Response:
        try:
            said = JoinRequest.parse(await request.body())
            return JSONResponse((await run_in_threadpool(self._join, book, said, address)).entry)
        except ClientDisconnect:
            return PlainTextResponse("", 400)
        except ValueError:
            return JSONResponse(JoinAnswer.refused(Reason.INVALID).entry, 400)
        except OneflowerError as error:
            log.error("%s", error.sentence)  # noqa: TRY400 - for people
            return PlainTextResponse("The SuperLink cannot write down who asks.\n", 507)

    def _join(self, book: SiteBook, request: JoinRequest, address: str) -> JoinAnswer:
        answer, key = book.join(request, address)
        if answer.reason and self._is_worth_an_entry(answer.reason):
            self._record("site.ask", REFUSED, address=address, why=answer.reason.sentence)
        if key:
            self._record("site.ask", DONE, node=answer.name, key=key, address=address, standing=answer.standing)
            if answer.standing is Standing.ASKED:
                log.info("%s asks to join, from %s, with the key %s.", answer.name, address, key)
        return answer

    def _is_worth_an_entry(self, reason: Reason) -> bool:
        now = time.monotonic()
        if now - self._refused.get(reason, -_BETWEEN) < _BETWEEN:
            return False
        self._refused[reason] = now
        return True

    def _record(self, action: str, outcome: str, **details: str) -> None:
        try:
            self._audit.write(action, outcome, **details)
        except OneflowerError as error:
            log.error("%s", error.sentence)  # noqa: TRY400 - for people


class SiteCalls:
    """The operator's calls. `wake` is called when what rounds wait for may have changed."""

    def __init__(
        self, book: SiteBook | None, wake: Callable[[], None] = lambda: None, files: CertificateFiles | None = None
    ) -> None:
        self._book = book
        self._wake = wake
        self._files = files

    def routes(self) -> list[Route]:
        """Return the table of these calls."""
        return [
            Route("/oneflower/sites", self.list_sites),
            Route("/oneflower/sites/{site}/{action}", self.act, methods=["POST"]),
            Route("/oneflower/ca/replace", self.replace_ca, methods=["POST"]),
        ]

    def replace_ca(self, _: Request) -> Response:
        """Have the agent replace the CA, which it alone may write."""
        if self._files is None or not self._files.are_own:
            why = "This SuperLink has no CA of its own: its certificate was given (FL_SSL_CERTFILE), or it has no TLS."
            hint = "Give it another certificate, or deploy it with FL_TLS_ENABLED=YES."
            return JSONResponse({"message": why, "hint": hint, "code": int(ExitCode.CONFLICT)}, 409)
        try:
            write_atomic(self._files.wish, "")
        except OneflowerError as error:
            return PlainTextResponse(f"{error.sentence}\n", 507)
        return JSONResponse({})

    def list_sites(self, _: Request) -> Response:
        """Return all sites, and whether each of their nodes is online."""
        sites = self._book.sites.of.values() if self._book else ()
        return JSONResponse([self._described(asdict(site)) for site in sites])

    def _described(self, said: dict[str, Any]) -> dict[str, Any]:
        assert self._book is not None  # noqa: S101 - it has sites
        for node in said["nodes"]:
            number, registry = int(node["node"] or 0), self._book.registry
            node["online"] = bool(number) and registry.is_online(number)
            node["heard"] = registry.last_heard(number) if number else ""
        said["open"] = bool(said.pop("verifier"))
        return said

    async def act(self, request: Request) -> Response:
        """Invite, uninvite, approve, suspend or remove. Returns the names of the nodes that have changed."""
        if self._book is None:
            return PlainTextResponse(
                "Other sites cannot join a federation without TLS and keys: deploy it with FL_TLS_ENABLED=YES and "
                "FL_SUPERNODE_AUTH=YES.\n", 409,
            )  # fmt: skip
        try:
            said = await request.json()
            changed = await run_in_threadpool(self._do, self._book, request.path_params, said)
        except OneflowerError as error:
            told(request, why=error.message)
            return refusal(error)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return PlainTextResponse(f"Not a valid request: {error!r}.\n", 400)
        told(request, nodes=", ".join(changed))
        self._wake()
        return JSONResponse({"nodes": changed})

    def _do(self, book: SiteBook, path: dict[str, str], said: dict[str, Any]) -> list[str]:
        site, action = path["site"], path["action"]
        if action == "invite":
            seconds, approves = float(said["seconds"]), bool(said["approves"])
            book.invite(Wish(site, int(said["nodes"]), seconds, str(said["id"]), str(said["verifier"]), approves))
            return []
        number = None if said.get("number") is None else int(said["number"])
        keys = [str(key) for key in said.get("keys") or ()]
        if action == "uninvite":
            return [f"{site}/{node.number}" for node in book.uninvite(site).nodes]
        changes = {
            "approve": lambda: book.approve(site, number, keys),
            "suspend": lambda: book.suspend(site, number),
            "remove": lambda: book.remove(site, number, keys),
        }
        if action not in changes:
            raise OneflowerError(f"Nothing is called {action[:40]!r} here.", "", ExitCode.USAGE)
        return [f"{site}/{node.number}" for node in changes[action]()]


def refusal(error: OneflowerError) -> Response:
    """Return the answer that has all of an error, so that a client can raise it again."""
    return JSONResponse({"message": error.message, "hint": error.hint, "code": int(error.code)}, 409)


def _unreadable(request: Request) -> Response | None:
    """Return the answer to a request whose body is not read."""
    length = Headers(scope=request.scope).get("content-length", "")
    if request.method != "POST" or not (length.isascii() and length.isdigit()):
        return PlainTextResponse("POST a request, and say how long it is.\n", 411)
    if int(length) > LARGEST:
        return PlainTextResponse(f"A request to join may have {LARGEST} bytes.\n", 413)
    return None


def _network(address: str) -> str:
    """Return what one client may have: an address, and of IPv6 the network of its host."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network(f"{address.partition('%')[0]}/64", strict=False))
