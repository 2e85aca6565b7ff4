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


@dataclass(frozen=True)
class Disk:
    """A disk of a machine that is laid over an image: its DISK_ID, the image's file, its size in MB if that is given.

    `boots` says whether the machine boots from it.
    """

    number: int
    image: Path
    size: int | None = None
    boots: bool = True


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

    async def prepare(self, vm: Vm, folder: Path, disks: Sequence[Disk]) -> Boot:
        """Make ready what the machine boots from, and return how to boot it. Raises `OneflowerError` and `OSError`.

        Without `disks` it boots what this driver was given for all machines.
        """

    async def lay(self, folder: Path, disks: Sequence[Disk]) -> None:
        """Lay those disks over their images that are not there yet. Raises `OneflowerError` and `OSError`."""

    async def remove(self, folder: Path, number: int, *, running: bool) -> None:
        """Take a disk from the machine, and remove what is on it. Raises `OneflowerError` and `OSError`."""

    def shut_down(self, pid: int, folder: Path) -> None:
        """Ask a machine, which is process `pid`, to shut down by itself. Raises `ProcessLookupError`."""

    def sweep(self, folder: Path) -> None:
        """End every process of the machine in `folder`, and release what it holds of the host besides its files."""
