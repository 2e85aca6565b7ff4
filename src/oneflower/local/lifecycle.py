"""The life of services: OneFlow's state machine over the VMs of one host.

Everything happens in one thread, as a reaction to an event: a request, a VM that came up, died or was updated, a timer.
Each reaction changes what is known and then calls `advance`, which carries a service on through its states until
nothing more follows. So a SuperNode's machine starts in the very moment in which the SuperLink's READY arrives.
"""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any, Protocol

from oneflower.local.models import (
    SERVICE_TYPE,
    TEMPLATE_TYPE,
    CloudError,
    Document,
    LcmState,
    RoleState,
    ServiceState,
    Vm,
    VmState,
    node_ids,
)
from oneflower.local.schema import check_inputs, check_template, merge_service
from oneflower.local.vms import Place, inject_inputs, new_vm
from oneflower_appliance.errors import OneflowerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower.local.store import Store

_NO_DELETE = {ServiceState.DEPLOYING, ServiceState.DEPLOYING_NETS, ServiceState.SCALING, ServiceState.COOLDOWN,
              ServiceState.FAILED_DEPLOYING, ServiceState.FAILED_SCALING, ServiceState.FAILED_UNDEPLOYING}  # fmt: skip


class Host(Protocol):
    """Where machines run. It answers through `Engine.vm_running`, `vm_failed`, `vm_lost` and `vm_stopped`."""

    def start(self, vm: Vm) -> None:
        """Boot a machine."""

    def stop(self, vm: Vm, *, hard: bool) -> None:
        """Shut a machine down, for good."""

    def address(self, taken: set[str]) -> str:
        """Return a free address for a machine."""


