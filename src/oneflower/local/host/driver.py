"""What the host must know about one kind of machine, as OpenNebula's drivers know one kind of hypervisor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from oneflower.local.oned.models import Vm
    from oneflower.local.oned.vms import Subnet


@dataclass(frozen=True)
class Boot:
    """The program that is the machine: it runs as long as the machine does, and SIGKILL is a power cut."""

    command: Sequence[str]
    environment: Mapping[str, str]


class Driver(Protocol):
    """One kind of machine. `folder` is where a machine's files are on the host: `context/`, and its disk."""

    gateway: str
    """The address of this machine by which machines reach OneGate."""
    subnet: Subnet
    """The network of the machines, as their context describes it."""
    stop_limit: float
    """How many seconds a machine has to shut down before it is killed, besides those for its running task."""

    def address(self, used: Collection[str]) -> str:
        """Return a free address for a machine. Raises `OneflowerError`."""

    async def prepare(self, vm: Vm, folder: Path) -> Boot:
        """Make ready what the machine boots from, and return how to boot it. Raises `OneflowerError` and `OSError`."""

    def shut_down(self, pid: int, folder: Path) -> None:
        """Ask a machine, which is process `pid`, to shut down by itself. Raises `ProcessLookupError`."""

    def sweep(self, folder: Path) -> None:
        """End every process of the machine in `folder`, and release what it holds of the host besides its files."""
