"""How OneFlow recovers a service: what it retries depends on the state of the service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower.local.errors import CloudError
from oneflower.local.oneflow import rules
from oneflower.local.oneflow.models import SCALE_UP, Document
from oneflower.local.oneflow.waits import Purpose
from oneflower.opennebula.states import RoleState, ServiceState

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower.local.oneflow.steps import Steps


class Recovery:
    """Retries what failed or was interrupted; the table of states is at the end."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._recoveries = self._table()

    def recover(self, service: Document) -> None:
        """Retry. Raises `CloudError` 500 in a state that cannot be recovered."""
        self._steps.waiting.cancel(service.id)
        with self._steps.documents.changing(service):
            if service.state not in self._recoveries:
                raise CloudError(500, f"Service cannot be recovered in state: {service.state.name}")
            self._recoveries[service.state](service)

    def _deploy(self, service: Document) -> None:
        for role in service.roles:
            parents = (service.role(name) for name in role.get("parents") or ())
            blocked = any(parent and parent["state"] != RoleState.RUNNING for parent in parents)
            if role["state"] in (RoleState.FAILED_DEPLOYING, RoleState.DEPLOYING) or (
                role["state"] == RoleState.PENDING and not blocked
            ):
                self._steps.wait(Purpose.DEPLOY, service, role, self._steps.vms.retry(service, role))

    def _undeploy(self, service: Document) -> None:
        removable = rules.removable(service)
        for role in service.roles:
            state = RoleState(role["state"])
            if state in (RoleState.FAILED_UNDEPLOYING, RoleState.UNDEPLOYING) or role in removable:
                self._steps.undeploy_roles(service, [role], state, recover=True)

    def _scale(self, service: Document) -> None:
        for role in service.roles:
            state = RoleState(role["state"])
            if state not in (RoleState.SCALING, RoleState.FAILED_SCALING):
                continue
            if role.get("scale_way") == SCALE_UP:
                self._steps.wait(Purpose.SCALE_UP, service, role, self._steps.vms.retry(service, role))
            else:
                self._steps.undeploy_roles(service, [role], state, Purpose.SCALE_DOWN, recover=True)

    def _deploy_networks(self, service: Document) -> None:
        self._steps.clock.later(0, lambda: self._steps.deploy(service))

    def _undeploy_networks(self, service: Document) -> None:
        self._steps.clock.later(0, lambda: self._steps.documents.forget(service.id))

    def _cool_down(self, service: Document) -> None:
        self._steps.documents.enter(service, ServiceState.RUNNING)
        for role in service.roles:
            role["state"] = int(RoleState.RUNNING)

    def _table(self) -> dict[ServiceState, Callable[[Document], None]]:
        return {
            ServiceState.PENDING: self._deploy,
            ServiceState.DEPLOYING: self._deploy,
            ServiceState.FAILED_DEPLOYING: self._deploy,
            ServiceState.DEPLOYING_NETS: self._deploy_networks,
            ServiceState.FAILED_DEPLOYING_NETS: self._deploy_networks,
            ServiceState.SCALING: self._scale,
            ServiceState.FAILED_SCALING: self._scale,
            ServiceState.COOLDOWN: self._cool_down,
            ServiceState.UNDEPLOYING: self._undeploy,
            ServiceState.FAILED_UNDEPLOYING: self._undeploy,
            ServiceState.FAILED_UNDEPLOYING_NETS: self._undeploy,
            ServiceState.UNDEPLOYING_NETS: self._undeploy_networks,
        }
