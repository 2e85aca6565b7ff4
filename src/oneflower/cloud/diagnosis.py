"""Why a service will never run.

OneFlow waits forever where it should give up, and often does not say what it waits for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oneflower.cloud.document import errors_of, roles_of, vms_of
from oneflower.cloud.refused import RefusedError
from oneflower.opennebula.states import VM_FAILED, RoleState, ServiceState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from oneflower.cloud.client import Cloud
    from oneflower.cloud.objects import Vm

# States in which OneFlow creates no more VMs.
_LEAVING = frozenset({
    ServiceState.UNDEPLOYING, ServiceState.DONE, ServiceState.FAILED_UNDEPLOYING, ServiceState.UNDEPLOYING_NETS,
    ServiceState.FAILED_UNDEPLOYING_NETS,
})  # fmt: skip


def causes(cloud: Cloud, body: dict[str, Any], vms: Mapping[int, Vm]) -> Iterator[str]:
    """Yield what keeps a service from ever running, by its document's body and its live VMs. Nothing if it may."""
    roles = roles_of(body)
    if body["state"] not in _LEAVING:
        yield from _templates(cloud, roles)
        yield from _parents(roles)
    yield from _not_deployed(body, roles, vms)
    for name, role in roles.items():
        for vm in _failed_vms(role, vms):
            reason = vm.attributes.get("ERROR", "OpenNebula could not boot it").strip().rstrip(".")
            yield f"VM {vm.id} of role {name} failed: {reason}."


def _failed_vms(role: dict[str, Any], vms: Mapping[int, Vm]) -> list[Vm]:
    return [vms[number] for number in vms_of(role) if number in vms and vms[number].lcm_state in VM_FAILED]


def _templates(cloud: Cloud, roles: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """Check the templates of machines that are still missing, in any state: OneFlow's varies in that case."""
    for name, role in roles.items():
        if len(vms_of(role)) >= role["cardinality"]:
            continue
        number = role["template_id"]
        try:
            missing = cloud.core.vm_template(number) is None
        except RefusedError as error:
            yield f"VM template {number} of role {name} may not be used: {error.text}. OneFlow does not notice."
            continue
        if missing:
            yield f"VM template {number} of role {name} does not exist. OneFlow does not notice, and waits forever."


def _parents(roles: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    for name, role in roles.items():
        unknown = [parent for parent in role.get("parents") or () if parent not in roles]
        if unknown and role["state"] == RoleState.PENDING:
            yield f"Role {name} waits for {', '.join(unknown)}, a role that does not exist."
    if roles and all(role["state"] == RoleState.PENDING and role.get("parents") for role in roles.values()):
        yield f"The roles {', '.join(roles)} wait for each other."


def _not_deployed(body: dict[str, Any], roles: Mapping[str, dict[str, Any]], vms: Mapping[int, Vm]) -> Iterator[str]:
    """Name the roles that failed as a whole, and OneFlow's newest error, in which OneFlow names the role itself."""
    states = (RoleState.FAILED_DEPLOYING, RoleState.FAILED_SCALING)
    failed = [name for name, role in roles.items() if role["state"] in states and not _failed_vms(role, vms)]
    if failed:
        reason = "".join(f": {text.rstrip('.')}" for text in errors_of(body)[-1:])
        yield f"Role {' and role '.join(failed)} could not be deployed{reason}."
