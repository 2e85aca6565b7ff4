"""Serves Flower's applications: uvicorn, with our own limits at its sockets.

uvicorn accepts every connection, and waits forever for one that sends nothing. Here every connection counts from the
moment it is accepted, including its TLS handshake, and has a few seconds to send a request.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.responses import PlainTextResponse

from oneflower_appliance.flower.visits import Limits, Visit, Visits
from oneflower_appliance.flower.wires import OPEN, notice_death
from oneflower_appliance.formats import join_address
from oneflower_appliance.orders import Ending
from oneflower_appliance.peers import who_is_there
from oneflower_appliance.process import raise_file_limit

if TYPE_CHECKING:
    from asyncio import BaseTransport, Protocol
    from collections.abc import Callable, Sequence
    from types import FrameType

    from starlette.types import ASGIApp, Receive, Scope, Send

VISIT = "oneflower.visit"
OURSELVES = "ourselves"

PATIENCE = 15.0  # seconds for a handshake, and for the headers of a request
_FAREWELL = 5.0  # seconds for the other end to close the connection too
_LARGEST_HEADERS = 64 * 1024
_RESERVE = 512  # descriptors that strangers never get: they are for our own connections, databases and files
_PAUSE = 0.1
BETWEEN_LOOKS = 2.0  # seconds between two looks at the files of the certificate

log = logging.getLogger("flwr")
_quiet = logging.getLogger("uvicorn.error.connections")
_quiet.setLevel(logging.ERROR)  # anybody can send garbage as often as they like: not worth a line each time


@dataclass(frozen=True)
class Entrance:
    """A bound socket, the application at it, and whom it is for: processes of this user, or anybody."""

    listener: socket.socket
    app: ASGIApp
    ours: bool
    visits: Visits


def own_entrance(listener: socket.socket, app: ASGIApp) -> Entrance:
    """Return the entrance for processes of this user. `app` learns which they are, and refuses others."""
    files = raise_file_limit()
    return Entrance(listener, app, True, Visits(Limits(total=files, strangers=128, address=128, known=files)))


def fleet_entrance(listener: socket.socket, app: ASGIApp) -> Entrance:
    """Return the entrance for SuperNodes. `app` finds out which they are."""
    files = raise_file_limit()
    limits = Limits(total=files - min(_RESERVE, files // 2), strangers=512, address=256, known=64)
    notice_death(listener)
    return Entrance(listener, app, False, Visits(limits))


def listen(address: tuple[str, int]) -> socket.socket:
    """Return a socket bound to an address. If that fails, this process ends with `Ending.ADDRESS_TAKEN`."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    # Marked as TCP, so that asyncio switches Nagle's algorithm off: otherwise an answer may wait 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        sys.stderr.write(f"Cannot listen on {join_address(address)}: [Errno {error.errno}] {error.strerror}\n")
        raise SystemExit(Ending.ADDRESS_TAKEN) from error
    return listener


