"""What OneFlow does to a service, step by step. A step opens waits; what follows when they end is in `endings`.

Sources: LifeCycleManager.rb, vmrole.rb.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from oneflower.local.errors import CloudError
from oneflower.local.oneflow import rules
from oneflower.local.oneflow.contents import fill_contents
from oneflower.local.oneflow.documents import StuckError
from oneflower.local.oneflow.models import Document, Role, node_ids
from oneflower.local.oneflow.role_vms import LockedError
from oneflower.local.oneflow.waits import Purpose, Wait
from oneflower.opennebula.states import RoleState, ServiceState, Severity

if TYPE_CHECKING:
    from oneflower.local.clock import Clock
    from oneflower.local.oneflow.documents import Documents
    from oneflower.local.oneflow.role_vms import RoleVms
    from oneflower.local.oneflow.waits import Waiting
    from oneflower.local.oneflow.watchdog import Watchdog

log = logging.getLogger(__name__)


class Steps:
    """The steps of all services."""

    def __init__(
        self, documents: Documents, vms: RoleVms, waiting: Waiting, watchdog: Watchdog, clock: Clock
    ) -> None:  # fmt: skip
        self.documents = documents
        self.vms = vms
        self.waiting = waiting
        self.watchdog = watchdog
        self.clock = clock

    # -- deploying ---------------------------------------------------------------------------------------------------

    def deploy(self, service: Document) -> None:
        """Deploy the roles that do not have to wait for another."""
        if service.state not in (ServiceState.DEPLOYING_NETS, ServiceState.FAILED_DEPLOYING_NETS):
            return
        with self.documents.changing(service):
            try:
                fill_contents(service.body)
            except (TypeError, AttributeError):
                log.warning("service %d: the template contents cannot take user inputs", service.id)
                self.documents.enter(service, ServiceState.FAILED_DEPLOYING)
                return
            roles = rules.deployable(service)
            if not roles:
                if not self.become_running(service):
                    raise StuckError("no role can be deployed first: parents that do not exist, or a circle of parents")
            elif not self.deploy_roles(service, roles):
                self.documents.enter(service, ServiceState.FAILED_DEPLOYING)
            elif service.body.get("on_hold"):
                self.documents.enter(service, ServiceState.HOLD)
            else:
                self.documents.enter(service, ServiceState.DEPLOYING)

    def deploy_roles(
        self,
        service: Document,
        roles: list[Role],
        success: RoleState = RoleState.DEPLOYING,
        failure: RoleState = RoleState.FAILED_DEPLOYING,
        purpose: Purpose = Purpose.DEPLOY,
    ) -> bool:
        """Boot the VMs that roles lack. Returns whether all could be made; the service's log says why not."""
        for role in roles:
            pending = role["state"] == RoleState.PENDING
            if pending and (service.body.get("on_hold") or rules.parent_on_hold(service, role)):
                role["on_hold"] = True
            try:
                fresh = self.vms.make_missing(service, role)
            except CloudError as error:
                message = f"Instantiate failed for template {role['template_id']}; {error.message}"
                self.documents.note(service, f"Role {role['name']} : {message}", Severity.ERROR)
                role["state"] = int(failure)
                return False
            held = role.get("on_hold") and pending
            role["state"] = int(RoleState.HOLD if held else success)
            self.wait(Purpose.HOLD if held else purpose, service, role, fresh)
        return True

    def release(self, service: Document, roles: list[Role], purpose: Purpose) -> None:
        """Release roles that are on hold."""
        for role in roles:
            self.vms.release(role)
            role["state"] = int(RoleState.DEPLOYING)
            self.wait(purpose, service, role, node_ids(role))

    def become_running(self, service: Document) -> bool:
        """Change a service to RUNNING if all its roles are. Returns whether they are."""
        if not service.all_roles(RoleState.RUNNING):
            return False
        self.documents.enter(service, ServiceState.RUNNING)
        self.watchdog.watch(service)
        return True

    # -- undeploying -------------------------------------------------------------------------------------------------

    def undeploy(self, service: Document) -> None:
        """Undeploy the roles that no other depends on."""
        self.watchdog.unwatch(service)
        roles = rules.removable(service)
        if not roles:
            # Also if a role is still being undeployed: a second DELETE makes OneFlow forget the service and its VMs.
            self.forget(service)
            return
        with self.documents.changing(service):
            error = self.undeploy_roles(service, roles)
            self.documents.enter(service, ServiceState.FAILED_UNDEPLOYING if error else ServiceState.UNDEPLOYING)
        if error:
            raise error

    def undeploy_roles(
        self,
        service: Document,
        roles: list[Role],
        state: RoleState = RoleState.UNDEPLOYING,
        purpose: Purpose = Purpose.UNDEPLOY,
        *,
        recover: bool = False,
    ) -> LockedError | None:
        """Shut down the surplus VMs of roles, or all of them, up to a role that cannot be: return why."""
        for role in roles:
            try:
                gone = self.vms.shut_down(service, role, recover=recover)
            except LockedError as error:
                scaling = state in (RoleState.SCALING, RoleState.FAILED_SCALING)
                role["state"] = int(RoleState.FAILED_SCALING if scaling else RoleState.FAILED_UNDEPLOYING)
                return error
            role["state"] = int(state)
            self.wait(purpose, service, role, gone)
        return None

    def delete_when_empty(self, service: Document) -> None:
        """Undeploy a service that has no VM left, if it is to be deleted automatically."""
        if service.body.get("automatic_deletion") and not any(role["nodes"] for role in service.roles):
            self.clock.later(0, lambda: self.undeploy(service))

    def forget(self, service: Document) -> None:
        """Remove a service, whatever becomes of its VMs."""
        self.waiting.cancel(service.id)
        self.watchdog.unwatch(service)
        self.documents.forget(service.id)

    def wait(self, purpose: Purpose, service: Document, role: Role, vms: list[int]) -> None:
        """Wait for VMs of a role."""
        self.waiting.open(Wait(purpose, service.id, role["name"], set(vms), gate=service.gate))
