"""Limits the memory and time for the bodies of requests that are being received.

If there is no room for a body, it is not refused: reading pauses until there is room, and the sender waits. If all
bodies wait for room, the one that began first is read anyway, so that one can finish.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PATIENCE = 30.0  # seconds
_SLOWEST = 16 * 1024  # bytes a second


class Bodies:
    """Bodies of requests. At most `most` bytes of them are in memory, plus the rest of one body."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._whole = 0  # of these, in complete bodies, which are freed when they are answered
        self._unfinished: dict[object, None] = {}
        self._freed = asyncio.Event()

    async def bring(
        self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, *, size: int, give_up: Callable[[], object]
    ) -> None:
        """Let `app` answer a request with a body of `size` bytes. If the body does not arrive, `give_up` is called."""
        deadline = asyncio.get_running_loop().time() + _PATIENCE + size / _SLOWEST
        body = object()
        received = 0
        self._unfinished[body] = None

        async def receive_in_turn() -> Message:
            nonlocal received
            if body not in self._unfinished:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._turn(body)
                    message = await receive()
            except TimeoutError:
                give_up()
                message = await receive()
            length = len(message.get("body", b""))
            received += length
            self._held += length
            if not message.get("more_body"):
                self._whole += received
                self._finish(body)
            return message

        try:
            await app(scope, receive_in_turn, send)
        finally:
            self._held -= received
            if body not in self._unfinished:
                self._whole -= received
            self._finish(body)

    async def _turn(self, body: object) -> None:
        while self._held >= self._most and (self._whole > self._most // 4 or next(iter(self._unfinished)) is not body):
            self._freed.clear()
            await self._freed.wait()

    def _finish(self, body: object) -> None:
        self._unfinished.pop(body, None)
        self._freed.set()
