"""OneFlow's rules about a service. Only `complete` changes a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oneflower.local.errors import CloudError
from oneflower.opennebula.states import RoleState

if TYPE_CHECKING:
    from oneflower.local.oneflow.models import Document, Role

DEFAULT_COOLDOWN = 300
_LEAVING = (RoleState.UNDEPLOYING, RoleState.DONE, RoleState.FAILED_UNDEPLOYING)


def deployable(service: Document, state: RoleState = RoleState.PENDING) -> list[Role]:
    """Return the roles in `state` that do not have to wait for a parent to be running."""
    running = {role["name"] for role in service.roles if role["state"] == RoleState.RUNNING}
    return [
        role for role in service.roles
        if role["state"] == state and (not service.straight or set(role.get("parents") or ()) <= running)
    ]  # fmt: skip


def parent_on_hold(service: Document, role: Role) -> bool:
    """Whether a role must be held because a parent is held."""
    parents = (service.role(name) for name in role.get("parents") or ())
    return any(parent and parent.get("on_hold") for parent in parents)


def removable(service: Document) -> list[Role]:
    """Return the roles that are not being removed and that no remaining role depends on."""
    parents = {name for role in service.roles if role["state"] != RoleState.DONE for name in role.get("parents") or ()}
    return [
        role for role in service.roles
        if role["state"] not in _LEAVING and not (service.straight and role["name"] in parents)
    ]  # fmt: skip


def complete(role: Role) -> None:
    """Fill in what OneFlow adds to a role when it first loads it."""
    role.setdefault("nodes", [])
    role.setdefault("on_hold", False)
    role.setdefault("cooldown", DEFAULT_COOLDOWN)


def check_cardinality(role: Role, number: int) -> None:
    """Raise `CloudError` 500 unless the role may have that many VMs."""
    least, most = role.get("min_vms"), role.get("max_vms")
    if number < (least or 0):
        raise CloudError(500, f"Minimum cardinality is {'' if least is None else least}")
    if most is not None and number > most:
        raise CloudError(500, f"Maximum cardinality is {most}")


def refuse_unsupported(body: dict[str, Any]) -> None:
    """Raise `CloudError` 501 for features of OneFlow that the local cloud does not have."""
    if any(role.get("type") == "vr" for role in body["roles"]):
        raise CloudError(501, "The local cloud does not implement virtual routers")
    for value in body.get("networks_values") or ():
        if any("id" not in net for net in value.values()):
            raise CloudError(501, "The local cloud does not implement networks that are created with a service")


_FIXED = ("user_inputs", "user_inputs_values", "deployment", "log", "name", "networks", "networks_values",
          "ready_status_gate", "state", "start_time")  # fmt: skip
_FIXED_IN_ROLES = ("cardinality", "last_vmname", "nodes", "parents", "state", "template_id")


def immutable_change(service: Document, body: dict[str, Any], *, append: bool) -> str:
    """Return the key that a new body changes although it must not, or an empty string."""
    if append:
        return next((f"service/{key}" for key in _FIXED if body.get(key) is not None), "")
    if len(body["roles"]) != len(service.roles):
        return "service/roles size"
    for key in _FIXED:
        if body.get(key) != service.body.get(key):
            return f"service/{key}"
    for role in body["roles"]:
        mine = service.role(role["name"])
        if mine is None:
            return "name"
        for key in _FIXED_IN_ROLES:
            if role.get(key) != mine.get(key):
                return f"role/{key}"
    return ""
