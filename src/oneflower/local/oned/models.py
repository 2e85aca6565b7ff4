"""What the core knows: virtual machines, images, and who owns them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from oneflower.opennebula.states import PARKED, VM_FAILED, ImageState, LcmState, VmState

OWNER = {"UID": "0", "GID": "0", "UNAME": "oneadmin", "GNAME": "oneadmin"}
PRIVATE = "600"  # the permissions of new objects, as an octet


def permission_bits(octet: str) -> dict[str, str]:
    """Return an octet as OpenNebula's PERMISSIONS element."""
    return {
        f"{who}_{what}": str(int(digit) >> shift & 1)
        for who, digit in zip(("OWNER", "GROUP", "OTHER"), octet, strict=True)
        for what, shift in (("U", 2), ("M", 1), ("A", 0))
    }


@dataclass
class Vm:
    """A virtual machine. `pid` and `born` (its start time in clock ticks) name the process that is the machine."""

    id: int
    name: str
    template: dict[str, Any]
    user_template: dict[str, Any]
    stime: int
    service_id: int | None = None
    ip: str = ""
    state: VmState = VmState.PENDING
    lcm_state: LcmState = LcmState.LCM_INIT
    etime: int = 0
    pid: int = 0
    born: int = 0
    error: str = ""
    sched_actions: list[dict[str, str]] = field(default_factory=list)

    @property
    def running(self) -> bool:
        """Whether it is running, as OpenNebula sees it."""
        return self.state is VmState.ACTIVE and self.lcm_state is LcmState.RUNNING

    @property
    def gone(self) -> bool:
        """Whether it is terminated."""
        return self.state is VmState.DONE

    @property
    def parked(self) -> bool:
        """Whether it is powered off, suspended, stopped or undeployed."""
        return self.state in PARKED

    @property
    def failed(self) -> bool:
        """Whether it could not be booted, or not be shut down."""
        return self.lcm_state in VM_FAILED

    @property
    def context(self) -> dict[str, str]:
        """The CONTEXT section, with its variables resolved."""
        context: dict[str, str] = self.template.get("CONTEXT", {})
        return context

    def owner(self) -> dict[str, str]:
        """Return the six fields that OneFlow remembers of a node."""
        return {"ID": str(self.id), **OWNER, "NAME": self.name}


@dataclass
class Image:
    """An image of a disk, as the datastore knows it. Machines here have no disks, so it is only recorded."""

    id: int
    name: str
    template: dict[str, Any]
    state: int = ImageState.READY
    regtime: int = 0
