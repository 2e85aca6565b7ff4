"""Records in the SuperLink's audit log who asked it for what, and what it answered: by our API and by Flower's.

An entry is written before something happens, and another one with the outcome. What starts a run, gives a model away or
admits a node is refused if the first entry cannot be written. What stops or removes something is done all the same.
"""

from __future__ import annotations

import json
import logging
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

from oneflower_appliance.audit import BEGUN, DONE, FAILED, REFUSED, AuditLog
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.flower.serving import VISIT
from oneflower_appliance.orders import WHO_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from oneflower_appliance.flower.visits import Visit
    from oneflower_appliance.run_state import RunState

log = logging.getLogger("flwr")

_STATE = "oneflower.audit"
_START, _STOP, _FETCH, _ADMIT, _EVICT = "run.start", "run.stop", "model.fetch", "node.admit", "node.evict"
_UNHINDERED = (_STOP, _EVICT, "site.suspend", "site.remove", "site.uninvite")
_OURS = (
    ("POST", re.compile(r"/oneflower/runs"), _START),
    ("POST", re.compile(r"/oneflower/runs/(?P<run>\d+)/stop"), _STOP),
    (
        "GET",
        re.compile(r"/oneflower/runs/(?P<run>\d+)/files/(?P<file>.+\.(?:npz|safetensors|pt|pth|h5|keras))"),
        _FETCH,
    ),
    ("POST", re.compile(r"/oneflower/ca/replace"), "ca.replace"),
    ("POST", re.compile(r"/oneflower/keys/replace"), "node.keys"),
    ("POST", re.compile(r"/oneflower/nodes"), _ADMIT),
    ("DELETE", re.compile(r"/oneflower/nodes/(?P<node>\d+)"), _EVICT),
    *(
        ("POST", re.compile(rf"/oneflower/sites/(?P<site>[^/]+)/{action}"), f"site.{action}")
        for action in ("invite", "uninvite", "approve", "suspend", "remove")
    ),
)
# Flower's own, with what the number means that is the first field of their answer, or of the request if so marked.
_FLOWERS = {
    "/v1/control/start-run": (_START, "run", False),
    "/v1/control/stop-run": (_STOP, "run", True),
    "/v1/control/pull-artifacts": (_FETCH, "run", True),
    "/v1/control/register-node": (_ADMIT, "node", False),
    "/v1/control/unregister-node": (_EVICT, "node", True),
}
_SHORT = 4096  # bytes of a body that are looked at
_BETWEEN = 60.0  # seconds between two entries about what the same user is refused
_MOST_USERS = 64


def told(request: Request, **details: str) -> None:
    """Add to the entry about a request. `refused` says why it was, where the answer's status does not."""
    request.scope.setdefault("state", {}).setdefault(_STATE, {}).update(details)


class Audited:
    """ASGI middleware before a SuperLink's own door. `find_run` describes a run by its number."""

    def __init__(self, app: ASGIApp, audit: AuditLog, find_run: Callable[[int], RunState | None]) -> None:
        self._app = app
        self._audit = audit
        self._find_run = find_run
        self._refused: dict[str, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and record it if it is one that counts."""
        found = _recognise(scope) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        action, details = found
        visit: Visit = scope["state"][VISIT]
        details |= {"by": visit.user, "says": Headers(scope=scope).get(WHO_HEADER, "")}
        if not visit.who:
            await self._app(scope, receive, send)
            await self._record_refusal(action, details)
            return
        try:
            await run_in_threadpool(self._audit.write, action, BEGUN, **details)
        except OneflowerError as error:
            log.error("%s", error.sentence)  # noqa: TRY400 - for people
            if action not in _UNHINDERED:
                answer = PlainTextResponse(f"On the SuperLink's machine: {error.sentence}\n", status_code=507)
                await answer(scope, receive, send)
                return
        await self._do(action, details, scope, receive, send)

    async def _do(self, action: str, details: dict[str, str], scope: Scope, receive: Receive, send: Send) -> None:
        said: dict[str, str] = scope["state"].setdefault(_STATE, {})
        overheard = _Overheard(receive, send)
        try:
            await self._app(scope, overheard.receive, overheard.send)
        finally:
            status, details = overheard.status, details | said
            if theirs := _FLOWERS.get(scope["path"]):
                _, name, of_request = theirs
                details[name] = _first_number(overheard.request if of_request else overheard.answer)
            refused = "refused" in said or 400 <= status < 500
            outcome = REFUSED if refused else DONE if 200 <= status < 300 else FAILED
            await run_in_threadpool(self._write, action, outcome, details)

    async def _record_refusal(self, action: str, details: dict[str, str]) -> None:
        now, user = time.monotonic(), details["by"]
        if now - self._refused.get(user, -_BETWEEN) < _BETWEEN or len(self._refused) >= _MOST_USERS:
            return
        self._refused[user] = now
        await run_in_threadpool(self._write, action, REFUSED, details)

    def _write(self, action: str, outcome: str, details: dict[str, str]) -> None:
        run = details.get("run", "")
        with suppress(Exception):  # what is known of the run is more than is needed
            if run and (found := self._find_run(int(run))):
                details |= {"app": found.app, "app_hash": found.app_hash}
        try:
            self._audit.write(action, outcome, **details)
        except OneflowerError as error:
            log.error("%s (%s)", error.sentence, json.dumps({"action": action, "outcome": outcome, **details}))  # noqa: TRY400


class _Overheard:
    """The status of an answer, and the beginnings of request and answer."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.status = 0
        self.request = self.answer = b""

    async def receive(self) -> Message:
        message = await self._receive()
        if len(self.request) < _SHORT:
            self.request += message.get("body", b"")[:_SHORT]
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif len(self.answer) < _SHORT:
            self.answer += bytes(message.get("body", b"")[:_SHORT])
        await self._send(message)


def _recognise(scope: Scope) -> tuple[str, dict[str, str]] | None:
    path: str = scope["path"]
    if theirs := _FLOWERS.get(path):
        return theirs[0], {}
    for method, pattern, action in _OURS:
        if scope["method"] == method and (found := pattern.fullmatch(path)):
            return action, dict(found.groupdict())
    return None


def _first_number(message: Any) -> str:
    """Return the first field of a protobuf message if it is a number, as it is for the ids of runs and nodes."""
    if not message or message[0] != 0x08:
        return ""
    number = 0
    for place, byte in enumerate(message[1:11]):
        number |= (byte & 0x7F) << (7 * place)
        if not byte & 0x80:
            return str(number)
    return ""
