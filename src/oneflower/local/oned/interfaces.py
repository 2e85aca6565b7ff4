"""What the core needs of others: a host that runs machines, and a listener that is told about VMs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower.local.oned.models import Vm


class Host(Protocol):
    """Runs machines with a guest. It reports through the `vm_...` methods of `Compute`."""

    def prepare(self, vm: Vm, token: str) -> None:
        """Write what the machine reads at boot. Raises `OneflowerError`."""

    def start(self, vm: Vm) -> None:
        """Boot a machine."""

    def stop(self, vm: Vm, *, hard: bool, keep: bool) -> None:
        """Shut a machine down. Its disk is removed, unless `keep`."""

    def discard(self, vm: Vm) -> None:
        """Remove what was prepared for a machine that never ran anything."""

    def attach(self, vm: Vm, ended: Callable[[str], None]) -> None:
        """Make ready what a VM was given as another disk. `ended` receives why that failed, or an empty text."""

    def detach(self, vm: Vm, number: int, ended: Callable[[str], None]) -> None:
        """Take a disk from a VM, and remove what is on it. `ended` receives why that failed, or an empty text."""

    def address(self) -> str:
        """Return a free address for a machine. Raises `OneflowerError`."""


class Listener(Protocol):
    """Is told what happens to VMs."""

    def vm_changed(self, vm: Vm) -> None:
        """Handle a new state of a VM."""

    def vm_updated(self, vm: Vm, text: str) -> None:
        """Handle an update of a VM's user template with `text`."""
