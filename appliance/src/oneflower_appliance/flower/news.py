"""What is new about a run, in one answer that is held until there is something.

A client that follows a run would otherwise ask for its state, its log and its files, several times a second.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from starlette.types import ASGIApp, Receive, Scope, Send

T = TypeVar("T")

_TELLING = ("/v1/runtime/push-logs", "/v1/runtime/push-task-output")
_LONGEST = 20.0  # seconds that an answer is held
_PULSE = 0.5  # seconds between two looks when nothing is heard: a file may be new, or a run stopped
_GLANCE = 0.1  # seconds between two questions whether a file has changed


class Bell:
    """Wakes those who wait for news of a run. It belongs to one event loop."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Event] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = False

    def ring(self) -> None:
        """Let all who wait look again."""
        for event in self._waiting:
            event.set()

    def close(self) -> None:
        """Let nobody wait any more, because the server is about to stop. May be called from any thread."""
        self._closing = True
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.ring)

    @property
    def closing(self) -> bool:
        """Whether nobody waits any more."""
        return self._closing

    async def wait(
        self,
        look: Callable[[], Awaitable[T]],
        enough: Callable[[T], bool],
        seconds: float,
        sign: Callable[[], object] = lambda: None,
    ) -> T:
        """Return what `look` returns as soon as it is enough, or after `seconds`.

        It looks again when the bell rings, when the `sign` changes, which costs next to nothing to ask for, and now and
        then.
        """
        self._loop = asyncio.get_running_loop()
        deadline = self._loop.time() + min(seconds, _LONGEST)
        with self._listening() as event:
            while True:
                event.clear()
                seen = sign()
                found = await look()
                left = deadline - self._loop.time()
                if enough(found) or left <= 0 or self._closing:
                    return found
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left, _PULSE)):
                        while not event.is_set() and sign() == seen:
                            with suppress(TimeoutError):
                                async with asyncio.timeout(_GLANCE):
                                    await event.wait()

    @contextmanager
    def _listening(self) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            yield event
        finally:
            self._waiting.discard(event)


class Ringing:
    """ASGI middleware that rings after each request with which a ServerApp says something of its run."""

    def __init__(self, app: ASGIApp, bell: Bell) -> None:
        self._app = app
        self._bell = bell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        try:
            await self._app(scope, receive, send)
        finally:
            if scope.get("path") in _TELLING:
                self._bell.ring()


def mark(*values: Any) -> str:
    """Return a short text that changes when one of the values does."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
