"""The lifecycle of services, over the VMs of the core: requests to OneFlow, and events that it receives.

A service changes on a request (here), by steps (`steps`), and when a wait ends (`waits`, `endings`). If that boots more
machines, they boot at once. `watchdog` looks after running services. Bugs of the real OneFlow are copied. Where it
would leave a service stuck forever, so does this one, and the daemon's log says why. Sources: LifeCycleManager.rb,
vmrole.rb.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

from oneflower.local import ruby
from oneflower.local.errors import CloudError
from oneflower.local.oned.models import ONEADMINS
from oneflower.local.oneflow import rules
from oneflower.local.oneflow.contents import fill_contents
from oneflower.local.oneflow.endings import Endings
from oneflower.local.oneflow.instantiation import check_inputs, check_networks, merge_service
from oneflower.local.oneflow.models import SCALE_DOWN, SCALE_UP, SERVICE_TYPE, TEMPLATE_TYPE, Document, Role
from oneflower.local.oneflow.recovery import Recovery
from oneflower.local.oneflow.role_vms import RoleVms
from oneflower.local.oneflow.steps import Steps
from oneflower.local.oneflow.waits import Purpose, Wait, Waiting
from oneflower.local.oneflow.watchdog import Autoscaler, Watchdog
from oneflower.opennebula.states import FAILED, TRANSIENT, RoleState, ServiceState

if TYPE_CHECKING:
    from oneflower.local.oned.compute import Compute
    from oneflower.local.oned.models import Access, Vm
    from oneflower.local.oneflow.documents import Documents


class Lifecycle:
    """All services."""

    def __init__(self, documents: Documents, compute: Compute) -> None:
        self._documents = documents
        self._compute = compute
        self._clock = compute.clock
        self._autoscaler_interval = compute.timing.autoscaler
        self._waiting = Waiting(compute, self._finish, self._fail)
        self._watchdog = Watchdog(documents, compute, self._vm_gone)
        self._autoscaler = Autoscaler(documents, compute, partial(self.scale, force=False))
        self._steps = Steps(documents, RoleVms(documents, compute), self._waiting, self._watchdog, compute.clock)
        self._endings = Endings(self._steps)
        self._recovery = Recovery(self._steps)
        compute.listener = self

    def start(self) -> None:
        """Resume every service, as OneFlow does when it starts, and evaluate policies from now on."""
        for service in self._documents.pool(SERVICE_TYPE):
            if service.state in TRANSIENT:
                self.recover(service, delete=False)
            elif service.state in (ServiceState.RUNNING, ServiceState.WARNING):
                self._watchdog.watch(service)
        self._clock.later(self._autoscaler_interval, self._autoscaler.run)

    # -- requests ----------------------------------------------------------------------------------------------------

    def instantiate(self, number: int, merge: dict[str, Any], access: Access = ONEADMINS) -> dict[str, Any]:
        """Create a service. Returns the document as it is before anything happens: OneFlow's reply."""
        self._compute.need_room()
        template = self._documents.get(number, TEMPLATE_TYPE).body
        check_inputs(template, merge)
        check_networks(template, merge)
        body = merge_service(template, merge)
        rules.refuse_unsupported(body)
        for role in body["roles"]:
            role.setdefault("state", 0)
        body |= {"state": 0, "start_time": int(self._clock.now())}
        service = self._documents.new(SERVICE_TYPE, body, access)
        reply = copy.deepcopy(service.wire())
        for role in service.roles:
            rules.complete(role)
        self._documents.enter(service, ServiceState.DEPLOYING_NETS)
        self._documents.add(service)
        self._clock.later(0, lambda: self._steps.deploy(service))
        return reply

    def delete(self, service: Document) -> None:
        """Undeploy a service, in the states in which OneFlow allows it. Raises `CloudError` 500."""
        if service.state in FAILED or (service.state in TRANSIENT and service.state is not ServiceState.UNDEPLOYING):
            raise CloudError(500, f"Service cannot be undeployed in state: {service.state.name}")
        self._steps.undeploy(service)

    def recover(self, service: Document, *, delete: bool) -> None:
        """Retry what failed; with `delete`, undeploy in any state. Raises `CloudError` 500."""
        if delete:
            self._waiting.cancel(service.id)
            self._steps.undeploy(service)
        else:
            self._recovery.recover(service)

    def release(self, service: Document) -> None:
        """Release the roles on hold. Raises `CloudError` 500."""
        with self._documents.changing(service):
            roles = rules.deployable(service, RoleState.HOLD)
            if not roles:
                raise CloudError(500, "Service has no roles in HOLD")
            self._steps.release(service, roles, Purpose.RELEASE)
            self._documents.enter(service, ServiceState.DEPLOYING)

    def scale(self, service: Document, name: str, cardinality: int, force: Any) -> None:
        """Change how many VMs a role has; to scale down, the oldest are terminated. Raises `CloudError` 500.

        `force` is what the request says. OneFlow writes it into JSON text, unquoted, and reads that again, so "true" is
        true. If the result is not valid JSON, as with an empty value, `JsonError` is raised and the service stays
        unwatched.
        """
        if service.state is not ServiceState.RUNNING:
            raise CloudError(500, f"Service cannot be scaled in state: {service.state.name}")
        role = service.role(name)
        if role is not None and cardinality > role["cardinality"]:
            self._compute.need_room()
        # From here on OneFlow watches the service only when it is RUNNING again: a refusal leaves it unwatched.
        self._watchdog.unwatch(service)
        if role is None:
            raise CloudError(500, f"Role {name} not found")
        if role["type"] == "vr":
            raise CloudError(500, f"Virtual Router role {name} does not support cardinality update")
        given = ruby.load(f'{{ "cardinality" : {cardinality},\n  "force" : {ruby.text(force)} }}')
        with self._documents.changing(service):
            if given["force"] is not True:
                self._check_bounds(service, role, cardinality)
            error = self._scale(service, role, cardinality)
        if error:
            raise error

    def _check_bounds(self, service: Document, role: Role, cardinality: int) -> None:
        try:
            rules.check_cardinality(role, cardinality)
        except CloudError as error:
            self._watchdog.watch(service)
            raise CloudError(500, f"Can't scale service {service.id}: {error.message}") from error

    def _scale(self, service: Document, role: Role, cardinality: int) -> CloudError | None:
        before = role["cardinality"]
        if cardinality == before:
            raise CloudError(500, f"Cardinality of {role['name']} is already at {cardinality}")
        self._documents.set_cardinality(service, role, cardinality)
        for policy in role.get("elasticity_policies") or ():
            policy.pop("true_evals", None)
        error = None
        if cardinality > before:
            role["scale_way"] = SCALE_UP
            going = (RoleState.SCALING, RoleState.FAILED_SCALING, Purpose.SCALE_UP)
            well = self._steps.deploy_roles(service, [role], *going)
        else:
            role["scale_way"] = SCALE_DOWN
            error = self._steps.undeploy_roles(service, [role], RoleState.SCALING, Purpose.SCALE_DOWN)
            well = error is None
        self._documents.enter(service, ServiceState.SCALING if well else ServiceState.FAILED_SCALING)
        return error

    def add_role(self, service: Document, role: Role) -> None:
        """Add a role to a running service and deploy it at once, also before its parents. Raises `CloudError` 500."""
        self._need_running(service)
        self._compute.need_room()
        if service.role(role["name"]) is not None:
            raise CloudError(500, f"Role {role['name']} already exists")
        rules.refuse_unsupported({"roles": [role]})
        with self._documents.changing(service):
            service.roles.append(role | {"state": 0})
            role = service.roles[-1]
            rules.complete(role)
            fill_contents(service.body)
            self._watchdog.unwatch(service)
            going = (RoleState.DEPLOYING, RoleState.FAILED_DEPLOYING, Purpose.ADD)
            well = self._steps.deploy_roles(service, [role], *going)
            self._documents.enter(service, ServiceState.DEPLOYING if well else ServiceState.FAILED_DEPLOYING)

    def remove_role(self, service: Document, name: str) -> None:
        """Remove a role of a running service, with its VMs. Raises `CloudError` 500."""
        self._need_running(service)
        role = service.role(name)
        if role is None:
            raise CloudError(500, f"Role {name} does not exist")
        with self._documents.changing(service):
            self._watchdog.unwatch(service)
            error = self._steps.undeploy_roles(service, [role], RoleState.UNDEPLOYING, Purpose.REMOVE)
            self._documents.enter(service, ServiceState.FAILED_UNDEPLOYING if error else ServiceState.UNDEPLOYING)
        if error:
            raise error

    def _need_running(self, service: Document) -> None:
        if service.state is not ServiceState.RUNNING:
            raise CloudError(500, f"Cannot modify roles in state: {service.state.name}")

    def update(self, service: Document, body: Any, *, append: bool) -> None:
        """Change what may be changed in a service: not its inputs, names, roles or nodes. Raises `CloudError` 500."""
        if service.state in TRANSIENT or service.state in FAILED:
            raise CloudError(500, f"Service cannot be updated in state: {service.state.name}")
        changed = rules.immutable_change(service, body, append=append)
        if changed == "name":
            raise CloudError(500, "To change `service/name` use rename operation")
        if changed:
            raise CloudError(500, f"Immutable value: `{changed}` can not be changed")
        with self._documents.changing(service):
            service.body = {**service.body, **body} if append else body

    # -- events ------------------------------------------------------------------------------------------------------

    def vm_changed(self, vm: Vm) -> None:
        """Handle a new state of a VM."""
        self._waiting.vm_changed(vm)
        self._watchdog.vm_changed(vm)

    def vm_updated(self, vm: Vm, text: str) -> None:
        """Handle an update of a VM's user template with `text`."""
        self._waiting.vm_updated(vm, text)

    def _finish(self, wait: Wait) -> None:
        self._endings.finish(wait)

    def _fail(self, wait: Wait) -> None:
        self._endings.fail(wait)

    def _vm_gone(self, service: Document) -> None:
        self._steps.delete_when_empty(service)
