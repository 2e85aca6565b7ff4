"""What the body of a service's document says of its roles and their VMs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oneflower.opennebula import COORDINATOR, NODES

if TYPE_CHECKING:
    from collections.abc import Mapping


def roles_of(body: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the roles by name, in the order of the document."""
    return {role["name"]: role for role in body.get("roles", ()) if "name" in role}


def is_federation(body: Mapping[str, Any]) -> bool:
    """Whether a service, or a service template, has the two roles of a federation."""
    return {COORDINATOR, NODES} <= set(roles_of(body))


def vms_of(role: Mapping[str, Any]) -> list[int]:
    """Return the ids of a role's VMs."""
    return [node["deploy_id"] for node in role.get("nodes") or ()]


def homes(body: Mapping[str, Any]) -> dict[int, str]:
    """Return the role of each VM, by the VM's id."""
    return {vm: name for name, role in roles_of(body).items() for vm in vms_of(role)}
