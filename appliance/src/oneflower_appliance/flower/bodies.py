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

PATIENCE = 30.0  # seconds
SLOWEST = 16 * 1024  # bytes a second


class Bodies:
    """Bodies of requests. At most `most` bytes of them are in memory, plus the rest of one body.

    `held` is the number of bytes in memory. `whole` of them are in complete bodies, which are freed when they are
    answered. `unfinished` has the other bodies, in the order in which they began.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0
        self.whole = 0
        self.unfinished: dict[object, None] = {}
        self._freed = asyncio.Event()

    async def bring(
        self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, *, size: int, give_up: Callable[[], object]
    ) -> None:
        """Let `app` answer a request with a body of `size` bytes. If the body does not arrive, `give_up` is called."""
        deadline = asyncio.get_running_loop().time() + PATIENCE + size / SLOWEST
        body = object()
        received = 0
        self.unfinished[body] = None

        async def receive_in_turn() -> Message:
            nonlocal received
            if body not in self.unfinished:
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
            self.held += length
            if not message.get("more_body"):
                self.whole += received
                self._finish(body)
            return message

        try:
            await app(scope, receive_in_turn, send)
        finally:
            self.held -= received
            if body not in self.unfinished:
                self.whole -= received
            self._finish(body)

    async def _turn(self, body: object) -> None:
        while self.held >= self._most and (self.whole > self._most // 4 or next(iter(self.unfinished)) is not body):
            self._freed.clear()
            await self._freed.wait()

    def _finish(self, body: object) -> None:
        self.unfinished.pop(body, None)
        self._freed.set()
