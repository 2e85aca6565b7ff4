"""The daemon: OneFlow, OneGate and XML-RPC in one process, on their standard ports of the cloud's own address."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import secrets
import signal
import socket
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

import uvicorn

from oneflower.local.build import build_id
from oneflower.local.core import core_app
from oneflower.local.home import LocalHome
from oneflower.local.lifecycle import Engine
from oneflower.local.machines import Machines
from oneflower.local.oneflow import oneflow_app
from oneflower.local.onegate import onegate_app
from oneflower.local.store import Store
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger(__name__)

XMLRPC_PORT, ONEFLOW_PORT, ONEGATE_PORT = 2633, 2474, 5030
IDLE_LIMIT = 600.0
_NETWORKS = range(16, 250)


class ByPort:
    """Serves each listening port with its own application."""

    def __init__(self, applications: Mapping[int, ASGIApp]) -> None:
        self._applications = applications

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; there are no WebSockets and no lifespan here."""
        if scope["type"] == "http":
            await self._applications[scope["server"][1]](scope, receive, send)


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handlers, which says when it listens."""

    on_start: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(address: str, port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
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
    raise OneflowerError(
        f"The local cloud cannot listen on 127.{known or 'x'}.0.1, ports {', '.join(map(str, ports))}.",
        "Another program listens there: stop it, or choose another ONEFLOWER_HOME.",
        ExitCode.ENVIRONMENT,
    )


async def serve(home: LocalHome) -> None:
    """Run until SIGTERM, or until there has been nothing to look after for a while."""
    store = Store(home.database)
    network, sockets = _open_sockets(store)
    address = f"127.{network}.0.1"
    secret = "oneadmin:" + store.setting("password", secrets.token_urlsafe(24))
    loop = asyncio.get_running_loop()
    engine = Engine(store, f"http://{address}:{ONEGATE_PORT}", loop.call_later)
    machines = Machines(home, engine, network)
    engine.host = machines
    applications = {
        XMLRPC_PORT: core_app(engine, secret),
        ONEFLOW_PORT: oneflow_app(engine, secret),
        ONEGATE_PORT: onegate_app(engine),
    }
    config = uvicorn.Config(
        ByPort(applications), log_config=None, access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=1
    )
    server = _Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: setattr(server, "should_exit", True))
    machines.adopt()
    engine.resume()
    idle = asyncio.create_task(_leave_when_idle(engine, server))
    server.on_start = lambda: _announce(home, address, secret)
    await server.serve(sockets=sockets)
    idle.cancel()
    home.record.unlink(missing_ok=True)
    store.close()


def _announce(home: LocalHome, address: str, secret: str) -> None:
    record = {
        "pid": os.getpid(),
        "build": build_id(),
        "xmlrpc": f"http://{address}:{XMLRPC_PORT}/RPC2",
        "oneflow": f"http://{address}:{ONEFLOW_PORT}",
        "onegate": f"http://{address}:{ONEGATE_PORT}",
        "auth": secret,
    }
    write_atomic(home.record, json.dumps(record, indent=1) + "\n")
    log.info("serving on %s", address)


async def _leave_when_idle(engine: Engine, server: uvicorn.Server) -> None:
    busy = time.monotonic()
    while True:
        await asyncio.sleep(30)
        if engine.vms:
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
    """Run the daemon in this process. Arguments: the state folder and the cache folder."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    os.umask(0o077)
    home = LocalHome(*map(Path, sys.argv[1:3])).make()
    with home.lock.open("w") as lock:
        if not _take(lock):
            return  # another one is up, or about to be
        try:
            asyncio.run(serve(home))
        except OneflowerError as error:
            log.error("%s", error.sentence)  # noqa: TRY400 - a sentence for people
            sys.exit(error.code)


if __name__ == "__main__":
    main()
