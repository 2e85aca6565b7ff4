"""The daemon: OneFlow, OneGate and XML-RPC in one process, on their standard ports of the cloud's own address."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import json
import logging
import os
import re
import secrets
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import uvicorn
from starlette.responses import PlainTextResponse

from oneflower.local.build import build_id
from oneflower.local.clock import TIMINGS, Clock, Pace, SteppedClock, WallClock
from oneflower.local.errors import CloudError
from oneflower.local.home import LocalHome
from oneflower.local.host import init
from oneflower.local.host.machines import Machines
from oneflower.local.oned.compute import Compute
from oneflower.local.oned.xmlrpc import xmlrpc_app
from oneflower.local.oneflow.calls import oneflow_app
from oneflower.local.oneflow.documents import Documents
from oneflower.local.oneflow.lifecycle import Lifecycle
from oneflower.local.onegate.calls import onegate_app
from oneflower.local.store import Store
from oneflower.local.wire import Call, html, json_body
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import write_atomic
from oneflower_appliance.peers import listener_uid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger(__name__)

XMLRPC_PORT, ONEFLOW_PORT, ONEGATE_PORT = 2633, 2474, 5030
IDLE_LIMIT = 600.0
HEADER_SECONDS = 15.0
_LONGEST_STEP = 10_000_000
_NETWORKS = range(16, 250)


class ByPort:
    """Serves each listening port with its own application, under the names that this machine alone has.

    A web page whose own name leads to a loopback address (DNS rebinding) asks with that name, and is refused.
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


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handlers, which says when it listens."""

    on_start: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bound_waiting(config: uvicorn.Config, seconds: float = HEADER_SECONDS) -> None:
    """Have uvicorn close a connection that does not come to ask anything: its own limit begins after an answer."""
    config.load()
    protocol: Any = config.http_protocol_class

    class ImpatientProtocol(protocol):  # type: ignore[misc]
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self.loop.call_later(seconds, self.leave_unless_asked, None)

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            if self.cycle is before and (before is None or before.response_complete):
                self.loop.call_later(seconds, self.leave_unless_asked, before)

        def leave_unless_asked(self, before: object) -> None:
            if self.cycle is before and not self.transport.is_closing():
                self.transport.close()

    config.http_protocol_class = ImpatientProtocol


def _listen(address: str, port: int) -> socket.socket:
    # Named as TCP, so that asyncio switches Nagle's algorithm off: without that every answer waits up to 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def _open_sockets(store: Store) -> tuple[int, list[socket.socket]]:
    """Listen on 127.N.0.1, N being this cloud's own for ever: its machines know OneGate by that address."""
    ports = (XMLRPC_PORT, ONEFLOW_PORT, ONEGATE_PORT)
    start = secrets.choice(_NETWORKS)
    known = store.setting("network", "")
    for number in [int(known)] if known else [*range(start, _NETWORKS.stop), *range(_NETWORKS.start, start)]:
        sockets: list[socket.socket] = []
        try:
            for port in ports:
                sockets.append(_listen(f"127.{number}.0.1", port))  # noqa: PERF401 - what was opened must be closed
        except OSError:
            for opened in sockets:
                opened.close()
            continue
        store.set_setting("network", str(number))
        return number, sockets
    raise _taken(f"127.{known or start}.0.1", ports)


def _taken(address: str, ports: Sequence[int]) -> OneflowerError:
    """Return the error that says who has the ports of an address. The machines of this cloud know no other address."""
    holders = {port: uid for port in ports if (uid := listener_uid((address, port))) is not None}
    if all(uid == os.geteuid() for uid in holders.values()):
        return OneflowerError(
            f"The local cloud cannot listen on {address}, ports {', '.join(map(str, ports))}.",
            "Another program of yours listens there: stop it, or choose another ONEFLOWER_HOME.",
            ExitCode.ENVIRONMENT,
        )
    who = ", ".join(f"port {port} by user id {uid}" for port, uid in holders.items())
    return OneflowerError(
        f"The local cloud cannot listen on {address}: another user of this machine has taken {who}.",
        "It gets no password and no token, and your machines wait. Have that user or root stop the program "
        f"(root sees it with `ss -ltnp src {address}`), then try again.",
        ExitCode.ENVIRONMENT,
    )


def _open_standard() -> list[socket.socket]:
    """Listen where OpenNebula's servers do by default. Raises `OneflowerError`."""
    sockets: list[socket.socket] = []
    for port in (XMLRPC_PORT, ONEFLOW_PORT, ONEGATE_PORT):
        try:
            sockets.append(_listen("127.0.0.1", port))
        except OSError as error:
            for opened in sockets:
                opened.close()
            raise OneflowerError(
                f"The standard port {port} of 127.0.0.1 cannot be used: {error.strerror}.",
                "An OpenNebula or another local cloud listens there: stop it, or do without --ports standard.",
                ExitCode.ENVIRONMENT,
            ) from error
    return sockets


