"""The life of machines: booted, watched, booted again when they die, shut down. What a machine is, its driver knows.

A machine outlives the daemon. It is known by the process id and start time of the program that it is, by which it is
found again after a restart. Its end is an event (a pidfd), never a poll.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from oneflower.local.host.images import disks_of_machine
from oneflower.local.host.processes import born
from oneflower.opennebula.states import PLUGGING, LcmState
from oneflower.opennebula.text import context_sh
from oneflower.process import launch
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import private_directory, write_atomic
from oneflower_appliance.parameters import PARAMETERS
from oneflower_appliance.roles import NODES

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from oneflower.local.home import LocalHome
    from oneflower.local.host.driver import Driver
    from oneflower.local.oned.compute import Compute
    from oneflower.local.oned.models import Vm

_REBOOT_PAUSE = 1.0
_REBOOTS, _WINDOW = 5, 300.0
_KEPT_CONSOLES = 20


class Machines:
    """The host of the local cloud. What is done to one machine is done in turn."""

    def __init__(self, home: LocalHome, compute: Compute, driver: Driver) -> None:
        self._home = home
        self._compute = compute
        self._driver = driver
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
            elif not vm.running and not vm.parked and not alive and vm.lcm_state not in PLUGGING:
                self._do(vm, self._boot_clean(vm))

    def address(self) -> str:
        """Return a free address for a machine. Raises `OneflowerError`."""
        return self._driver.address({vm.ip for vm in self._compute.vms.values()})

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

    def attach(self, vm: Vm, ended: Callable[[str], None]) -> None:
        """Make ready what a machine was given as another disk. `ended` receives why that failed, or an empty text."""

        async def lay() -> None:
            disks = disks_of_machine(vm, self._compute.catalogue.images)
            await self._driver.lay(self._home.machine(vm.id), disks)

        self._do(vm, _told(lay, ended))

    def detach(self, vm: Vm, number: int, ended: Callable[[str], None]) -> None:
        """Take a disk from a machine, and remove what is on it. `ended` receives why that failed, or an empty text."""
        running = vm.lcm_state is LcmState.HOTPLUG
        folder = self._home.machine(vm.id)
        self._do(vm, _told(lambda: self._driver.remove(folder, number, running=running), ended))

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
        await asyncio.to_thread(self._driver.sweep, self._home.machine(vm.id))
        await self._boot(vm)

    async def _boot(self, vm: Vm) -> None:
        try:
            disks = disks_of_machine(vm, self._compute.catalogue.images)
            boot = await self._driver.prepare(vm, self._home.machine(vm.id), disks)
            if vm.lcm_state is not LcmState.PROLOG or vm.id not in self._compute.vms:
                return
            vm.pid = launch(boot.command, self._home.console(vm.id), boot.environment)
            vm.born = born(vm.pid)
        except OneflowerError as error:
            self._compute.vm_failed(vm, error.sentence)
            return
        except OSError as error:
            self._compute.vm_failed(vm, f"The machine could not be started: {error}.")
            return
        self._compute.vm_running(vm)
        self._watch(vm)

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
        await asyncio.to_thread(self._driver.sweep, self._home.machine(vm.id))
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
                if hard:
                    os.kill(vm.pid, signal.SIGKILL)
                else:
                    await asyncio.to_thread(self._driver.shut_down, vm.pid, self._home.machine(vm.id))
            limit = self._driver.stop_limit + (0 if hard else drain_limit(vm))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended[vm.id].wait(), limit)
            if forget := self._watched.get(vm.id):
                forget()
        self._ended.pop(vm.id, None)
        if keep:
            await asyncio.to_thread(self._driver.sweep, self._home.machine(vm.id))
        else:
            await asyncio.to_thread(self._remove, vm, self._home.machine(vm.id))
            self._turns.pop(vm.id, None)
        self._compute.vm_stopped(vm)

    def _remove(self, vm: Vm, folder: Path) -> None:
        self._driver.sweep(folder)
        console = self._home.console(vm.id)
        if console.exists():
            private_directory(self._home.logs)
            with suppress(OSError):
                console.replace(self._home.logs / f"{int(time.time())}-{vm.name}.log")
            for old in sorted(self._home.logs.iterdir())[:-_KEPT_CONSOLES]:
                old.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


async def _told(work: Callable[[], Coroutine[Any, Any, None]], ended: Callable[[str], None]) -> None:
    """Do something with a disk, and say how it ended."""
    try:
        await work()
    except OneflowerError as error:
        ended(error.sentence)
    except OSError as error:
        ended(f"The disk cannot be made ready: {error}.")
    else:
        ended("")


def drain_limit(vm: Vm) -> int:
    """Return how many seconds a machine may take to end its running task before it shuts down (FL_DRAIN_TIMEOUT)."""
    if vm.context.get("ONEFLOWER_ROLE") != NODES:
        return 0
    asked = PARAMETERS["FL_DRAIN_TIMEOUT"]
    try:
        return int(asked.parse(vm.context.get(asked.name) or asked.default))
    except ValueError:  # its agent refuses it, so no task runs there
        return 0
