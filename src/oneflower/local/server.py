"""The daemon: OneFlow, OneGate and XML-RPC in one process, on their standard ports of the cloud's own address."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import logging
import os
import secrets
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import uvicorn

from oneflower.local.build import build_id
from oneflower.local.clock import TIMINGS, Clock, Pace, SteppedClock, WallClock
from oneflower.local.home import LocalHome
from oneflower.local.host import container_driver, init, qemu_driver
from oneflower.local.host.bridge import Bridge
from oneflower.local.host.machines import Machines
from oneflower.local.host.process_driver import ProcessDriver
from oneflower.local.oned import hotplug
from oneflower.local.oned.compute import Compute
from oneflower.local.oned.xmlrpc import xmlrpc_app
from oneflower.local.oneflow.calls import oneflow_app
from oneflower.local.oneflow.documents import Documents
from oneflower.local.oneflow.lifecycle import Lifecycle
from oneflower.local.onegate.calls import onegate_app
from oneflower.local.serving import ByPort, Server, bound_waiting
from oneflower.local.sockets import (
    ONEFLOW_PORT,
    ONEGATE_PORT,
    XMLRPC_PORT,
    open_gateway,
    open_own,
    open_standard,
)
from oneflower.local.stepping import ClockCalls
from oneflower.local.store import Store
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import write_atomic

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from oneflower.local.host.driver import Driver

log = logging.getLogger(__name__)

IDLE_LIMIT = 600.0


@dataclass(frozen=True)
class Options:
    """How the daemon runs: how fast states change, whether it listens on 127.0.0.1 too, and stays when idle.

    `image` is what machines boot from: a root file system, which is a folder, for containers, or a qcow2 file for
    virtual machines. Without one, machines are process trees.
    """

    pace: Pace = Pace.IMMEDIATE
    standard_ports: bool = False
    stay: bool = False
    image: Path | None = None


async def serve(home: LocalHome, options: Options = Options()) -> None:
    """Run until SIGTERM, or until there have been no machines for a while."""
    store = Store(home.database)
    network, sockets = open_own(store)
    address = f"127.{network}.0.1"
    if options.standard_ports:
        sockets += open_standard()
    secret = "oneadmin:" + store.setting("password", secrets.token_urlsafe(24))
    clock = SteppedClock() if options.pace is Pace.STEPPED else WallClock(asyncio.get_running_loop())
    image = _image(store, options.image)
    cloud = _Cloud(home, store, clock, options.pace, network, image)
    if cloud.gateway != address:
        sockets.append(open_gateway(cloud.gateway))
    server = Server(_config(cloud.applications(secret)))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: setattr(server, "should_exit", True))
    cloud.carry_on()
    idle = asyncio.create_task(_stop_when_idle(cloud.compute, store, server, home, stay=options.stay))
    server.on_start = lambda: _announce(home, address, secret, options, image)
    await server.serve(sockets=sockets)
    idle.cancel()
    home.record.unlink(missing_ok=True)
    store.close()


class _Cloud:
    """Everything that the servers serve."""

    def __init__(
        self, home: LocalHome, store: Store, clock: Clock, pace: Pace, network: int, image: Path | None
    ) -> None:
        self._clock = clock
        self._documents = Documents(store, clock)
        driver: Driver
        if image is None:
            driver = ProcessDriver(home.runtimes, network, self._documents.input_of)
        elif image.is_dir():
            driver = container_driver.ContainerDriver(image, Bridge(network), home.unpacked)
        else:
            driver = qemu_driver.QemuDriver(image, Bridge(network))
        self.gateway = driver.gateway
        onegate = f"http://{driver.gateway}:{ONEGATE_PORT}"
        self.compute = Compute(store, clock, TIMINGS[pace], onegate, driver.subnet)
        self._lifecycle = Lifecycle(self._documents, self.compute)
        self._machines = Machines(home, self.compute, driver)
        self.compute.host = self._machines

    def applications(self, secret: str) -> dict[int, ASGIApp]:
        """Return the application of each port."""
        documents, lifecycle, compute = self._documents, self._lifecycle, self.compute
        return {
            XMLRPC_PORT: xmlrpc_app(compute, secret),
            ONEFLOW_PORT: oneflow_app(documents, lifecycle, compute, secret, ClockCalls(self._clock).table()),
            ONEGATE_PORT: onegate_app(documents, lifecycle, compute),
        }

    def carry_on(self) -> None:
        """Continue where an earlier daemon stopped."""
        self._machines.adopt()
        hotplug.resume(self.compute)
        self.compute.resume()
        self._lifecycle.start()


def _image(store: Store, given: Path | None) -> Path | None:
    """Return the image that machines boot from: the one that is given, else the one of this cloud's machines.

    Raises `OneflowerError` where this machine cannot run it.
    """
    if given is not None:
        store.set_setting("image", str(given))
    known = store.setting("image", "")
    if not known:
        return None
    image = Path(known)
    (container_driver if image.is_dir() else qemu_driver).check_host(image)
    return image


def _config(applications: dict[int, ASGIApp]) -> uvicorn.Config:
    config = uvicorn.Config(
        ByPort(applications), log_config=None, access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=1
    )
    bound_waiting(config)
    return config


def _announce(home: LocalHome, address: str, secret: str, options: Options, image: Path | None) -> None:
    record = {
        "pid": os.getpid(),
        "build": build_id(),
        "pace": options.pace,
        "image": None if image is None else str(image),
        "xmlrpc": f"http://{address}:{XMLRPC_PORT}/RPC2",
        "oneflow": f"http://{address}:{ONEFLOW_PORT}",
        "onegate": f"http://{address}:{ONEGATE_PORT}",
        "auth": secret,
    }
    write_atomic(home.one_auth, secret + "\n")
    write_atomic(home.record, json.dumps(record, indent=1) + "\n")
    also = " and on 127.0.0.1" if options.standard_ports else ""
    log.info("serving on %s%s, pace %s", address, also, options.pace)


async def _stop_when_idle(compute: Compute, store: Store, server: Server, home: LocalHome, *, stay: bool) -> None:
    """Stop after some time without machines; until then, write what could not be written, and keep the log short."""
    ours = _log_is(home.log)
    busy = time.monotonic()
    while True:
        await asyncio.sleep(30)
        store.settle()
        if ours:
            init.rotate()
        if compute.vms or stay:
            busy = time.monotonic()
        elif time.monotonic() - busy > IDLE_LIMIT:
            log.info("no machines are left: stopping; the next command starts the local cloud again")
            server.should_exit = True


def _log_is(file: Path) -> bool:
    """Whether this process writes to that file, and not to one that somebody else chose."""
    return Path("/proc/self/fd/2").resolve() == file.resolve()


def _take(lock: IO[str]) -> bool:
    """Take the lock. A command that checks the lock holds it for a moment, so one refusal is not enough to give up."""
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
    parser.add_argument("--image", type=Path)
    given = parser.parse_args()
    home = LocalHome(given.state, given.cache).make()
    with home.lock.open("w") as lock:
        if not _take(lock):
            return  # another daemon runs, or is about to
        try:
            asyncio.run(serve(home, Options(given.pace, given.standard_ports, given.stay, given.image)))
        except OneflowerError as error:
            log.error("%s", error.sentence)  # noqa: TRY400 - a sentence for people
            with suppress(OSError):  # the disk may be full
                write_atomic(home.failure, error.sentence)
            sys.exit(error.code)


if __name__ == "__main__":
    main()