@dataclass(frozen=True)
class Options:
    """How the daemon is run: how fast states change, whether also on 127.0.0.1, and whether it stays when idle."""

    pace: Pace = Pace.IMMEDIATE
    standard_ports: bool = False
    stay: bool = False


async def serve(home: LocalHome, options: Options = Options()) -> None:
    """Run until SIGTERM, or until there has been nothing to look after for a while."""
    store = Store(home.database)
    network, sockets = _open_sockets(store)
    address = f"127.{network}.0.1"
    if options.standard_ports:
        sockets += _open_standard()
    secret = "oneadmin:" + store.setting("password", secrets.token_urlsafe(24))
    clock = SteppedClock() if options.pace is Pace.STEPPED else WallClock(asyncio.get_running_loop())
    compute = Compute(store, clock, TIMINGS[options.pace], f"http://{address}:{ONEGATE_PORT}")
    documents = Documents(store, clock)
    lifecycle = Lifecycle(documents, compute)
    compute.host = machines = Machines(home, compute, documents, network)
    applications = {
        XMLRPC_PORT: xmlrpc_app(compute, secret),
        ONEFLOW_PORT: oneflow_app(documents, lifecycle, compute, secret, _clock_calls(clock)),
        ONEGATE_PORT: onegate_app(documents, lifecycle, compute),
    }
    config = uvicorn.Config(
        ByPort(applications), log_config=None, access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=1
    )
    bound_waiting(config)
    server = _Server(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: setattr(server, "should_exit", True))
    machines.adopt()
    compute.resume()
    lifecycle.start()
    ours = _log_is(home.log)
    idle = asyncio.create_task(_leave_when_idle(compute, server, ours=ours, stay=options.stay))
    server.on_start = lambda: _announce(home, address, secret, options)
    await server.serve(sockets=sockets)
    idle.cancel()
    home.record.unlink(missing_ok=True)
    store.close()


def _clock_calls(clock: Clock) -> list[Call]:
    """Return the one call that OneFlow does not have: moving a clock that stands still."""
    if not isinstance(clock, SteppedClock):
        return []

    async def advance(request: Request) -> Response:
        body = await json_body(request)
        seconds = body.get("advance") if isinstance(body, dict) else None
        if not isinstance(seconds, int | float) or not 0 <= seconds <= _LONGEST_STEP:
            raise CloudError(400, f"advance must be a number of seconds, at most {_LONGEST_STEP}")
        clock.advance(seconds)
        return html({"now": clock.now()})

    return [Call("POST", "/oneflower/clock", advance)]


def _announce(home: LocalHome, address: str, secret: str, options: Options) -> None:
    record = {
        "pid": os.getpid(),
        "build": build_id(),
        "pace": options.pace,
        "xmlrpc": f"http://{address}:{XMLRPC_PORT}/RPC2",
        "oneflow": f"http://{address}:{ONEFLOW_PORT}",
        "onegate": f"http://{address}:{ONEGATE_PORT}",
        "auth": secret,
    }
    write_atomic(home.one_auth, secret + "\n")
    write_atomic(home.record, json.dumps(record, indent=1) + "\n")
    also = " and on 127.0.0.1" if options.standard_ports else ""
    log.info("serving on %s%s, pace %s", address, also, options.pace)


def _log_is(file: Path) -> bool:
    """Whether this process writes to that file, and not where somebody else had it write to."""
    return Path("/proc/self/fd/2").resolve() == file.resolve()


async def _leave_when_idle(compute: Compute, server: uvicorn.Server, *, ours: bool, stay: bool) -> None:
    """Leave after a time without machines; meanwhile keep the log short, if it is `ours`."""
    busy = time.monotonic()
    while True:
        await asyncio.sleep(30)
        if ours:
            init.rotate()
        if compute.vms or stay:
            busy = time.monotonic()
        elif time.monotonic() - busy > IDLE_LIMIT:
            log.info("nothing to look after, leaving; the next command starts the local cloud again")
            server.should_exit = True


def _take(lock: IO[str]) -> bool:
    """Take the lock. A command that looks whether it is held holds it for a moment, so one refusal means little."""
    for _ in range(20):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.02)
        else:
            return True
    return False


def main() -> None:
    """Run the daemon in this process."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    os.umask(0o077)
    parser = argparse.ArgumentParser()
    parser.add_argument("state", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--pace", type=Pace, default=Pace.IMMEDIATE)
    parser.add_argument("--standard-ports", action="store_true")
    parser.add_argument("--stay", action="store_true")
    given = parser.parse_args()
    home = LocalHome(given.state, given.cache).make()
    with home.lock.open("w") as lock:
        if not _take(lock):
            return  # another one is up, or about to be
        try:
            asyncio.run(serve(home, Options(given.pace, given.standard_ports, given.stay)))
        except OneflowerError as error:
            log.error("%s", error.sentence)  # noqa: TRY400 - a sentence for people
            sys.exit(error.code)


if __name__ == "__main__":
    main()