class Server(uvicorn.Server):
    """Serves at `entrances`. The application of `config` gets only the lifespan events, and no requests."""

    def __init__(
        self, config: uvicorn.Config, entrances: Sequence[Entrance], on_exit: Callable[[], None] = lambda: None
    ) -> None:
        config.app = _Hall(config.app)
        config.ws = "none"
        config.proxy_headers = False
        config.load()
        super().__init__(config)
        self._entrances = entrances
        self._on_exit = on_exit
        self._protocol = _guarded(config.http_protocol_class)
        self._work: set[asyncio.Task[None]] = set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop, because of a signal."""
        self._on_exit()
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's name
        """Open the entrances."""
        for entrance in self._entrances:
            entrance.listener.setblocking(False)
            entrance.listener.listen(self.config.backlog)
        await super().startup(sockets=[])
        if self.started:
            if self.config.ssl:
                self._do(self._follow_certificate(self.config.ssl))
            for entrance in self._entrances:
                self._do(self._receive(entrance))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the entrances, then end open connections."""
        for task in self._work:
            task.cancel()
        for entrance in self._entrances:
            entrance.listener.close()
        await super().shutdown(sockets)

    def _do(self, what: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(what)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task

    async def _follow_certificate(self, context: ssl.SSLContext) -> None:
        """Serve new connections with the certificate that its files then have. Open connections continue."""
        certificate, key = str(self.config.ssl_certfile), str(self.config.ssl_keyfile)
        served = _state_of(certificate, key)
        while True:
            await asyncio.sleep(BETWEEN_LOOKS)
            found = _state_of(certificate, key)
            if found == served:
                continue
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)  # whether they fit together
                context.load_cert_chain(certificate, key)
            except OSError as error:  # including ssl.SSLError. It is tried again: the other file may be written soon
                log.warning("The new certificate cannot be used: %s", error)
                continue
            served = found
            log.info("The certificate was replaced.")

    async def _receive(self, entrance: Entrance) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await entrance.visits.room()
            try:
                connection, (host, *_) = await loop.sock_accept(entrance.listener)
            except OSError:  # out of descriptors, or the client is gone
                await asyncio.sleep(_PAUSE)
                continue
            visit = Visit(host, entrance.app, entrance.visits)
            if entrance.visits.arrive(visit):
                visit.drop = self._do(self._greet(entrance, connection, visit)).cancel
            else:
                connection.close()

    async def _greet(self, entrance: Entrance, connection: socket.socket, visit: Visit) -> None:
        loop, config = asyncio.get_running_loop(), self.config
        connection.setblocking(False)
        patience: dict[str, float] = {}
        if config.ssl:
            patience = {"ssl_handshake_timeout": PATIENCE, "ssl_shutdown_timeout": _FAREWELL}
        try:
            try:
                if entrance.ours:
                    visit.user, ours = await loop.run_in_executor(None, who_is_there, connection)
                    if ours:
                        visit.know(OURSELVES)
            except BaseException:
                connection.close()
                raise
            state = {**self.lifespan.state, VISIT: visit}
            await loop.connect_accepted_socket(
                lambda: self._protocol(visit, config=config, server_state=self.server_state, app_state=state),
                connection,
                ssl=config.ssl,
                **patience,
            )
        except BaseException as error:
            entrance.visits.leave(visit)
            # The handshake failed or took too long.
            if not isinstance(error, OSError):
                raise


def _state_of(*files: str) -> list[tuple[int, int]] | None:
    """Return a value that changes when one of the files is replaced; None while one is missing."""
    try:
        return [(found.st_ino, found.st_mtime_ns) for found in map(os.stat, files)]
    except OSError:
        return None


class _Hall:
    """Passes each request to the application of the entrance that it came through."""

    def __init__(self, host: Any) -> None:
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._host(scope, receive, send)
            return
        app: ASGIApp = scope["state"][VISIT].app
        if any(name == b"upgrade" for name, _ in scope["headers"]):
            app = PlainTextResponse("Only HTTP is spoken here.\n", status_code=400, headers={"Connection": "close"})
        await app(scope, receive, send)


def _guarded(protocol: Any) -> Callable[..., Protocol]:  # noqa: C901 - a class of small methods, counted as one
    """Return uvicorn's protocol, with limits for the time before the application sees a request."""

    class Guarded(protocol):  # type: ignore[misc]
        def __init__(self, visit: Visit, **settings: Any) -> None:
            super().__init__(**settings)
            self.logger = _quiet
            self._visit = visit
            self._patience: asyncio.TimerHandle | None = None
            self._unfinished = 0

        def connection_made(self, transport: BaseTransport) -> None:
            super().connection_made(transport)
            self._visit.drop = self.transport.abort
            self._wait_for_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            self._visit.visits.leave(self._visit)
            self._stop_waiting()
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            if self._visit.who not in ("", OURSELVES):
                self.timeout_keep_alive = OPEN
            super().on_response_complete()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_waiting()  # the headers are complete: from here on the application is responsible
                return
            self._unfinished += len(data)
            if self._unfinished > _LARGEST_HEADERS:
                self.transport.abort()
            elif self._patience is None:
                self._wait_for_headers()

        def _wait_for_headers(self) -> None:
            self._patience = self.loop.call_later(PATIENCE, self.transport.abort)

        def _stop_waiting(self) -> None:
            self._unfinished = 0
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

    return Guarded
