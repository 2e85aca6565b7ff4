"""Counts the bytes of requests and answers at a door, for the metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class ByteCount:
    """The bytes of the bodies that came through the doors which it watches, and of those that left."""

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0

    def watch(self, app: ASGIApp) -> ASGIApp:
        """Return the application with its bytes counted."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            async def receiving() -> Message:
                message = await receive()
                self.received += len(message.get("body", b""))
                return message

            async def sending(message: Message) -> None:
                self.sent += len(message.get("body", b""))
                await send(message)

            await app(scope, receiving, sending)

        return counted

    def show(self, _: Request) -> Response:
        """Answer a request for the counts."""
        return JSONResponse({"received": self.received, "sent": self.sent})
