"""Actions that OneFlow schedules for the VMs of a service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower.local.errors import CloudError
from oneflower.local.oned.compute import VERBS
from oneflower.local.oneflow.models import Document, Role, node_ids
from oneflower.opennebula.states import RoleState, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oneflower.local.oned.compute import Compute
    from oneflower.local.oned.models import Vm
    from oneflower.local.oneflow.documents import Documents

ACTIONS = frozenset(
    f"{verb}{hard}"
    for verb, hards in {
        "terminate": ("", "-hard"), "undeploy": ("", "-hard"), "reboot": ("", "-hard"), "poweroff": ("", "-hard"),
        "hold": ("",), "release": ("",), "stop": ("",), "suspend": ("",), "resume": ("",),
        "snapshot": ("-create", "-revert", "-delete"), "disk-snapshot": ("-create", "-revert", "-delete"),
    }.items()
    for hard in hards
)  # fmt: skip


class Scheduler:
    """Schedules actions, and cancels them."""

    def __init__(self, documents: Documents, compute: Compute) -> None:
        self._documents = documents
        self._compute = compute

    def schedule(self, service: Document, roles: Iterable[Role], action: str, period: int, number: int) -> None:
        """Schedule an action on every VM of some roles, `number` of them every `period` seconds.

        If an action does not exist, OneFlow only notes it in the service's log. Raises `CloudError` 500, or 501 for an
        action that exists and is not implemented here.
        """
        known = action.removesuffix("-hard") in VERBS
        if action in ACTIONS and not known:
            raise CloudError(501, f"The local cloud does not implement the VM action {action!r}")
        for role in roles:
            if role["state"] == RoleState.DONE:
                raise CloudError(500, f"Role {role['name']} is in DONE state")
            for index, vm in enumerate(self._vms(role)):
                if not known:
                    message = f"Role {role['name']} : VM {vm.id} error scheduling action; unknown action {action}"
                    self._documents.note(service, message, Severity.ERROR)
                    continue
                delay = index // number * period if period > 0 and number > 0 else 0
                self._compute.schedule(vm, action, delay)
        self._documents.save(service)

    def unschedule(self, roles: Iterable[Role], number: int) -> None:
        """Cancel a scheduled action of every VM of some roles."""
        for role in roles:
            for vm in self._vms(role):
                self._compute.unschedule(vm, number)

    def _vms(self, role: Role) -> list[Vm]:
        return [self._compute.vms[number] for number in node_ids(role) if number in self._compute.vms]
