"""Questions that are held until they have an answer: the serving end.

A client that says how long it is ready to wait (`Prefer: wait=SECONDS`, RFC 7240) gets an answer without content only
when that time is over; until then it is asked again whenever something happened on which the answer depends. Who does
not say so is answered at once, as by Flower itself.
"""

from __future__ import annotations

import asyncio
import importlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PREFER, APPLIED = "prefer", "preference-applied"
ACQUIRE_TASK = "/v1/runtime/acquire-task"

_LONGEST = 20.0  # seconds; Flower's clients give up on an answer after 30
_LARGEST_QUESTION = 1 << 16  # bytes
_WAIT = re.compile(rb"\bwait=(\d+(?:\.\d+)?)")
_RUNTIME, _FLEET, _MESSAGES = "flwr.proto.runtime_pb2", "flwr.proto.fleet_pb2", "flwr.proto.message_pb2"


@dataclass
class _Question:
    """One that may be held: what says that it has no answer yet, and which requests may change that."""

    module: str
    response: str
    is_empty: Callable[[Any], bool]
    depends_on: frozenset[str]
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def has_no_answer(self, body: bytes) -> bool:
        return self.is_empty(getattr(importlib.import_module(self.module), self.response).FromString(body))

    def wake(self) -> None:
        self.news.set()
        self.news = asyncio.Event()


def _questions() -> dict[str, _Question]:
    def no_messages(answer: Any) -> bool:
        return not answer.messages_list

    def not_there_yet(answer: Any) -> bool:
        return bool(answer.object_found and not answer.object_available)

    def no_task(answer: Any) -> bool:
        return not answer.token

    objects = frozenset({"/v1/runtime/push-object", "/v1/fleet/push-object"})
    return {
        ACQUIRE_TASK: _Question(_RUNTIME, "AcquireTaskResponse", no_task, frozenset({"/v1/control/start-run"})),
        "/v1/fleet/pull-messages": _Question(
            _FLEET, "PullMessagesResponse", no_messages, frozenset({"/v1/runtime/push-messages"})
        ),
        "/v1/runtime/pull-messages": _Question(
            _RUNTIME, "PullAppMessagesResponse", no_messages, frozenset({"/v1/fleet/push-messages"})
        ),
        "/v1/fleet/pull-object": _Question(_MESSAGES, "PullObjectResponse", not_there_yet, objects),
        "/v1/runtime/pull-object": _Question(_MESSAGES, "PullObjectResponse", not_there_yet, objects),
    }


class LongPoll:
    """ASGI middleware before one of Flower's applications. `on_change` is called after whatever may be an answer."""

    def __init__(self, app: ASGIApp, on_change: Callable[[], None] = lambda: None) -> None:
        self._app = app
        self._on_change = on_change
        self._questions = _questions()
        self._changing = frozenset().union(*(question.depends_on for question in self._questions.values()))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; hold it where that is asked for."""
        self._loop = asyncio.get_running_loop()
        path = scope.get("path", "")
        question = self._questions.get(path)
        seconds = _asked_for(scope.get("headers", ())) if question else 0.0
        if question and seconds and not self._closing:
            await self._hold(question, min(seconds, _LONGEST), scope, receive, send)
        else:
            await self._app(scope, receive, send)
        if path in self._changing:
            self._changed(path)

    def wake(self, path: str) -> None:
        """Have the questions at `path` asked again. From any thread."""
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._questions[path].wake)

    def close(self) -> None:
        """Answer everybody now, for the server is about to stop. From any thread."""
        self._closing = True
        for path in self._questions:
            self.wake(path)

    def _changed(self, path: str) -> None:
        for question in self._questions.values():
            if path in question.depends_on:
                question.wake()
        self._on_change()

    async def _hold(self, question: _Question, seconds: float, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read(receive)
        if body is None:
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            while True:
                news = question.news
                answer = await self._ask(scope, body)
                left = deadline - loop.time()
                if left <= 0 or self._closing or answer.status != 200 or not question.has_no_answer(answer.body):
                    await answer.send(send, held=not self._closing)
                    return
                waiting = asyncio.ensure_future(news.wait())
                await asyncio.wait((waiting, gone), timeout=left, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if gone.done():
                    return  # asked once more, it would be given what nobody receives
        finally:
            gone.cancel()

    async def _ask(self, scope: Scope, body: bytes) -> _Answer:
        answer = _Answer()
        asked = False

        async def receive() -> Message:
            nonlocal asked
            if asked:
                await asyncio.Event().wait()  # the client is there, and has said all
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(dict(scope), receive, answer.take)
        return answer


class _Answer:
    """What an application answered, kept until it is known whether it is to be sent."""

    def __init__(self) -> None:
        self._start: Message = {"type": "http.response.start", "status": 500, "headers": []}
        self._parts: list[bytes] = []

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body":
            self._parts.append(message.get("body", b""))

    @property
    def status(self) -> int:
        return int(self._start["status"])

    @property
    def body(self) -> bytes:
        return b"".join(self._parts)

    async def send(self, send: Send, *, held: bool) -> None:
        headers = [*self._start.get("headers", ()), *([(APPLIED.encode(), b"wait")] if held else [])]
        await send({**self._start, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def _asked_for(headers: Iterable[tuple[bytes, bytes]]) -> float:
    for name, value in headers:
        if name == PREFER.encode() and (found := _WAIT.search(value)):
            return float(found[1])
    return 0.0


async def _read(receive: Receive) -> bytes | None:
    """Return the body of a request, None where the client went away or says more than a question needs."""
    body = b""
    while len(body) <= _LARGEST_QUESTION:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body
    return None


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
