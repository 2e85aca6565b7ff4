"""The VMs of a role: OneFlow creates them, shuts them down, retries them and releases them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower.local.errors import CloudError
from oneflower.local.oned.rights import Asking, Kind, Right, Want
from oneflower.local.oneflow.contents import overlay
from oneflower.local.oneflow.models import Document, Role, node_ids
from oneflower.opennebula.states import Severity, VmState

if TYPE_CHECKING:
    from oneflower.local.oned.compute import Compute
    from oneflower.local.oned.models import Vm
    from oneflower.local.oneflow.documents import Documents

_RETRY = 2  # the operation of one.vm.recover


class LockedError(CloudError):
    """A role that cannot be undeployed, because some of its VMs are locked."""


class RoleVms:
    """The VMs of all roles."""

    def __init__(self, documents: Documents, compute: Compute) -> None:
        self._documents = documents
        self._compute = compute

    def make_missing(self, service: Document, role: Role) -> list[int]:
        """Create the VMs that a role lacks, and return their ids. Raises `CloudError`."""
        number = role["cardinality"] - len(role["nodes"])
        if number == 0:
            return []
        owner = self._compute.catalogue.accounts.user(service.access.uid, "one.user.info")
        text = overlay(service, role, self._compute)
        role.setdefault("last_vmname", 0)
        fresh = []
        for _ in range(number):
            name = f"{role['name']}_{role['last_vmname']}_(service_{service.id})"
            role["last_vmname"] += 1
            hold = bool(role.get("on_hold"))
            vm = self._compute.instantiate(role["template_id"], name, text, hold=hold, user=owner)
            role["nodes"].append({"deploy_id": vm.id, "vm_info": {"VM": vm.owner()}})
            fresh.append(vm.id)
        return fresh

    def retry(self, service: Document, role: Role) -> list[int]:
        """Boot failed VMs again, resume parked ones, create missing ones. Return the ids of those to wait for."""
        waited = []
        for vm in self._of(role):
            if vm.running and not service.gate:
                continue
            if vm.failed:
                self._compute.recover(vm, _RETRY)
            elif vm.parked:
                self._compute.act(vm, "resume")
            waited.append(vm.id)
        try:
            return waited + self.make_missing(service, role)
        except CloudError as error:
            self._documents.note(service, f"Role {role['name']} : {error.message}", Severity.ERROR)
            return waited

    def shut_down(self, service: Document, role: Role, *, recover: bool) -> list[int]:
        """Terminate the surplus VMs of a role, or all of them if there is no surplus. Return their ids.

        Raises `LockedError` after the rest is terminated, if some are locked.
        """
        surplus = len(role["nodes"]) - role["cardinality"]
        doomed = node_ids(role)[:surplus] if surplus else node_ids(role)
        action = role.get("shutdown_action") or service.body.get("shutdown_action") or "terminate"
        locked = []
        for number in doomed:
            vm = self._compute.vms.get(number)
            if vm is None:
                continue
            if vm.access.lock is not None and self._refused(service, role, vm):
                locked.append(number)
            elif recover and vm.failed:
                self._compute.recover(vm, _RETRY)
            else:
                self._compute.act(vm, "terminate-hard" if action == "terminate-hard" else "terminate")
        if locked:
            gone = [number for number in doomed if number not in locked]
            raise LockedError(500, f"Error undeploying role {role['name']}: {gone}")
        return doomed

    def _refused(self, service: Document, role: Role, vm: Vm) -> bool:
        """Whether the lock of a VM refuses its end. OneFlow then tries to delete it, and logs both refusals."""
        owner = self._compute.catalogue.accounts.user(service.access.uid, "one.user.info")
        for right, call, text in (
            (Right.MANAGE, "one.vm.action", "Terminate failed for VM {}, will perform a Delete; {}"),
            (Right.ADMIN, "one.vm.recover", "Delete failed for VM {}; {}"),
        ):
            try:
                self._compute.catalogue.rights.need(Asking(owner, call), Want(right, Kind.VM, vm.id, vm.access))
            except CloudError as error:
                self._documents.note(
                    service, f"Role {role['name']} : {text.format(vm.id, error.message)}", Severity.ERROR
                )
            else:
                return False
        return True

    def release(self, role: Role) -> None:
        """Release the VMs of a role that are on hold."""
        for vm in self._of(role):
            if vm.state is VmState.HOLD:
                self._compute.act(vm, "release")

    def drop_terminated(self, role: Role) -> None:
        """Remove terminated VMs from a role."""
        role["nodes"] = [node for node in role["nodes"] if node["deploy_id"] in self._compute.vms]

    def _of(self, role: Role) -> list[Vm]:
        return [self._compute.vms[number] for number in node_ids(role) if number in self._compute.vms]
