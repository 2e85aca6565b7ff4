"""Machines as process trees: each with its own loopback address, its own disk folder and its own init.

A machine outlives the daemon: it is known by its init's process id and start time, found again after a restart, and
its end is an event (a pidfd), never a poll. Every process of a machine carries ONEFLOWER_MACHINE in its environment,
so that what is left of a machine can be found and ended whatever became of its init.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from oneflower.local.host import init
from oneflower.opennebula.states import LcmState
from oneflower.opennebula.text import context_sh
from oneflower.process import launch
from oneflower.runtimes import runtime
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import private_directory, write_atomic
from oneflower_appliance.parameters import FLOWER_TESTED

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from oneflower.local.home import LocalHome
    from oneflower.local.oned.compute import Compute
    from oneflower.local.oned.models import Vm
    from oneflower.local.oneflow.documents import Documents

MARK = "ONEFLOWER_MACHINE"
_STOP_LIMIT = 12.0
_REBOOT_PAUSE = 1.0
_REBOOTS, _WINDOW = 5, 300.0
_KEPT_CONSOLES = 20
_FLEET_PORT = 9092


class Machines:
    """The host of the local cloud. What is done to one machine is done one after the other."""

    def __init__(self, home: LocalHome, compute: Compute, documents: Documents, network: int) -> None:
        self._home = home
        self._compute = compute
        self._documents = documents
        self._network = network
        self._next_address = 2
        self._watched: dict[int, Callable[[], None]] = {}
        self._ended: dict[int, asyncio.Event] = {}
        self._turns: dict[int, asyncio.Lock] = {}
        self._reboots: dict[int, list[float]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def adopt(self) -> None:
        """Find the machines of an earlier daemon again; carry on with what it had begun."""
        for vm in [vm for vm in self._compute.vms.values() if self._compute.has_guest(vm)]:
            alive = vm.pid and _born(vm.pid) == vm.born
            if alive:
                self._watch(vm)
            if vm.lcm_state is LcmState.SHUTDOWN:
                self.stop(vm, hard=False, keep=False)
            elif vm.running and not alive:
                self._lost(vm, "The machine was not running any more when the local cloud came back.")
            elif not vm.running and not vm.parked and not alive:
                self._do(vm, self._boot_clean(vm))

    def address(self) -> str:
        """Return the next free address 127.network.x.y."""
        taken = {vm.ip for vm in self._compute.vms.values()} if self._next_address == 2 else set()
        for _ in range(65532):
            number, self._next_address = self._next_address, self._next_address % 65533 + 1
            address = f"127.{self._network}.{number >> 8}.{number & 255}"
            if number > 1 and number & 255 not in (0, 255) and address not in taken and _free(address):
                return address
        raise OneflowerError("No address is left for another machine.", "Delete a federation first.")

    def prepare(self, vm: Vm, token: str) -> None:
        """Write what the machine reads at boot."""
        folder = private_directory(self._home.machine(vm.id))
        write_atomic(folder / "context" / "context.sh", context_sh(vm.context))
        if vm.context.get("TOKEN", "").upper() == "YES":
            write_atomic(folder / "context" / "token.txt", token)

    def start(self, vm: Vm) -> None:
        """Boot a machine."""
        self._do(vm, self._boot(vm))

    def stop(self, vm: Vm, *, hard: bool, keep: bool) -> None:
        """Shut a machine down; its disk goes too, unless `keep`."""
        self._ended.setdefault(vm.id, asyncio.Event())
        self._do(vm, self._shut_down(vm, hard=hard, keep=keep))

    def discard(self, vm: Vm) -> None:
        """Remove what was prepared for a machine that never ran anything."""
        shutil.rmtree(self._home.machine(vm.id), ignore_errors=True)

    def _do(self, vm: Vm, work: Coroutine[Any, Any, None]) -> None:
        async def in_turn() -> None:
            async with self._turns.setdefault(vm.id, asyncio.Lock()):
                await work

        task = asyncio.get_running_loop().create_task(in_turn())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _boot_clean(self, vm: Vm) -> None:
        """Boot a machine of which something may be left from before."""
        await asyncio.to_thread(sweep, self._home.machine(vm.id))
        await self._boot(vm)

    async def _boot(self, vm: Vm) -> None:
        try:
            version, framework = self._image(vm)
            found = runtime.find(self._home.runtimes, version, framework)
            if found is None:
                found = await asyncio.to_thread(runtime.ensure, self._home.runtimes, version, framework)
            if vm.lcm_state is not LcmState.PROLOG or vm.id not in self._compute.vms:
                return
            self._launch(vm, found)
        except OneflowerError as error:
            self._compute.vm_failed(vm, error.sentence)
            return
        except OSError as error:
            self._compute.vm_failed(vm, f"The machine could not be started: {error}.")
            return
        self._compute.vm_running(vm)
        self._watch(vm)

    def _image(self, vm: Vm) -> tuple[str, str]:
        """Return Flower's version and the framework. A SuperLink gets the framework of its service's SuperNodes."""
        context = vm.context
        version = context.get("FLOWER_VERSION") or FLOWER_TESTED
        if "ML_FRAMEWORK" in context:
            return version, context["ML_FRAMEWORK"]
        service = self._documents.service(vm.service_id) if vm.service_id is not None else None
        values = (role.get("user_inputs_values") or {} for role in (service.roles if service else ()))
        return version, next((value["ML_FRAMEWORK"] for value in values if "ML_FRAMEWORK" in value), "sklearn")

    def _launch(self, vm: Vm, found: runtime.Runtime) -> None:
        folder = self._home.machine(vm.id)
        private_directory(folder / "root")
        environment = {
            "HOME": str(folder / "root"),
            "LANG": "C.UTF-8",
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": str(found.appliance),
            MARK: str(folder),
        }
        command = [
            sys.executable, "-I", "-S", init.__file__,
            str(found.python), "-m", "oneflower_appliance.agent", "boot", "--parent", "{init}",
            "--home", str(folder / "var"), "--context", str(folder / "context"),
        ]  # fmt: skip
        vm.pid = launch(command, folder / "console.log", environment)
        vm.born = _born(vm.pid)

    def _watch(self, vm: Vm) -> None:
        try:
            descriptor = os.pidfd_open(vm.pid)
        except ProcessLookupError:
            self._lost(vm, "The machine went down by itself.")
            return
        loop = asyncio.get_running_loop()

        def forget() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            self._watched.pop(vm.id, None)

        def ended() -> None:
            forget()
            with suppress(ChildProcessError):
                os.waitpid(vm.pid, os.WNOHANG)
            if event := self._ended.get(vm.id):
                event.set()
            else:
                self._lost(vm, "The machine went down by itself.")

        self._watched[vm.id] = forget
        loop.add_reader(descriptor, ended)

    def _lost(self, vm: Vm, reason: str) -> None:
        """Clear up after a machine that died, and boot it again as a hypervisor's host would, but not for ever."""
        self._compute.vm_lost(vm, reason)
        self._do(vm, self._reboot(vm))

    async def _reboot(self, vm: Vm) -> None:
        await asyncio.to_thread(sweep, self._home.machine(vm.id))
        now = time.monotonic()
        reboots = [moment for moment in self._reboots.get(vm.id, []) if now - moment < _WINDOW]
        self._reboots[vm.id] = [*reboots, now]
        if len(reboots) >= _REBOOTS:
            reason = f"The machine went down {_REBOOTS} times within {_WINDOW / 60:.0f} minutes; left off."
            self._compute.vm_lost(vm, reason)
            return
        await asyncio.sleep(_REBOOT_PAUSE)
        if vm.id in self._compute.vms and vm.parked:
            vm.lcm_state = LcmState.PROLOG
            await self._boot(vm)

    async def _shut_down(self, vm: Vm, *, hard: bool, keep: bool) -> None:
        if vm.id in self._watched:
            with suppress(ProcessLookupError):
                os.kill(vm.pid, signal.SIGKILL if hard else signal.SIGTERM)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended[vm.id].wait(), _STOP_LIMIT)
            if forget := self._watched.get(vm.id):
                forget()
        self._ended.pop(vm.id, None)
        if keep:
            await asyncio.to_thread(sweep, self._home.machine(vm.id))
        else:
            await asyncio.to_thread(self._remove, vm, self._home.machine(vm.id))
            self._turns.pop(vm.id, None)
        self._compute.vm_stopped(vm)

    def _remove(self, vm: Vm, folder: Path) -> None:
        sweep(folder)
        console = folder / "console.log"
        if console.exists():
            private_directory(self._home.logs)
            with suppress(OSError):
                console.replace(self._home.logs / f"{int(time.time())}-{vm.name}.log")
            for old in sorted(self._home.logs.iterdir())[:-_KEPT_CONSOLES]:
                old.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def sweep(folder: Path) -> None:
    """End every process that belongs to the machine in `folder`."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.uids().real == os.getuid() and process.environ().get(MARK) == str(folder):
                process.kill()


def _born(pid: int) -> int:
    """Return the start time of a process in clock ticks since boot, 0 when there is none (or only its zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] == "Z" else int(fields[19])


def _free(address: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, _FLEET_PORT))
        except OSError:
            return False
        return True
