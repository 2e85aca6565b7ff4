"""What every machine measures of itself: its processes, memory, disks, network and clock, as the kernel tells."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance import __version__
from oneflower_appliance import metrics as m
from oneflower_appliance.volumes import WRITTEN, volumes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oneflower_appliance.agent.machine import Machine
    from oneflower_appliance.metrics import Reading
    from oneflower_appliance.process import Child

_TASKS = ("flwr-clientapp", "flwr-serverapp")  # as the kernel calls the processes that do them
_STAT = 4096  # bytes, more than a line about a process has
_TICK, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


class MachineMetrics:
    """Measures `machine`, on which `child` returns the process of Flower that runs now."""

    def __init__(
        self, machine: Machine, role: str, child: Callable[[], Child | None], proc: Path = Path("/proc")
    ) -> None:
        self._machine = machine
        self._role = role
        self._child = child
        self._proc = proc
        self._flower = 0
        self._cpu = 0.0  # of the process `_flower`, the most that was seen: a counter goes back only to 0

    def measure(self) -> Iterator[Reading]:
        """Return the readings of this moment."""
        machine, child = self._machine, self._child()
        alive = child is not None and not child.ended.is_set()
        yield m.BUILD.is_(1, self._role, __version__, machine.settings.text("FLOWER_VERSION"))
        yield m.READY.is_(machine.journal.status.ready)
        yield m.FLOWER_UP.is_(alive)
        yield m.RESTARTS.is_(max(0, machine.journal.restarts))
        yield m.TIME.is_(time.time())
        yield from self._disks()
        yield from self._memory()
        yield from self._network()
        yield from self._processes(child.pid if child and alive else 0)

    def _disks(self) -> Iterator[Reading]:
        written = [Path(volume.where) for volume in volumes(self._machine.context) if volume.variable == WRITTEN]
        for name, folder in zip(("state", "checkpoints"), [self._machine.home, *written], strict=False):
            found = os.statvfs(folder)
            yield m.DISK_FREE.is_(found.f_bavail * found.f_frsize, name)
            yield m.DISK.is_(found.f_blocks * found.f_frsize, name)

    def _memory(self) -> Iterator[Reading]:
        lines = (line.split() for line in (self._proc / "meminfo").read_text(encoding="ascii").splitlines())
        known = {words[0]: int(words[1]) << 10 for words in lines if len(words) > 1}
        yield m.MEMORY_FREE.is_(known["MemAvailable:"])
        yield m.MEMORY.is_(known["MemTotal:"])

    def _network(self) -> Iterator[Reading]:
        """Return what all cards carried. Machines of the local cloud have none of their own."""
        if self._machine.loopback != "127.0.0.1":
            return
        rows = (line.partition(":") for line in (self._proc / "net/dev").read_text(encoding="ascii").splitlines()[2:])
        cards = [counts.split() for name, _, counts in rows if name.strip() != "lo"]
        yield m.RECEIVED.is_(sum(int(counts[0]) for counts in cards))
        yield m.SENT.is_(sum(int(counts[8]) for counts in cards))

    def _processes(self, flower: int) -> Iterator[Reading]:
        with os.scandir(self._proc) as entries:  # with pathlib, hundreds of processes take four times as long
            numbers = [entry.name for entry in entries if entry.name.isdigit()]
        table = {found.pid: found for number in numbers if (found := _Process.read(f"{self._proc}/{number}/stat"))}
        memory, cpu, tasks = dict.fromkeys(("agent", "flower", "tasks"), 0), 0.0, 0
        for process in table.values():
            if kind := _kind(process, table, flower):
                memory[kind] += process.resident
                tasks += kind == "tasks"
                cpu += process.own_cpu if kind != "agent" else 0
                cpu += process.ended_cpu if kind == "flower" else 0
        self._cpu = max(self._cpu, cpu) if flower == self._flower else cpu
        self._flower = flower
        yield m.CPU.is_(time.process_time(), "agent")
        yield m.CPU.is_(self._cpu, "flower")
        for name, size in memory.items():
            yield m.RESIDENT.is_(size, name)
        yield m.TASKS.is_(tasks)


@dataclass(frozen=True)
class _Process:
    """A process, as /proc/PID/stat has it: memory in bytes, processor time in seconds."""

    pid: int
    parent: int
    name: str
    resident: int
    own_cpu: float
    ended_cpu: float

    @classmethod
    def read(cls, path: str) -> _Process | None:
        """Read it, or return None if it has ended."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            text = os.read(descriptor, _STAT).decode("utf-8", "replace")
        except OSError:
            return None
        finally:
            os.close(descriptor)
        number, _, rest = text.partition(" (")
        name, _, counts = rest.rpartition(") ")
        words = counts.split()
        own, ended = int(words[11]) + int(words[12]), int(words[13]) + int(words[14])
        return cls(int(number), int(words[1]), name, int(words[21]) * _PAGE, own / _TICK, ended / _TICK)


def _kind(process: _Process, table: dict[int, _Process], flower: int) -> str:
    """Return whether a process is the agent's, one of Flower's, or a task of it; empty if it is neither."""
    if process.pid == os.getpid():
        return "agent"
    above: _Process | None = process
    while above is not None and above.pid != flower:
        above = table.get(above.parent)
    if above is None:
        return ""
    return "tasks" if process.name in _TASKS else "flower"
