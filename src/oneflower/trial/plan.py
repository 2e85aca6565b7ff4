"""What a trial does: which kind of machines, and how much of the life of a federation."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from enum import StrEnum

from oneflower_appliance.settings import Bounds

_NODES_OF_A_ROUND = ("FL_MIN_FIT_CLIENTS", "FL_MIN_EVALUATE_CLIENTS", "FL_MIN_AVAILABLE_CLIENTS")
_POLICY = base64.b64encode(b'[task]\nseconds = 3600\negress = "none"\n').decode()


class Machines(StrEnum):
    """What the machines are."""

    CONTAINER = "container"
    QEMU = "qemu"


@dataclass(frozen=True)
class Plan:
    """A trial. If it is not `whole`, one SuperLink and one SuperNode boot, and the SuperLink's power is cut."""

    machines: Machines = Machines.CONTAINER
    whole: bool = True

    @property
    def nodes(self) -> int:
        """The number of SuperNodes."""
        return 2 if self.whole else 1

    @property
    def bounds(self) -> Bounds:
        """The number of SuperNodes, and how far it may be scaled."""
        return Bounds(self.nodes, self.nodes + 1, self.nodes)

    @property
    def settings(self) -> dict[str, str]:
        """What a federation of so few SuperNodes needs, a time zone, and a policy.

        A machine is ready only if it knows the zone, and if it can confine tasks. Containers of systemd cannot: they do
        not see the whole of /proc.
        """
        policy = {"FL_SITE_POLICY": _POLICY} if self.machines is Machines.QEMU else {}
        return (
            policy
            | {"FL_SCHEDULE_ZONE": "Europe/Madrid"}
            | ({} if self.whole else dict.fromkeys(_NODES_OF_A_ROUND, str(self.nodes)))
        )

    @property
    def limit(self) -> float:
        """How many seconds a federation has for a step, on a busy machine too, which may have to emulate it."""
        return 180.0 if self.machines is Machines.CONTAINER else 3600.0

    @property
    def grace(self) -> float:
        """How many seconds a machine may report an error. An emulated one is slow, and tries again."""
        return 0.0 if self.machines is Machines.CONTAINER else 600.0

    def words(self) -> list[str]:
        """Return the arguments for the process that follows it."""
        return [f"--machines={self.machines}", *(["--whole"] if self.whole else [])]
