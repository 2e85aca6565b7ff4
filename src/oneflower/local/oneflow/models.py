"""What OneFlow knows: services and service templates, as documents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from oneflower.local.oned.models import Access, permission_bits
from oneflower.opennebula.states import RoleState, ServiceState

Role = dict[str, Any]  # as it is in the JSON of a document

TEMPLATE_TYPE, SERVICE_TYPE = 101, 100
SCALE_UP, SCALE_DOWN = 0, 1  # a role's `scale_way`, as OneFlow stores it
_DIGITS = frozenset("0123456789")


def octet_of(value: Any) -> str:
    """Return permissions as three octal digits. Source: chmod_octet in pool_element.rb, which accepts everything.

    Three bits of each character's number count. A character that is missing or not a digit counts as 0. From an
    integer, Ruby takes bits instead of digits, and keeps only the lowest place of each.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return "".join(str(value >> place & 1) for place in range(3))
    return "".join(str(int(digit) & 7) if digit in _DIGITS else "0" for digit in str(value)[:3].ljust(3))


@dataclass
class Document:
    """A service or a service template: its id, and the body that OneFlow keeps as JSON."""

    id: int
    type: int
    body: dict[str, Any]
    name: str = ""
    access: Access = field(default_factory=Access)

    def __post_init__(self) -> None:
        self.name = self.name or str(self.body["name"])

    def wire(self) -> dict[str, Any]:
        """Return the document as OneFlow sends it: ids and permissions are strings, the body keeps its types."""
        return {
            "DOCUMENT": {
                "ID": str(self.id), **self.access.owner(), "NAME": self.name, "TYPE": str(self.type),
                "PERMISSIONS": permission_bits(self.access.octet), "TEMPLATE": {"BODY": self.body},
            }
        }  # fmt: skip

    @property
    def state(self) -> ServiceState:
        """State of a service."""
        return ServiceState(self.body["state"])

    @property
    def roles(self) -> list[Role]:
        """The roles of the body."""
        roles: list[Role] = self.body["roles"]
        return roles

    @property
    def straight(self) -> bool:
        """Whether roles wait for their parents."""
        return bool(self.body.get("deployment") == "straight")

    @property
    def gate(self) -> bool:
        """Whether a VM counts only once it has reported ready."""
        return self.body.get("ready_status_gate") is True

    def role(self, name: str) -> Role | None:
        """Return the role called `name`, if there is one."""
        return next((role for role in self.roles if role["name"] == name), None)

    def all_roles(self, state: RoleState) -> bool:
        """Whether every role is in `state`."""
        return all(role["state"] == state for role in self.roles)


def node_ids(role: Role) -> list[int]:
    """Return the VM ids of a role's nodes, oldest first."""
    return [node["deploy_id"] for node in role.get("nodes", ())]
