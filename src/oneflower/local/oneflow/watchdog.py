"""OneFlow's watchdog and its autoscaler, which look after running services.

When a VM goes down, its role and service become WARNING, and RUNNING again when it comes back. A VM that is terminated
without OneFlow is removed from its role and not replaced, except by the autoscaler if there are now fewer than
`min_vms`. Sources: ServiceWatchDog.rb, ServiceAutoScaler.rb.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from oneflower.local.errors import CloudError
from oneflower.local.oneflow import policies
from oneflower.local.oneflow.models import SERVICE_TYPE, Document, Role, node_ids
from oneflower.opennebula.states import RoleState, ServiceState, VmState

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower.local.oned.compute import Compute
    from oneflower.local.oned.models import Vm
    from oneflower.local.oneflow.documents import Documents

log = logging.getLogger(__name__)


class Watchdog:
    """Looks after the services that it was told to watch. It calls `vm_gone` when one has lost a VM."""

    def __init__(self, documents: Documents, compute: Compute, vm_gone: Callable[[Document], None]) -> None:
        self._documents = documents
        self._compute = compute
        self._vm_gone = vm_gone
        self._watched: set[int] = set()

    def watch(self, service: Document) -> None:
        """Watch a service from now on, and first check its VMs."""
        self._watched.add(service.id)
        nodes = [(role["name"], number) for role in service.roles for number in node_ids(role)]

        def look() -> None:
            for name, number in nodes:
                if service.id in self._watched:
                    self._look_after(service, name, number)

        self._compute.clock.later(0, look)

    def unwatch(self, service: Document) -> None:
        """Stop watching a service."""
        self._watched.discard(service.id)

    def vm_changed(self, vm: Vm) -> None:
        """Handle a new state of a VM."""
        if vm.service_id in self._watched:
            service = self._documents.service(vm.service_id or 0)
            if service is not None:
                self._look_after(service, str(vm.user_template.get("ROLE_NAME")), vm.id)

    def _look_after(self, service: Document, name: str, number: int) -> None:
        role, vm = service.role(name), self._compute.vms.get(number)
        if role is None:
            return
        if vm is None:
            self._lost(service, role, number)
        elif vm.state is VmState.POWEROFF or vm.failed:
            if (service.state, role["state"]) != (ServiceState.WARNING, RoleState.WARNING):
                with self._documents.changing(service):
                    role["state"] = int(RoleState.WARNING)
                    if service.state is not ServiceState.WARNING:
                        self._documents.enter(service, ServiceState.WARNING)
        elif vm.running and role["state"] != RoleState.RUNNING:
            with self._documents.changing(service):
                role["state"] = int(RoleState.RUNNING)
                if service.all_roles(RoleState.RUNNING) and service.state is not ServiceState.RUNNING:
                    self._documents.enter(service, ServiceState.RUNNING)

    def _lost(self, service: Document, role: Role, number: int) -> None:
        """Remove a VM that was terminated without OneFlow from its role. It is not replaced."""
        if number in node_ids(role):
            with self._documents.changing(service):
                if role["cardinality"] > 0:
                    self._documents.set_cardinality(service, role, role["cardinality"] - 1)
                role["nodes"] = [node for node in role["nodes"] if node["deploy_id"] != number]
                self._vm_gone(service)


class Autoscaler:
    """Evaluates the policies of running services at an interval. `scale` changes a role's cardinality."""

    def __init__(self, documents: Documents, compute: Compute, scale: Callable[[Document, str, int], None]) -> None:
        self._documents = documents
        self._compute = compute
        self._scale = scale

    def run(self) -> None:
        """Evaluate every policy, and again after OneFlow's interval."""
        self._compute.clock.later(self._compute.timing.autoscaler, self.run)
        for service in self._documents.pool(SERVICE_TYPE):
            for name in [role["name"] for role in service.roles]:
                role = service.role(name)
                if service.state is ServiceState.RUNNING and role is not None and _has_policy(role):
                    self._apply(service, role)

    def _apply(self, service: Document, role: Role) -> None:
        vms = [self._compute.vms[number] for number in node_ids(role) if number in self._compute.vms]
        change, cooldown = policies.wanted(role, vms, self._compute.clock.now())
        if change and cooldown is not None:
            role["cooldown"] = cooldown
        self._documents.save(service)
        if change:
            log.info("service %d: policies scale role %s by %+d", service.id, role["name"], change)
            try:
                self._scale(service, role["name"], role["cardinality"] + change)
            except CloudError as error:
                log.warning("service %d: %s", service.id, error.message)


def _has_policy(role: Role) -> bool:
    return bool(
        role.get("elasticity_policies")
        or role.get("scheduled_policies")
        or role["cardinality"] < (role.get("min_vms") or 0)
    )
