"""What a federation reports: the service's log, its machines and their consoles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from oneflower.cloud.service import Service
    from oneflower.cloud.status import VmStatus


@dataclass(frozen=True)
class Logs:
    """What a federation reports: the service's log, the machines, and their consoles where there are any.

    `journal` says how to see what apps print on the machine that was asked for, if its console does not have it.
    """

    service: tuple[str, ...]
    vms: tuple[VmStatus, ...]
    consoles: Mapping[str, list[str]]
    journal: str = ""

    def __iter__(self) -> Iterator[str]:
        return iter(self.lines())

    def lines(self, *, consoles_only: bool = False) -> list[str]:
        """Return all of it, or only the consoles, as lines that begin with their source."""
        text: list[str] = []
        if not consoles_only:
            text += [f"service: {line}" for line in self.service]
            text += [f"{vm.name}: {'ready' if vm.ready else vm.error or vm.waits or vm.state}" for vm in self.vms]
        return text + [f"{name} | {line}" for name, console in self.consoles.items() for line in console]


def read_logs(service: Service, lines: int, vm: str | None = None) -> Logs:
    """Return what a service reports, with the last `lines` of each console; `vm` (name or id) chooses one machine.

    Raises `OneflowerError` when there is no such machine.
    """
    status = service.status()
    shown = [found for found in status.vms if vm in (None, found.name, str(found.id))]
    if vm is not None and not shown:
        raise OneflowerError(
            f"{status.name} has no machine {vm!r}.",
            f"It has {', '.join(found.name for found in status.vms)}.",
            ExitCode.NOT_FOUND,
        )
    consoles = {found.name: service.cloud.surroundings.console(found.id, lines) for found in shown}
    journal = service.cloud.surroundings.journal(shown[0].ip) if vm is not None and shown[0].ip else ""
    return Logs(status.log, status.vms, consoles, journal)
