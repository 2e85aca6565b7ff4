"""Machines as process trees. Each has its own loopback address, its own disk folder and its own init.

What would be an image is a runtime: a virtual environment with one release of Flower and one framework.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from oneflower.local.host import init
from oneflower.local.host.addresses import Addresses
from oneflower.local.host.driver import Boot
from oneflower.local.host.processes import MARK, sweep
from oneflower.local.oned.vms import LOOPBACK
from oneflower.runtimes import runtime
from oneflower_appliance.files import private_directory
from oneflower_appliance.log_lines import JSON
from oneflower_appliance.orders import PACKAGES_VARIABLE
from oneflower_appliance.parameters import FLEET_PORT, FLOWER_TESTED, PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from oneflower.local.host.driver import Disk
    from oneflower.local.oned.models import Vm

_FRAMEWORK = "ML_FRAMEWORK"


class ProcessDriver:
    """Runs machines on 127.N.0.0/16. `runtimes` is where runtimes are kept.

    `input_of` tells what a service (its id) has been given for an input (its name).
    """

    subnet = LOOPBACK
    stop_limit = 12.0

    def __init__(self, runtimes: Path, network: int, input_of: Callable[[int, str], str | None]) -> None:
        self.gateway = f"127.{network}.0.1"
        self._runtimes = runtimes
        self._addresses = Addresses(f"127.{network}", _is_free)
        self._input_of = input_of

    def address(self, used: Collection[str]) -> str:
        """Return a free loopback address. Raises `OneflowerError`."""
        return self._addresses.next_free(used)

    async def prepare(self, vm: Vm, folder: Path, _disks: Sequence[Disk] = ()) -> Boot:
        """Build the runtime that the machine asks for, if it is not there yet. Raises `OneflowerError`."""
        version, framework = self._image(vm)
        found = runtime.find(self._runtimes, version, framework)
        if found is None:
            found = await asyncio.to_thread(runtime.ensure, self._runtimes, version, framework)
        private_directory(folder / "root")
        environment = {
            "HOME": str(folder / "root"),
            "LANG": "C.UTF-8",
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": str(found.appliance),
            PACKAGES_VARIABLE: str(found.app_packages),
            MARK: str(folder),
        }
        command = [
            sys.executable, "-I", "-S", init.__file__, *_format(vm),
            str(found.python), "-m", "oneflower_appliance.agent", "boot", "--parent", "{init}",
            "--home", str(folder / "var"), "--context", str(folder / "context"),
        ]  # fmt: skip
        return Boot(command, environment)

    async def lay(self, _folder: Path, _disks: Sequence[Disk]) -> None:
        """Do nothing: these machines have no disks."""

    async def remove(self, _folder: Path, _number: int, *, running: bool) -> None:
        """Do nothing: these machines have no disks."""

    def _image(self, vm: Vm) -> tuple[str, str]:
        """Return Flower's version and the framework. A SuperLink gets the framework of its service's SuperNodes."""
        version = vm.context.get("FLOWER_VERSION") or FLOWER_TESTED
        if _FRAMEWORK in vm.context:
            return version, vm.context[_FRAMEWORK]
        told = self._input_of(vm.service_id, _FRAMEWORK) if vm.service_id is not None else None
        return version, PARAMETERS[_FRAMEWORK].default if told is None else told

    def shut_down(self, pid: int, _folder: Path) -> None:
        """Ask the machine's init to shut it down."""
        os.kill(pid, signal.SIGTERM)

    def sweep(self, folder: Path) -> None:
        """End every process of the machine."""
        sweep(folder)


def _format(vm: Vm) -> list[str]:
    if vm.context.get("FL_LOG_FORMAT") != JSON:
        return []
    return ["--json", json.dumps({"role": vm.context.get("ONEFLOWER_ROLE", ""), "vm": str(vm.id), "process": "init"})]


def _is_free(address: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, FLEET_PORT))
        except OSError:
            return False
        return True
