"""Machines as process trees. Each has its own loopback address, its own disk folder and its own init.

A machine outlives the daemon. It is identified by the process id and start time of its init, so the next daemon finds
it again. Its end is an event (a pidfd), never a poll.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from oneflower.local.host import init
from oneflower.local.host.addresses import Addresses
from oneflower.local.host.processes import MARK, born, sweep
from oneflower.opennebula.states import LcmState
from oneflower.opennebula.text import context_sh
from oneflower.process import launch
from oneflower.runtimes import runtime
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import private_directory, write_atomic
from oneflower_appliance.parameters import FLOWER_TESTED, PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from oneflower.local.home import LocalHome
    from oneflower.local.oned.compute import Compute
    from oneflower.local.oned.models import Vm

_FRAMEWORK = "ML_FRAMEWORK"
_STOP_LIMIT = 12.0
_REBOOT_PAUSE = 1.0
_REBOOTS, _WINDOW = 5, 300.0
_KEPT_CONSOLES = 20


class Machines:
    """The host of the local cloud. Operations on one machine are done one after another.

    `input_of` returns the value that a service (its id) was given for an input (its name).
    """

    def __init__(
        self, home: LocalHome, compute: Compute, network: int, input_of: Callable[[int, str], str | None]
    ) -> None:
        self._home = home
        self._compute = compute
        self._addresses = Addresses(network)
        self._input_of = input_of
        self._watched: dict[int, Callable[[], None]] = {}
        self._ended: dict[int, asyncio.Event] = {}
        self._turns: dict[int, asyncio.Lock] = {}
        self._reboots: dict[int, list[float]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def adopt(self) -> None:
        """Find the machines of an earlier daemon, and continue what it had begun."""
        for vm in [vm for vm in self._compute.vms.values() if self._compute.has_guest(vm)]:
            alive = vm.pid and born(vm.pid) == vm.born
            if alive:
                self._watch(vm)
            if vm.lcm_state is LcmState.SHUTDOWN:
                self.stop(vm, hard=False, keep=False)
            elif vm.running and not alive:
                self._lost(vm, "The machine was no longer running when the local cloud started again.")
            elif not vm.running and not vm.parked and not alive:
                self._do(vm, self._boot_clean(vm))

    def address(self) -> str:
        """Return a free address for a machine. Raises `OneflowerError`."""
        return self._addresses.next_free({vm.ip for vm in self._compute.vms.values()})

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
        """Shut a machine down. Its disk is removed, unless `keep`."""
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
        """Boot a machine that may have processes left from before."""
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
        version = vm.context.get("FLOWER_VERSION") or FLOWER_TESTED
        if _FRAMEWORK in vm.context:
            return version, vm.context[_FRAMEWORK]
        told = self._input_of(vm.service_id, _FRAMEWORK) if vm.service_id is not None else None
        return version, PARAMETERS[_FRAMEWORK].default if told is None else told

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
        vm.born = born(vm.pid)

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
        """Clean up after a machine that died, and boot it again, a limited number of times."""
        self._compute.vm_lost(vm, reason)
        self._do(vm, self._reboot(vm))

    async def _reboot(self, vm: Vm) -> None:
        await asyncio.to_thread(sweep, self._home.machine(vm.id))
        now = time.monotonic()
        reboots = [moment for moment in self._reboots.get(vm.id, []) if now - moment < _WINDOW]
        self._reboots[vm.id] = [*reboots, now]
        if len(reboots) >= _REBOOTS:
            times = f"{_REBOOTS} times within {_WINDOW / 60:.0f} minutes"
            reason = f"The machine went down {times}; it is not booted again."
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
