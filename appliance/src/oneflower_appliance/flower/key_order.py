"""The order that SuperNodes make other keys (`oneflower rotate --node-keys`), and how they hear of it.

The SuperLink adds to its answers how long ago the order was given. So it costs no request, no two machines need the
same clock, and a node that was off hears of it when it is back. What a node does about it is in `agent/key_renewal.py`.
"""

from __future__ import annotations

import json
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import write_atomic
from oneflower_appliance.flower import internals, places
from oneflower_appliance.flower.features import Feature
from oneflower_appliance.flower.interceptors import intercept_requests

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Message, Send

    from oneflower_appliance.flower.nodereport import Reporter

HEADER = "oneflower-key-order"  # in an answer to a SuperNode: which order, and how many seconds ago it was given
_LONGEST = 100  # characters of it


class KeyOrder:
    """The order, in a SuperLink: the last one counts. It is kept in `file`. `clock` is the time of day in seconds."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._clock = clock
        self._name, self._given = "", 0.0
        with suppress(OSError, ValueError, KeyError, TypeError):
            said = json.loads(file.read_text(encoding="utf-8"))
            self._name, self._given = str(said["order"]), float(said["given"])

    def routes(self) -> list[Route]:
        """Return the operator's call."""
        return [Route("/oneflower/keys/replace", self._give, methods=["POST"])]

    def _give(self, _: Request) -> Response:
        name, now = secrets.token_hex(8), self._clock()
        try:
            write_atomic(self._file, json.dumps({"order": name, "given": now}))
        except OneflowerError as error:
            return PlainTextResponse(f"{error.sentence}\n", 507)
        self._name, self._given = name, now
        return JSONResponse({})

    def tell(self, send: Send) -> Send:
        """Return a `send` that adds the order to an answer, if there is one."""
        if not self._name:
            return send
        ago = max(0.0, self._clock() - self._given)
        header = (HEADER.encode(), f"{self._name} {ago:.0f}".encode())

        async def send_with_order(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        return send_with_order


class Hearing:
    """Has a SuperNode's process report the order to its agent."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def start(self) -> None:
        """Listen in all clients that are created from now on, if this Flower allows it."""
        if not places.have(Feature.KEY_ORDER):
            return
        intercept_requests(internals.fleet_client(), lambda _: self)

    def intercept(self, context: Any, call_next: Callable[[Any], httpx.Response]) -> httpx.Response:
        """Look at an answer. Flower calls this around every request."""
        response = call_next(context)
        name, _, ago = response.headers.get(HEADER, "")[:_LONGEST].partition(" ")
        if name and ago.isascii() and ago.isdecimal():
            self._reporter.note_key_order(name, int(ago))
        return response
