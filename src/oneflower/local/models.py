"""What the local cloud knows: services and service templates as OneFlow's own documents, virtual machines, images."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from oneflower.opennebula.states import PARKED, VM_FAILED, ImageState, LcmState, RoleState, ServiceState, VmState
from oneflower_appliance.errors import OneflowerError

TEMPLATE_TYPE, SERVICE_TYPE = 101, 100

_DIGITS = frozenset("0123456789")
PRIVATE = "600"  # permissions of what is created, as an octet


class CloudError(OneflowerError):
    """A refusal as the real server would put it: HTTP status and plain text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def internal(reason: str) -> CloudError:
    """Return what OneFlow answers to an exception that nobody caught."""
    return CloudError(500, json.dumps({"message": "Internal server error", "reason": reason}, separators=(",", ":")))


def permission_bits(octet: str) -> dict[str, str]:
    """Return an octet as OpenNebula's PERMISSIONS element."""
    return {
        f"{who}_{what}": str(int(digit) >> shift & 1)
        for who, digit in zip(("OWNER", "GROUP", "OTHER"), octet, strict=True)
        for what, shift in (("U", 2), ("M", 1), ("A", 0))
    }


def octet_of(value: Any) -> str:
    """Return permissions as three octal digits. Source: chmod_octet of pool_element.rb, which refuses nothing.

    Of each character's number three bits count; a character that is not a digit, or not there, counts as 0. Of an
    integer Ruby takes bits instead of digits, and of each only the lowest place is left.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return "".join(str(value >> place & 1) for place in range(3))
    return "".join(str(int(digit) & 7) if digit in _DIGITS else "0" for digit in str(value)[:3].ljust(3))


OWNER = {"UID": "0", "GID": "0", "UNAME": "oneadmin", "GNAME": "oneadmin"}


@dataclass
class Document:
    """A service or a service template: its id, and the body that OneFlow keeps as JSON."""

    id: int
    type: int
    body: dict[str, Any]
    name: str = ""
    permissions: str = PRIVATE

    def __post_init__(self) -> None:
        self.name = self.name or str(self.body["name"])

    def wire(self) -> dict[str, Any]:
        """Return the document as OneFlow sends it: ids and permissions are strings, the body keeps its types."""
        return {
            "DOCUMENT": {
                "ID": str(self.id), **OWNER, "NAME": self.name, "TYPE": str(self.type),
                "PERMISSIONS": permission_bits(self.permissions), "TEMPLATE": {"BODY": self.body},
            }
        }  # fmt: skip

    @property
    def state(self) -> ServiceState:
        """State of a service."""
        return ServiceState(self.body["state"])

    @property
    def roles(self) -> list[dict[str, Any]]:
        """The roles of the body."""
        roles: list[dict[str, Any]] = self.body["roles"]
        return roles

    @property
    def straight(self) -> bool:
        """Whether roles wait for their parents."""
        return bool(self.body.get("deployment") == "straight")

    @property
    def gate(self) -> bool:
        """Whether a VM counts only once it has reported ready."""
        return self.body.get("ready_status_gate") is True

    def role(self, name: str) -> dict[str, Any] | None:
        """Return the role called `name`, if there is one."""
        return next((role for role in self.roles if role["name"] == name), None)

    def all_roles(self, state: RoleState) -> bool:
        """Whether every role is in `state`."""
        return all(role["state"] == state for role in self.roles)


def node_ids(role: dict[str, Any]) -> list[int]:
    """Return the VM ids of a role's nodes, oldest first."""
    return [node["deploy_id"] for node in role.get("nodes", ())]


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
        """Whether it is up, as OpenNebula sees it."""
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
        """Whether OpenNebula would report a failure state."""
        return self.lcm_state in VM_FAILED

    @property
    def context(self) -> dict[str, str]:
        """The CONTEXT section, resolved."""
        context: dict[str, str] = self.template.get("CONTEXT", {})
        return context

    def owner(self) -> dict[str, str]:
        """Return the six fields that OneFlow remembers of a node."""
        return {"ID": str(self.id), **OWNER, "NAME": self.name}


@dataclass
class Image:
    """An image of a disk, as the datastore knows it; machines here have none, so it is only kept in the books."""

    id: int
    name: str
    template: dict[str, Any]
    state: int = ImageState.READY
    regtime: int = 0
