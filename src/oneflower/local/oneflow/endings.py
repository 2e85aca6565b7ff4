"""What happens when a wait for the VMs of a role ends: a new state, and often the next step of the service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower.local.oneflow import rules
from oneflower.local.oneflow.models import SCALE_UP, Document, Role
from oneflower.local.oneflow.waits import Purpose, Wait
from oneflower.opennebula.states import RoleState, ServiceState

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower.local.oneflow.steps import Steps

_FAILURES = {
    Purpose.SCALE_UP: "SCALING", Purpose.SCALE_DOWN: "SCALING",
    Purpose.UNDEPLOY: "UNDEPLOYING", Purpose.REMOVE: "UNDEPLOYING",
}  # fmt: skip


class Endings:
    """Ends waits; the table of their purposes is at the end."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._documents = steps.documents
        self._resting: dict[int, float] = {}
        self._endings = self._table()

    def finish(self, wait: Wait) -> None:
        """End a wait whose VMs have all arrived."""
        service, role = self._waiters(wait)
        if service is not None and role is not None:
            with self._documents.changing(service):
                self._endings[wait.purpose](service, role)

    def fail(self, wait: Wait) -> None:
        """Change a role and its service to a failed state, because a VM has failed."""
        service, role = self._waiters(wait)
        if service is None or role is None:
            return
        self._steps.waiting.cancel(service.id)
        state = f"FAILED_{_FAILURES.get(wait.purpose, 'DEPLOYING')}"
        with self._documents.changing(service):
            self._documents.enter(service, ServiceState[state])
            role["state"] = int(RoleState[state])

    def _waiters(self, wait: Wait) -> tuple[Document | None, Role | None]:
        service = self._documents.service(wait.service)
        return service, service.role(wait.role) if service else None

    def _deployed(self, service: Document, role: Role) -> None:
        role["state"] = int(RoleState.RUNNING)
        if not self._steps.become_running(service) and service.straight:
            self._steps.deploy_roles(service, rules.deployable(service))
        self._steps.delete_when_empty(service)

    def _released(self, service: Document, role: Role) -> None:
        role["state"] = int(RoleState.RUNNING)
        if not self._steps.become_running(service) and service.straight:
            self._steps.release(service, rules.deployable(service, RoleState.HOLD), Purpose.DEPLOY)
        self._steps.delete_when_empty(service)

    def _held(self, service: Document, role: Role) -> None:
        role["state"] = int(RoleState.HOLD)
        if service.all_roles(RoleState.HOLD):
            if service.state is not ServiceState.HOLD:
                self._documents.enter(service, ServiceState.HOLD)
        elif service.straight:
            held = {other["name"] for other in service.roles if other["state"] == RoleState.HOLD}
            ready = [
                other for other in service.roles
                if other["state"] == RoleState.PENDING and set(other.get("parents") or ()) <= held
            ]  # fmt: skip
            self._steps.deploy_roles(service, ready)

    def _added(self, service: Document, role: Role) -> None:
        role["state"] = int(RoleState.RUNNING)
        self._documents.enter(service, ServiceState.RUNNING)
        if service.all_roles(RoleState.RUNNING):
            self._steps.watchdog.watch(service)

    def _scaled(self, service: Document, role: Role) -> None:
        if role.get("scale_way") != SCALE_UP:
            self._steps.vms.drop_terminated(role)
        role.pop("scale_way", None)
        self._documents.enter(service, ServiceState.COOLDOWN)
        role["state"] = int(RoleState.COOLDOWN)
        name, until = role["name"], self._steps.clock.now() + int(role["cooldown"])
        self._resting[service.id] = until
        self._steps.clock.later(int(role["cooldown"]), lambda: self._rested(service, name, until))

    def _rested(self, service: Document, name: str, until: float) -> None:
        role = service.role(name)
        alive = self._documents.service(service.id) is not None and service.state is ServiceState.COOLDOWN
        if role is None or not alive or self._resting.get(service.id) != until:
            return
        with self._documents.changing(service):
            self._documents.enter(service, ServiceState.RUNNING)
            role["state"] = int(RoleState.RUNNING)
            self._steps.delete_when_empty(service)
            self._steps.watchdog.watch(service)

    def _removed(self, service: Document, role: Role) -> None:
        service.roles.remove(role)
        if service.all_roles(RoleState.DONE):
            self._steps.forget(service)
        else:
            self._documents.enter(service, ServiceState.RUNNING)
            if service.all_roles(RoleState.RUNNING):
                self._steps.watchdog.watch(service)

    def _undeployed(self, service: Document, role: Role) -> None:
        if all(other["state"] == RoleState.DONE for other in service.roles if other is not role):
            # OneFlow does not record the last role's end: it still shows the role as undeploying, with its nodes.
            self._documents.enter(service, ServiceState.UNDEPLOYING_NETS)
            self._steps.clock.later(0, lambda: self._documents.forget(service.id))
            return
        role["state"], role["nodes"] = int(RoleState.DONE), []
        if service.straight:
            self._steps.undeploy_roles(service, rules.removable(service))

    def _table(self) -> dict[Purpose, Callable[[Document, Role], None]]:
        return {
            Purpose.DEPLOY: self._deployed,
            Purpose.RELEASE: self._released,
            Purpose.HOLD: self._held,
            Purpose.ADD: self._added,
            Purpose.SCALE_UP: self._scaled,
            Purpose.SCALE_DOWN: self._scaled,
            Purpose.REMOVE: self._removed,
            Purpose.UNDEPLOY: self._undeployed,
        }
