"""Holds requests until they have an answer: the server's side.

A client that says how long it is ready to wait (`Prefer: wait=SECONDS`, RFC 7240) gets an answer without content only
when that time is over; until then the application is asked again whenever something happened on which the answer
depends. A client that does not say so is answered at once, as by Flower itself.

A SuperNode asks again when its request was held in vain. If nothing has happened since, its request is held again
without asking Flower. Such a request counts as a heartbeat, too (see `heartbeats`).

Requests of SuperNodes and tasks are passed on one at a time. They are short, and nearly all of them write into one
SQLite database from threads of one interpreter: in parallel they wait for each other's locks, milliseconds at a time.
A slow connection delays nobody else, because a request is read before its turn and answered after it.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from starlette.responses import Response

from oneflower_appliance.flower.serving import VISIT
from oneflower_appliance.flower.warm.headers import APPLIED, HEARTBEAT, PREFER, STUCK, TAKEN, WORK
from oneflower_appliance.flower.warm.questions import GET_RUN, NODE_PULL, NODE_PULL_WHOLE, Question, catalogue
from oneflower_appliance.flower.warm.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from oneflower_appliance.flower.late_replies import LateReplies
    from oneflower_appliance.flower.leaving import Leaving
    from oneflower_appliance.flower.linkstate import LinkState
    from oneflower_appliance.flower.visits import Visit
    from oneflower_appliance.flower.warm.heartbeats import Heartbeat, Heartbeats

_IN_TURN = ("/v1/fleet/", "/v1/runtime/")
_LONGEST = 25.0  # seconds; Flower's clients give up on an answer after 30
_TRUSTED = 300.0  # seconds: then Flower is asked again, whatever has not happened
_COUNTS = (GET_RUN, NODE_PULL, NODE_PULL_WHOLE)
_PROTOBUF = "application/protobuf"
_PIECE = 256 * 1024  # bytes
_WAIT = re.compile(rb"\bwait=(\d+(?:\.\d+)?)")


class _Vain(NamedTuple):
    """An answer without content that a connection got last, to which request, after which news, and when."""

    answer: Answer
    body: bytes
    news: int
    since: float


class LongPoll:
    """ASGI middleware before one of Flower's applications. `on_change` is called after a possible answer.

    `heartbeats` records those of SuperNodes, if they are not left to the application. `turn` is that of a request.
    Nodes that are `leaving` are not held.
    """

    def __init__(
        self, app: ASGIApp, on_change: Callable[[], None] = lambda: None, leaving: Leaving | None = None
    ) -> None:
        self._app = app
        self._leaving = leaving
        self._on_change = on_change
        self._questions, self._changes = catalogue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = False
        self.turn = asyncio.Semaphore(1)
        self.heartbeats: Heartbeats | None = None
        self._work: Work | None = None
        self._in_vain: WeakKeyDictionary[Visit, _Vain] = WeakKeyDictionary()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; hold it where that is asked for."""
        self._loop = asyncio.get_running_loop()
        path = scope.get("path", "")
        body: bytes | None = b""
        if not path.startswith(_IN_TURN):
            await self._app(scope, receive, send)
        elif (body := await body_of(receive)) is not None:
            question = self._questions.get(path) if path != GET_RUN or self._work else None
            seconds = _asked_for(scope["headers"]) if question else 0.0
            if question and seconds:
                await self._hold(question, seconds, scope, body, receive, send)
            elif not question and (heartbeat := self._take(scope, body)) and await heartbeat.recorded:
                await Response(heartbeat.answer, media_type=_PROTOBUF)(scope, receive, send)
            else:
                answer = await self._ask(scope, body)
                await answer.send(send)
        if body is not None and path in self._changes:
            for change in self._changes[path]:
                self._questions[change.question].wake(change.subjects(body))
            self._on_change()

    def look_after_work(self, link: LinkState, late: LateReplies) -> None:
        """Hold requests of nodes that work until their run has ended, or their round without them."""
        self._work = Work(self._questions[GET_RUN], link, late)

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
        heartbeat, counts = None, self._counts(scope)
        try:
            with question.news(body) as news:
                answer = self._still_nothing(question, scope, body) if counts else None
                if self._work:
                    self._work.watch()
                while True:
                    if answer is None:
                        news.clear()
                        answer = await self._ask(scope, body)
                    left = deadline - loop.time()
                    if left <= 0 or self._is_final(question, answer, scope, body):
                        break
                    if counts and heartbeat is None:
                        heartbeat = self._take(scope, body, news)
                        if heartbeat is None:  # its signature is not valid
                            answer, counts = None, False
                            continue
                    woken = asyncio.ensure_future(news.wait())
                    try:
                        await asyncio.wait((woken, gone), timeout=left, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        woken.cancel()
                    if gone.done():
                        return  # another attempt would take an answer that nobody receives
                    if not question.changes_with_time and not news.is_set():
                        self._note_nothing(question, scope, body, answer)
                        break
                    answer = None
            await answer.send(send, self._remarks(heartbeat, scope, body, counts=counts))
        finally:
            gone.cancel()

    def _is_final(self, question: Question, answer: Answer, scope: Scope, body: bytes) -> bool:
        """Whether an answer is sent as it is."""
        nothing = answer.status == 200 and question.has_no_answer(answer.body)
        return self._closing or not nothing or self._is_stuck(scope, body) or self._leaves(scope)

    def _leaves(self, scope: Scope) -> bool:
        """Whether a request for messages is from a node that is about to leave: it gets what there is, at once."""
        asks = scope["path"] in (NODE_PULL, NODE_PULL_WHOLE)
        return asks and self._leaving is not None and self._leaving.has(scope["state"][VISIT].who)

    def _is_stuck(self, scope: Scope, body: bytes) -> bool:
        return scope["path"] == GET_RUN and self._work is not None and self._work.is_stuck(body)

    def _remarks(
        self, heartbeat: Heartbeat | None, scope: Scope, body: bytes, *, counts: bool
    ) -> list[tuple[bytes, bytes]]:
        """Return the headers that an answer to a held request gets."""
        state, stuck = heartbeat.state if heartbeat else TAKEN, self._is_stuck(scope, body)
        said = {HEARTBEAT: state if counts else "", WORK: STUCK if stuck else ""}
        said[APPLIED] = "" if self._closing or stuck else "wait"  # without it, the next request comes after a pause
        return [(name.encode(), value.encode()) for name, value in said.items() if value]

    def _counts(self, scope: Scope) -> bool:
        """Whether a request counts as a heartbeat."""
        asks = scope["path"] in _COUNTS and any(name == HEARTBEAT.encode() for name, _ in scope["headers"])
        return asks and self.heartbeats is not None

    def _take(self, scope: Scope, body: bytes, news: asyncio.Event | None = None) -> Heartbeat | None:
        """Take a request as a heartbeat. If it is refused later, there is `news`: Flower is asked why."""
        heartbeat = self.heartbeats.take(scope, body) if self.heartbeats else None
        if heartbeat and news:
            heartbeat.recorded.add_done_callback(lambda _: news.set() if heartbeat.is_refused else None)
        return heartbeat

    def _still_nothing(self, question: Question, scope: Scope, body: bytes) -> Answer | None:
        """Return the empty answer to the same request on the same connection, if nothing has happened since."""
        found = self._in_vain.get(scope["state"][VISIT])
        if found is None or (found.body, found.news) != (body, question.happened):
            return None
        return found.answer if asyncio.get_running_loop().time() - found.since < _TRUSTED else None

    def _note_nothing(self, question: Question, scope: Scope, body: bytes, answer: Answer) -> None:
        if self.heartbeats is None:
            return
        visit: Visit = scope["state"][VISIT]
        found, now = self._in_vain.get(visit), asyncio.get_running_loop().time()
        if found is None or found.answer is not answer:
            self._in_vain[visit] = _Vain(answer, body, question.happened, now)

    async def _ask(self, scope: Scope, body: bytes) -> Answer:
        answer = Answer()
        said = False

        async def receive() -> Message:
            nonlocal said
            if said:
                await asyncio.Event().wait()  # the client is connected and has sent everything
            said = True
            return {"type": "http.request", "body": body, "more_body": False}

        async with self.turn:
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

    async def send(self, send: Send, more: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Send it, with more headers."""
        await send({**self._start, "headers": [*self._start.get("headers", ()), *more]})
        body = memoryview(self.body)
        for start in range(0, max(len(body), 1), _PIECE):  # so that a slow client has little of it in its connection
            piece, left = body[start : start + _PIECE], start + _PIECE < len(body)
            await send({"type": "http.response.body", "body": bytes(piece), "more_body": left})


async def ask(app: ASGIApp, scope: Scope, path: str, body: bytes) -> Answer:
    """Return the answer of an application to another request of the same client."""
    answer, said = Answer(), False

    async def receive() -> Message:
        nonlocal said
        if said:
            return {"type": "http.disconnect"}
        said = True
        return {"type": "http.request", "body": body, "more_body": False}

    await app({**scope, "path": path, "raw_path": path.encode()}, receive, answer.take)
    return answer


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
