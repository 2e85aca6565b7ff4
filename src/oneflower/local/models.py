"""What the local cloud knows: services and service templates as OneFlow's own documents, and virtual machines."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from oneflower_appliance.errors import OneflowerError


class ServiceState(IntEnum):
    """States of a service. Source: OneFlow's service.rb."""

    PENDING = 0
    DEPLOYING = 1
    RUNNING = 2
    UNDEPLOYING = 3
    WARNING = 4
    DONE = 5
    FAILED_UNDEPLOYING = 6
    FAILED_DEPLOYING = 7
    SCALING = 8
    FAILED_SCALING = 9
    COOLDOWN = 10
    DEPLOYING_NETS = 11


class RoleState(IntEnum):
    """States of a role. Source: OneFlow's role.rb."""

    PENDING = 0
    DEPLOYING = 1
    RUNNING = 2
    UNDEPLOYING = 3
    WARNING = 4
    DONE = 5
    FAILED_DEPLOYING = 7
    SCALING = 8
    FAILED_SCALING = 9
    COOLDOWN = 10


class VmState(IntEnum):
    """STATE of a VM, as far as machines here take it."""

    PENDING = 1
    ACTIVE = 3
    DONE = 6
    POWEROFF = 8


class LcmState(IntEnum):
    """LCM_STATE of an active VM."""

    LCM_INIT = 0
    PROLOG = 1
    RUNNING = 3
    SHUTDOWN = 12
    PROLOG_FAILURE = 39


TEMPLATE_TYPE, SERVICE_TYPE = 101, 100


class CloudError(OneflowerError):
    """A refusal as the real server would put it: HTTP status and plain text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass
class Document:
    """A service or a service template: its id, and the body that OneFlow keeps as JSON."""

    id: int
    type: int
    body: dict[str, Any]

    def wire(self) -> dict[str, Any]:
        """Return the document as OneFlow sends it: ids and permissions are strings, the body keeps its types."""
        bits = dict.fromkeys([f"{who}_{what}" for who in ("OWNER", "GROUP", "OTHER") for what in "UMA"], "0") | {
            "OWNER_U": "1",
            "OWNER_M": "1",
        }
        return {
            "DOCUMENT": {
                "ID": str(self.id), "UID": "0", "GID": "0", "UNAME": "oneadmin", "GNAME": "oneadmin",
                "NAME": self.body["name"], "TYPE": str(self.type), "PERMISSIONS": bits,
                "TEMPLATE": {"BODY": self.body},
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

    def role(self, name: str) -> dict[str, Any] | None:
        """Return the role called `name`, if there is one."""
        return next((role for role in self.roles if role["name"] == name), None)

    def note(self, message: str, severity: str = "I") -> None:
        """Add a line to the service's log, of which OneFlow keeps 50."""
        log = self.body.setdefault("log", [])
        log.append({"timestamp": int(time.time()), "severity": severity, "message": message})
        del log[:-50]

    def enter(self, state: ServiceState) -> None:
        """Change the state of a service."""
        if self.body["state"] != state:
            self.body["state"] = int(state)
            self.note(f"New state: {state.name}")


def node_ids(role: dict[str, Any]) -> list[int]:
    """Return the VM ids of a role's nodes, oldest first."""
    return [node["deploy_id"] for node in role.get("nodes", ())]


@dataclass
class Vm:
    """A virtual machine. `pid` and `born` (its start time in clock ticks) name the process that is the machine."""

    id: int
    name: str
    service_id: int
    template: dict[str, Any]
    user_template: dict[str, str]
    token: str
    ip: str
    state: VmState = VmState.PENDING
    lcm_state: LcmState = LcmState.LCM_INIT
    stime: int = field(default_factory=lambda: int(time.time()))
    pid: int = 0
    born: int = 0
    error: str = ""

    @property
    def running(self) -> bool:
        """Whether it is up, as OpenNebula sees it."""
        return self.state is VmState.ACTIVE and self.lcm_state is LcmState.RUNNING

    @property
    def ready(self) -> bool:
        """Whether it satisfies OneFlow's readiness gate."""
        return self.user_template.get("READY") == "YES" or self.state in (VmState.DONE, VmState.POWEROFF)

    @property
    def failed(self) -> bool:
        """Whether OpenNebula would report a failure state."""
        return self.lcm_state is LcmState.PROLOG_FAILURE

    @property
    def context(self) -> dict[str, str]:
        """The CONTEXT section, resolved."""
        context: dict[str, str] = self.template.get("CONTEXT", {})
        return context

    def owner(self) -> dict[str, str]:
        """Return the six fields that OneFlow remembers of a node."""
        return {"ID": str(self.id), "UID": "0", "GID": "0", "UNAME": "oneadmin", "GNAME": "oneadmin", "NAME": self.name}
