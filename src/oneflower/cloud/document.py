"""What the body of a service's document says of its roles, their VMs and what went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oneflower.opennebula import NODES, kind_of
from oneflower.opennebula.states import Severity
from oneflower_appliance.settings import Bounds

if TYPE_CHECKING:
    from collections.abc import Mapping


def roles_of(body: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the roles by name, in the order of the document."""
    return {role["name"]: role for role in body.get("roles", ()) if "name" in role}


def bounds_of(body: Mapping[str, Any]) -> Bounds | None:
    """Return the bounds for scaling of a service, or of a service template, None if it has no SuperNodes."""
    nodes, usual = roles_of(body).get(NODES), kind_of(body).bounds()
    if nodes is None or usual is None:
        return None
    return Bounds(nodes.get("min_vms", usual.minimum), nodes.get("max_vms", usual.maximum), nodes["cardinality"])


def vms_of(role: Mapping[str, Any]) -> list[int]:
    """Return the ids of a role's VMs."""
    return [node["deploy_id"] for node in role.get("nodes") or ()]


def homes(body: Mapping[str, Any]) -> dict[int, str]:
    """Return the role of each VM, by the VM's id."""
    return {vm: name for name, role in roles_of(body).items() for vm in vms_of(role)}


def errors_of(body: Mapping[str, Any]) -> list[str]:
    """Return the errors in a service's log, oldest first. OneFlow keeps its last 50 entries."""
    return [entry["message"] for entry in body.get("log", ()) if entry.get("severity") == Severity.ERROR]
