"""Serves HTTP: one application per port, only for requests that name this machine, with time limits."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Iterator, Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send

HEADER_SECONDS = 15.0


class ByPort:
    """Serves each listening port with its own application, to requests that name this machine.

    A web page can make its own name resolve to a loopback address (DNS rebinding). Its requests name that host, and are
    refused.
    """

    def __init__(self, applications: Mapping[int, ASGIApp]) -> None:
        self._applications = applications

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; there are no WebSockets and no lifespan here."""
        if scope["type"] != "http":
            return
        address, port = scope["server"]
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if all(is_ours(host.decode("latin-1"), address) for host in hosts):
            await self._applications[port](scope, receive, send)
        else:
            text = f"The local cloud answers as {address}, 127.0.0.1 and localhost only.\n"
            await PlainTextResponse(text, 403)(scope, receive, send)


def is_ours(host: str, address: str) -> bool:
    """Whether a Host header names this machine: the address that was asked, 127.0.0.1 or localhost, with any port."""
    return re.sub(r":\d*$", "", host).lower() in (address, "127.0.0.1", "localhost")


class Server(uvicorn.Server):
    """Uvicorn without its own signal handlers. It calls `on_start` when it listens."""

    on_start: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and call `on_start`."""
        await super().startup(sockets)
        self.on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals as they are."""
        yield


def bound_waiting(config: uvicorn.Config, seconds: float = HEADER_SECONDS) -> None:
    """Make uvicorn close a connection without a request. Its own limit starts only after an answer."""
    config.load()
    protocol: Any = config.http_protocol_class

    class ImpatientProtocol(protocol):  # type: ignore[misc]
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self.loop.call_later(seconds, self.close_unless_asked, None)

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            if self.cycle is before and (before is None or before.response_complete):
                self.loop.call_later(seconds, self.close_unless_asked, before)

        def close_unless_asked(self, before: object) -> None:
            if self.cycle is before and not self.transport.is_closing():
                self.transport.close()

    config.http_protocol_class = ImpatientProtocol
