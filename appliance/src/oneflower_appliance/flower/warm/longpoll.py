"""Holds requests until they have an answer: the server's side.

A client that says how long it is ready to wait (`Prefer: wait=SECONDS`, RFC 7240) gets an answer without content only
when that time is over; until then the application is asked again whenever something happened on which the answer
depends. A client that does not say so is answered at once, as by Flower itself.

Requests of SuperNodes and tasks are passed on one at a time. They are short, and nearly all of them write into one
SQLite database from threads of one interpreter: in parallel they wait for each other's locks, milliseconds at a time.
A slow connection delays nobody else, because a request is read before its turn and answered after it.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from starlette.responses import Response

from oneflower_appliance.flower.warm.questions import Question, catalogue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PREFER, APPLIED = "prefer", "preference-applied"

_IN_TURN = ("/v1/fleet/", "/v1/runtime/")
_LONGEST = 25.0  # seconds; Flower's clients give up on an answer after 30
_PIECE = 256 * 1024  # bytes
_WAIT = re.compile(rb"\bwait=(\d+(?:\.\d+)?)")


class LongPoll:
    """ASGI middleware before one of Flower's applications. `on_change` is called after a possible answer."""

    def __init__(self, app: ASGIApp, on_change: Callable[[], None] = lambda: None) -> None:
        self._app = app
        self._on_change = on_change
        self._questions, self._changes = catalogue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = False
        self._turn = asyncio.Semaphore(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; hold it where that is asked for."""
        self._loop = asyncio.get_running_loop()
        path = scope.get("path", "")
        body: bytes | None = b""
        if not path.startswith(_IN_TURN):
            await self._app(scope, receive, send)
        elif (body := await body_of(receive)) is not None:
            question = self._questions.get(path)
            seconds = _asked_for(scope["headers"]) if question else 0.0
            if question and seconds:
                await self._hold(question, seconds, scope, body, receive, send)
            else:
                answer = await self._ask(scope, body)
                await answer.send(send)
        if body is not None and path in self._changes:
            for change in self._changes[path]:
                self._questions[change.question].wake(change.subjects(body))
            self._on_change()

    def waiting(self) -> dict[str, int]:
        """Return how many subjects are waited for at each path where any is."""
        return {path: len(question.waiting) for path, question in self._questions.items() if question.waiting}

    def wake(self, path: str) -> None:
        """Retry the held requests at `path`. May be called from any thread."""
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._questions[path].wake_all)

    def close(self) -> None:
        """Answer all held requests now, because the server is about to stop. May be called from any thread."""
        self._closing = True
        for path in self._questions:
            self.wake(path)

    async def _hold(
        self, question: Question, seconds: float, scope: Scope, body: bytes, receive: Receive, send: Send
    ) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(seconds, _LONGEST)
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            with question.news(body) as news:
                while True:
                    news.clear()
                    answer = await self._ask(scope, body)
                    left = deadline - loop.time()
                    if left <= 0 or self._closing or answer.status != 200 or not question.has_no_answer(answer.body):
                        break
                    woken = asyncio.ensure_future(news.wait())
                    try:
                        await asyncio.wait((woken, gone), timeout=left, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        woken.cancel()
                    if gone.done():
                        return  # another attempt would take an answer that nobody receives
                    if not question.changes_with_time and not news.is_set():
                        break
            await answer.send(send, held=not self._closing)
        finally:
            gone.cancel()

    async def _ask(self, scope: Scope, body: bytes) -> Answer:
        answer = Answer()
        said = False

        async def receive() -> Message:
            nonlocal said
            if said:
                await asyncio.Event().wait()  # the client is connected and has sent everything
            said = True
            return {"type": "http.request", "body": body, "more_body": False}

        async with self._turn:
            await self._app(dict(scope), receive, answer.take)
        return answer


class Answer:
    """An application's answer, kept until it is decided whether to send it."""

    def __init__(self) -> None:
        self._start: Message = {"type": "http.response.start", "status": 500, "headers": []}
        self._parts: list[bytes] = []

    async def take(self, message: Message) -> None:
        """Take a part of the answer. It is what an application calls `send`."""
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body":
            self._parts.append(message.get("body", b""))

    @property
    def status(self) -> int:
        """The HTTP status."""
        return int(self._start["status"])

    @property
    def body(self) -> bytes:
        """The body."""
        return b"".join(self._parts)

    def response(self) -> Response:
        """Return it as Starlette's."""
        response = Response(self.body, self.status)
        response.raw_headers = list(self._start.get("headers", ()))
        return response

    async def send(self, send: Send, *, held: bool = False) -> None:
        """Send it."""
        headers = [*self._start.get("headers", ()), *([(APPLIED.encode(), b"wait")] if held else [])]
        await send({**self._start, "headers": headers})
        body = memoryview(self.body)
        for start in range(0, max(len(body), 1), _PIECE):  # so that a slow client has little of it in its connection
            piece, more = body[start : start + _PIECE], start + _PIECE < len(body)
            await send({"type": "http.response.body", "body": bytes(piece), "more_body": more})


def _asked_for(headers: Iterable[tuple[bytes, bytes]]) -> float:
    for name, value in headers:
        if name == PREFER.encode() and (found := _WAIT.search(value)):
            return float(found[1])
    return 0.0


async def body_of(receive: Receive) -> bytes | None:
    """Return the body of a request, or None if the client disconnected."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(bytes(message.get("body", b"")))
        if not message.get("more_body"):
            return b"".join(parts)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