class Engine:
    """All documents and VMs. `later` runs a callback after so many seconds."""

    def __init__(
        self, store: Store, onegate: str, later: Callable[[float, Callable[[], None]], object], host: Host | None = None
    ) -> None:
        self._store = store
        self._onegate = onegate
        self._later = later
        self.host = host
        self.documents = {document.id: document for document in store.documents()}
        self.vms = {vm.id: vm for vm in store.vms()}
        self.vm_templates = store.vm_templates()

    def resume(self) -> None:
        """Carry on with every service after a restart of the daemon."""
        for service in self._of_type(SERVICE_TYPE):
            if service.state is ServiceState.COOLDOWN:
                self._cool_down(service)
            self.advance(service)

    # -- documents ---------------------------------------------------------------------------------------------------

    def _of_type(self, kind: int) -> list[Document]:
        return [document for document in self.documents.values() if document.type == kind]

    def pool(self, kind: int) -> list[Document]:
        """Return the documents of a type, newest first."""
        return self._of_type(kind)[::-1]

    def get(self, number: int, kind: int) -> Document:
        """Return a document. Raises `CloudError` 404, or 500 when it is of the other type."""
        document = self.documents.get(number)
        if document is None:
            raise CloudError(404, f"[one.document.info] Error getting document [{number}].")
        if document.type != kind:
            raise CloudError(500, f"Document {number} is not of type {kind}")
        return document

    def create_template(self, body: Any) -> Document:
        """Store a service template."""
        checked = check_template(body)
        checked["registration_time"] = int(time.time())
        return self._insert(Document(self._store.next_id("document"), TEMPLATE_TYPE, checked))

    def update_template(self, number: int, body: Any) -> Document:
        """Replace a service template."""
        template = self.get(number, TEMPLATE_TYPE)
        checked = check_template(body)
        checked["registration_time"] = template.body["registration_time"]
        template.body = checked
        return self._insert(template)

    def delete_template(self, number: int) -> None:
        """Remove a service template."""
        self.get(number, TEMPLATE_TYPE)
        self._forget(number)

    def instantiate(self, number: int, merge: dict[str, Any]) -> dict[str, Any]:
        """Make a service. Returns the document as it is before anything happens, as OneFlow replies it."""
        template = self.get(number, TEMPLATE_TYPE).body
        check_inputs(template, merge)
        body = merge_service(template, merge)
        body |= {"state": 0, "start_time": int(time.time())}
        for role in body["roles"]:
            role["state"] = 0
        service = self._insert(Document(self._store.next_id("document"), SERVICE_TYPE, body))
        reply = copy.deepcopy(service.wire())
        self._inject_inputs(service)
        service.enter(ServiceState.DEPLOYING_NETS)
        self.save(service)
        self._later(0, lambda: self.advance(service))
        return reply

    def _inject_inputs(self, service: Document) -> None:
        shared = service.body.get("user_inputs_values") or {}
        for role in service.roles:
            role.setdefault("cooldown", 300)
            role |= {"nodes": [], "last_vmname": 0, "on_hold": bool(role.get("on_hold"))}
            inject_inputs(role, {**shared, **(role.get("user_inputs_values") or {})})

    def _insert(self, document: Document) -> Document:
        self.documents[document.id] = document
        self._store.save_document(document)
        return document

    def _forget(self, number: int) -> None:
        del self.documents[number]
        self._store.delete_document(number)

    def save(self, service: Document) -> None:
        """Write a service to the store."""
        self._store.save_document(service)

    # -- VM templates ------------------------------------------------------------------------------------------------

    def save_vm_template(self, template: dict[str, Any], number: int | None = None) -> int:
        """Insert or replace a VM template and return its id."""
        number = self._store.next_id("vm_template") if number is None else number
        self.vm_templates[number] = template
        self._store.save_vm_template(number, template)
        return number

    def delete_vm_template(self, number: int) -> None:
        """Remove a VM template."""
        del self.vm_templates[number]
        self._store.delete_vm_template(number)

    # -- requests about services -------------------------------------------------------------------------------------

    def delete(self, number: int) -> None:
        """Undeploy a service, in the states in which OneFlow allows it."""
        service = self.get(number, SERVICE_TYPE)
        if service.state in _NO_DELETE:
            raise CloudError(500, f"Service cannot be undeployed in state: {service.state.name}")
        self._undeploy(service)

    def recover(self, number: int, *, delete: bool) -> None:
        """Retry what failed; with `delete`, undeploy whatever the state."""
        service = self.get(number, SERVICE_TYPE)
        if delete:
            self._undeploy(service)
            return
        if service.state in (ServiceState.FAILED_DEPLOYING, ServiceState.DEPLOYING, ServiceState.DEPLOYING_NETS):
            for role in service.roles:
                if role["state"] == RoleState.FAILED_DEPLOYING:
                    role["state"] = int(RoleState.DEPLOYING)
        elif service.state is ServiceState.COOLDOWN:
            self._warm(service)
        elif service.state is ServiceState.FAILED_SCALING:
            service.enter(ServiceState.SCALING)
        elif service.state not in (ServiceState.SCALING, ServiceState.UNDEPLOYING):
            raise CloudError(500, f"Service cannot be recovered in state: {service.state.name}")
        self._restart_failed(service)
        self.advance(service)

    def _restart_failed(self, service: Document) -> None:
        for role in service.roles:
            for vm in self._vms_of(role):
                if vm.failed and self.host is not None:
                    vm.lcm_state, vm.error = LcmState.PROLOG, ""
                    self.host.start(vm)

    def scale(self, number: int, name: str, cardinality: int, *, force: bool) -> None:
        """Change how many VMs a role has; on the way down the oldest go."""
        service = self.get(number, SERVICE_TYPE)
        if service.state is not ServiceState.RUNNING:
            raise CloudError(500, f"Service cannot be scaled in state: {service.state.name}")
        role = service.role(name)
        if role is None:
            raise CloudError(500, f"Role {name} not found")
        if not force:
            if cardinality < role.get("min_vms", 0):
                raise CloudError(500, f"Can't scale service {number}: Minimum cardinality is {role['min_vms']}")
            if "max_vms" in role and cardinality > role["max_vms"]:
                raise CloudError(500, f"Can't scale service {number}: Maximum cardinality is {role['max_vms']}")
        if cardinality == role["cardinality"]:
            raise CloudError(500, f"Cardinality of {name} is already at {cardinality}")
        service.note(
            f"Role {name} scaling {'up' if cardinality > role['cardinality'] else 'down'} to {cardinality} nodes"
        )
        role["scale_way"] = int(cardinality < role["cardinality"])
        role["cardinality"] = cardinality
        role["state"] = int(RoleState.SCALING)
        service.enter(ServiceState.SCALING)
        if role["scale_way"]:
            surplus = len(node_ids(role)) - cardinality
            for vm in self._vms_of(role)[:surplus]:
                self._terminate(vm, role)
        elif not self._instantiate_missing(service, role):
            role["state"] = int(RoleState.FAILED_SCALING)
            service.enter(ServiceState.FAILED_SCALING)
        self.advance(service)

    def rename(self, number: int, name: str) -> None:
        """Give a service another name."""
        service = self.get(number, SERVICE_TYPE)
        service.body["name"] = name
        self.save(service)

    # -- VMs ---------------------------------------------------------------------------------------------------------

    def vm(self, number: int) -> Vm:
        """Return a VM. Raises `CloudError` 404."""
        vm = self.vms.get(number)
        if vm is None:
            raise CloudError(404, f"[one.vm.info] Error getting virtual machine [{number}].")
        return vm

    def service_of(self, vm: Vm) -> Document | None:
        """Return the service that a VM belongs to."""
        document = self.documents.get(vm.service_id)
        return document if document is not None and document.type == SERVICE_TYPE else None

    def update_vm(self, vm: Vm, attributes: dict[str, str]) -> None:
        """Append to a VM's user template."""
        vm.user_template |= attributes
        self._changed(vm)

    def erase_vm_attribute(self, vm: Vm, name: str) -> None:
        """Remove one attribute of a VM's user template."""
        if name not in vm.user_template:
            raise CloudError(500, "Internal server error")
        del vm.user_template[name]
        self._changed(vm)

    def vm_running(self, vm: Vm) -> None:
        """Take note that a machine is up."""
        vm.state, vm.lcm_state, vm.error = VmState.ACTIVE, LcmState.RUNNING, ""
        self._changed(vm)

    def vm_failed(self, vm: Vm, reason: str) -> None:
        """Take note that a machine could not be booted."""
        self._trouble(vm, VmState.ACTIVE, LcmState.PROLOG_FAILURE, reason)

    def vm_lost(self, vm: Vm, reason: str) -> None:
        """Take note that a machine went down by itself."""
        self._trouble(vm, VmState.POWEROFF, LcmState.LCM_INIT, reason)

    def _trouble(self, vm: Vm, state: VmState, lcm_state: LcmState, reason: str) -> None:
        vm.state, vm.lcm_state, vm.error = state, lcm_state, reason
        if service := self.service_of(vm):
            service.note(f"VM {vm.id} {vm.name}: {reason}", "E")
        self._changed(vm)

    def vm_stopped(self, vm: Vm) -> None:
        """Take note that a machine is gone for good: its node goes with it."""
        self.vms.pop(vm.id, None)
        self._store.delete_vm(vm.id)
        service = self.service_of(vm)
        if service is None:
            return
        for role in service.roles:
            if vm.id in node_ids(role):
                role["nodes"] = [node for node in role["nodes"] if node["deploy_id"] != vm.id]
        self.advance(service)

    def _changed(self, vm: Vm) -> None:
        self._store.save_vm(vm)
        if service := self.service_of(vm):
            self.advance(service)

    def _vms_of(self, role: dict[str, Any]) -> list[Vm]:
        return [self.vms[number] for number in node_ids(role) if number in self.vms]

    def _terminate(self, vm: Vm, role: dict[str, Any]) -> None:
        if vm.lcm_state is not LcmState.SHUTDOWN and self.host is not None:
            vm.state, vm.lcm_state = VmState.ACTIVE, LcmState.SHUTDOWN
            self._store.save_vm(vm)
            self.host.stop(vm, hard=role.get("shutdown_action") == "terminate-hard")

    def _instantiate_missing(self, service: Document, role: dict[str, Any]) -> bool:
        """Make and boot the VMs that a role lacks. Returns whether it could; the service's log says why not."""
        assert self.host is not None  # noqa: S101 - set before the first request is served
        base = self.vm_templates.get(role["template_id"])
        if base is None:
            service.note(f"VM template {role['template_id']} of role {role['name']} does not exist", "E")
            return False
        fresh = []
        try:
            while len(role["nodes"]) < role["cardinality"]:
                address = self.host.address({vm.ip for vm in self.vms.values()})
                vm = new_vm(service, role, base, Place(self._store.next_id("vm"), address, self._onegate))
                role["last_vmname"] += 1
                role["nodes"].append({"deploy_id": vm.id, "vm_info": {"VM": vm.owner()}})
                self.vms[vm.id] = vm
                fresh.append(vm)
        except OneflowerError as error:
            service.note(error.sentence, "E")
            return False
        self.save(service)
        for vm in fresh:
            vm.state, vm.lcm_state = VmState.ACTIVE, LcmState.PROLOG
            self._store.save_vm(vm)
            self.host.start(vm)
        return True

    # -- the state machine -------------------------------------------------------------------------------------------

    def advance(self, service: Document) -> None:
        """Carry a service on until nothing more follows from what is known."""
        if service.id not in self.documents:
            return
        while self._STEPS[service.state](self, service):
            if service.state is ServiceState.DONE:
                self._forget(service.id)
                return
        self.save(service)

    def _stay(self, _service: Document) -> bool:
        return False

    def _nets_are_up(self, service: Document) -> bool:
        service.enter(ServiceState.DEPLOYING)
        return True

    def _deploy(self, service: Document) -> bool:
        running = {role["name"] for role in service.roles if role["state"] == RoleState.RUNNING}
        straight = service.body["deployment"] == "straight"
        moved = False
        for role in service.roles:
            if role["state"] == RoleState.PENDING and (not straight or set(role.get("parents") or ()) <= running):
                role["state"] = int(RoleState.DEPLOYING)
                moved = True
                if not self._instantiate_missing(service, role):
                    role["state"] = int(RoleState.FAILED_DEPLOYING)
            elif role["state"] == RoleState.DEPLOYING:
                vms = self._vms_of(role)
                if any(vm.failed for vm in vms):
                    role["state"] = int(RoleState.FAILED_DEPLOYING)
                    moved = True
                elif len(vms) == role["cardinality"] and all(self._up(service, vm) for vm in vms):
                    role["state"] = int(RoleState.RUNNING)
                    service.note(f"Role {role['name']} is running")
                    moved = True
        states = {role["state"] for role in service.roles}
        if states == {RoleState.RUNNING}:
            service.enter(ServiceState.RUNNING)
            return True
        if RoleState.FAILED_DEPLOYING in states:
            service.enter(ServiceState.FAILED_DEPLOYING)
        return moved

    def _up(self, service: Document, vm: Vm) -> bool:
        return vm.ready if service.body.get("ready_status_gate") is True else vm.running

    def _watch(self, service: Document) -> bool:
        for role in service.roles:
            vms = self._vms_of(role)
            if len(vms) < role["cardinality"]:
                # A VM that went away behind OneFlow's back is not replaced; the role just has fewer.
                service.note(f"Role {role['name']} has {len(vms)} nodes left", "E")
                role["cardinality"] = len(vms)
            well = all(vm.running for vm in vms)
            role["state"] = int(RoleState.RUNNING if well else RoleState.WARNING)
        well = all(role["state"] == RoleState.RUNNING for role in service.roles)
        service.enter(ServiceState.RUNNING if well else ServiceState.WARNING)
        return False

    def _scale(self, service: Document) -> bool:
        role = next(role for role in service.roles if role["state"] in (RoleState.SCALING, RoleState.FAILED_SCALING))
        vms = self._vms_of(role)
        if any(vm.failed for vm in vms):
            role["state"] = int(RoleState.FAILED_SCALING)
            service.enter(ServiceState.FAILED_SCALING)
            return False
        if len(node_ids(role)) != role["cardinality"] or not all(self._up(service, vm) for vm in vms):
            return False
        role.pop("scale_way", None)
        role["state"] = int(RoleState.COOLDOWN)
        service.enter(ServiceState.COOLDOWN)
        self._cool_down(service)
        return False

    def _cool_down(self, service: Document) -> None:
        cooldown = max(role["cooldown"] for role in service.roles if role["state"] == RoleState.COOLDOWN)

        def end() -> None:
            if service.id in self.documents and service.state is ServiceState.COOLDOWN:
                self._warm(service)
                self.advance(service)

        self._later(cooldown, end)

    def _warm(self, service: Document) -> None:
        for role in service.roles:
            role["state"] = int(RoleState.RUNNING)
        service.enter(ServiceState.RUNNING)

    def _undeploy(self, service: Document) -> None:
        service.enter(ServiceState.UNDEPLOYING)
        self.advance(service)

    def _take_down(self, service: Document) -> bool:
        moved = False
        alive = [role for role in service.roles if role["state"] != RoleState.DONE]
        parents = {name for role in alive for name in role.get("parents") or ()}
        straight = service.body["deployment"] == "straight"
        for role in alive:
            if not self._vms_of(role):
                role["state"] = int(RoleState.DONE)
                moved = True
            elif not straight or role["name"] not in parents:
                role["state"] = int(RoleState.UNDEPLOYING)
                for vm in self._vms_of(role):
                    self._terminate(vm, role)
        if all(role["state"] == RoleState.DONE for role in service.roles):
            service.enter(ServiceState.DONE)
            return True
        return moved

    _STEPS = {  # noqa: RUF012 - a constant
        ServiceState.PENDING: _stay,
        ServiceState.DEPLOYING_NETS: _nets_are_up,
        ServiceState.DEPLOYING: _deploy,
        ServiceState.FAILED_DEPLOYING: _deploy,
        ServiceState.RUNNING: _watch,
        ServiceState.WARNING: _watch,
        ServiceState.SCALING: _scale,
        ServiceState.FAILED_SCALING: _stay,
        ServiceState.COOLDOWN: _stay,
        ServiceState.UNDEPLOYING: _take_down,
        ServiceState.FAILED_UNDEPLOYING: _stay,
        ServiceState.DONE: _stay,
    }
