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

from oneflower.local import init, runtime
from oneflower.local.models import LcmState, Vm, VmState
from oneflower.local.vmtext import context_sh
from oneflower.process import launch
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import private_directory, write_atomic
from oneflower_appliance.parameters import FLOWER_TESTED

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from oneflower.local.home import LocalHome
    from oneflower.local.lifecycle import Engine

MARK = "ONEFLOWER_MACHINE"
_STOP_LIMIT = 12.0
_REBOOT_PAUSE = 1.0
_REBOOTS, _WINDOW = 5, 300.0
_KEPT_CONSOLES = 20
_FLEET_PORT = 9092


class Machines:
    """The host of the local cloud."""

    def __init__(self, home: LocalHome, engine: Engine, network: int) -> None:
        self._home = home
        self._engine = engine
        self._network = network
        self._watched: dict[int, Callable[[], None]] = {}
        self._stopping: dict[int, asyncio.Event] = {}
        self._reboots: dict[int, list[float]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def adopt(self) -> None:
        """Find the machines of an earlier daemon again; carry on with what it had begun."""
        for vm in list(self._engine.vms.values()):
            alive = vm.pid and _born(vm.pid) == vm.born
            if vm.lcm_state is LcmState.SHUTDOWN:
                if alive:
                    self._watch(vm)
                self.stop(vm, hard=False)
            elif alive:
                self._watch(vm)
            elif vm.running and _has_guest(vm):
                self._lost(vm, "The machine was not running any more when the local cloud came back.")
            elif not vm.running and _has_guest(vm):
                self._do(self._boot_clean(vm))
            elif not vm.running:
                self.start(vm)

    def address(self, taken: set[str]) -> str:
        """Return the next free address 127.network.x.y."""
        for number in range(2, 65534):
            address = f"127.{self._network}.{number >> 8}.{number & 255}"
            if address not in taken and number & 255 not in (0, 255) and _free(address):
                return address
        raise OneflowerError("No address is left for another machine.", "Delete a federation first.")

    def start(self, vm: Vm) -> None:
        """Boot a machine; one without a guest of ours is up at once, and runs nothing."""
        if _has_guest(vm):
            self._do(self._boot(vm))
            return
        try:
            self._write_context(vm)
        except OneflowerError as error:
            self._engine.vm_failed(vm, error.sentence)
        else:
            self._engine.vm_running(vm)

    def stop(self, vm: Vm, *, hard: bool) -> None:
        """Shut a machine down for good and remove its disk."""
        self._do(self._shut_down(vm, hard=hard))

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _boot_clean(self, vm: Vm) -> None:
        """Boot a machine of which something may be left from before."""
        await asyncio.to_thread(sweep, self._home.machine(vm.id))
        await self._boot(vm)

    async def _boot(self, vm: Vm) -> None:
        try:
            version, framework = self._image(vm)
            found = runtime.find(self._home, version, framework)
            if found is None:
                found = await asyncio.to_thread(runtime.ensure, self._home, version, framework)
            if vm.lcm_state is LcmState.SHUTDOWN or vm.id not in self._engine.vms:
                return
            self._launch(vm, found)
        except OneflowerError as error:
            self._engine.vm_failed(vm, error.sentence)
            return
        except OSError as error:
            self._engine.vm_failed(vm, f"The machine could not be started: {error}.")
            return
        self._engine.vm_running(vm)
        self._watch(vm)

    def _image(self, vm: Vm) -> tuple[str, str]:
        """Return Flower's version and the framework. A SuperLink gets the framework of its service's SuperNodes."""
        context = vm.context
        version = context.get("FLOWER_VERSION") or FLOWER_TESTED
        if "ML_FRAMEWORK" in context:
            return version, context["ML_FRAMEWORK"]
        service = self._engine.service_of(vm)
        values = (role.get("user_inputs_values") or {} for role in (service.roles if service else ()))
        return version, next((value["ML_FRAMEWORK"] for value in values if "ML_FRAMEWORK" in value), "sklearn")

    def _launch(self, vm: Vm, found: runtime.Runtime) -> None:
        folder = self._write_context(vm)
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

    def _write_context(self, vm: Vm) -> Path:
        folder = private_directory(self._home.machine(vm.id))
        write_atomic(folder / "context" / "context.sh", context_sh(vm.context))
        if vm.context.get("TOKEN") == "YES":
            write_atomic(folder / "context" / "token.txt", vm.token)
        return folder

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
            if event := self._stopping.get(vm.id):
                event.set()
            else:
                self._lost(vm, "The machine went down by itself.")

        self._watched[vm.id] = forget
        loop.add_reader(descriptor, ended)

    def _lost(self, vm: Vm, reason: str) -> None:
        """Clear up after a machine that died, and boot it again as a hypervisor's host would, but not for ever."""
        self._engine.vm_lost(vm, reason)
        self._do(self._reboot(vm))

    async def _reboot(self, vm: Vm) -> None:
        await asyncio.to_thread(sweep, self._home.machine(vm.id))
        now = time.monotonic()
        reboots = [moment for moment in self._reboots.get(vm.id, []) if now - moment < _WINDOW]
        self._reboots[vm.id] = [*reboots, now]
        if len(reboots) >= _REBOOTS:
            self._engine.vm_lost(
                vm, f"The machine went down {_REBOOTS} times within {_WINDOW / 60:.0f} minutes; left off."
            )
            return
        await asyncio.sleep(_REBOOT_PAUSE)
        if vm.id in self._engine.vms and vm.state is VmState.POWEROFF:
            await self._boot(vm)

    async def _shut_down(self, vm: Vm, *, hard: bool) -> None:
        folder = self._home.machine(vm.id)
        event = self._stopping.setdefault(vm.id, asyncio.Event())
        if vm.id in self._watched:
            with suppress(ProcessLookupError):
                os.kill(vm.pid, signal.SIGKILL if hard else signal.SIGTERM)
            with suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), _STOP_LIMIT)
            if forget := self._watched.get(vm.id):
                forget()
        await asyncio.to_thread(self._remove, vm, folder)
        self._stopping.pop(vm.id, None)
        self._engine.vm_stopped(vm)

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


def _has_guest(vm: Vm) -> bool:
    return "ONEFLOWER_ROLE" in vm.context


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
