"""The life of services: OneFlow's state machine, over whatever VMs `compute` has.

A service changes on a request, and when what it waits for has come (`waits`); where that boots further machines they
boot in that very moment. Services that are running are looked after by others (`watchdog`).
What the real OneFlow does wrong is done wrong here too; where it would leave a service stuck for ever, this one does,
and says so in the daemon's log. Sources: LifeCycleManager.rb, vmrole.rb.
"""

from __future__ import annotations

import copy
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from oneflower.local import ruby
from oneflower.local.models import SERVICE_TYPE, TEMPLATE_TYPE, CloudError, Document, Vm, node_ids
from oneflower.local.oned import corexml
from oneflower.local.oned.compute import VERBS
from oneflower.local.oned.vmtext import fill_references, render_contents
from oneflower.local.oneflow import rules
from oneflower.local.oneflow.documents import StuckError
from oneflower.local.oneflow.instantiation import check_inputs, check_networks, deep_merge, fill_contents, merge_service
from oneflower.local.oneflow.waits import For, Wait, Waiting
from oneflower.local.oneflow.watchdog import Autoscaler, Watchdog
from oneflower.opennebula.states import FAILED, TRANSIENT, RoleState, ServiceState, VmState

if TYPE_CHECKING:
    from oneflower.local.oned.compute import Compute
    from oneflower.local.oneflow.documents import Documents

log = logging.getLogger(__name__)

Role = dict[str, Any]

ACTIONS = frozenset(
    f"{verb}{hard}"
    for verb, hards in {
        "terminate": ("", "-hard"), "undeploy": ("", "-hard"), "reboot": ("", "-hard"), "poweroff": ("", "-hard"),
        "hold": ("",), "release": ("",), "stop": ("",), "suspend": ("",), "resume": ("",),
        "snapshot": ("-create", "-revert", "-delete"), "disk-snapshot": ("-create", "-revert", "-delete"),
    }.items()
    for hard in hards
)  # fmt: skip
_UP, _DOWN = 0, 1


class Lifecycle:
    """All services."""

    def __init__(self, documents: Documents, compute: Compute) -> None:
        self._documents = documents
        self._compute = compute
        self._clock = compute.clock
        self._resting: dict[int, float] = {}
        self._waiting = Waiting(compute, self._finish, self._fail)
        self._watchdog = Watchdog(documents, compute, self._delete_when_empty)
        self._autoscaler = Autoscaler(documents, compute, partial(self.scale, force=False))
        compute.listener = self

    def start(self) -> None:
        """Carry on with every service, as OneFlow does when it starts, and look after policies from now on."""
        for service in self._documents.pool(SERVICE_TYPE):
            if service.state in TRANSIENT:
                self.recover(service, delete=False)
            elif service.state in (ServiceState.RUNNING, ServiceState.WARNING):
                self._watchdog.watch(service)
        self._clock.later(self._compute.timing.autoscaler, self._autoscaler.run)

    def vm_changed(self, vm: Vm) -> None:
        """Take note of a new state of a VM."""
        self._waiting.vm_changed(vm)
        self._watchdog.vm_changed(vm)

    def vm_updated(self, vm: Vm, text: str) -> None:
        """Take note that a VM's user template was updated with `text`."""
        self._waiting.vm_updated(vm, text)

    # -- requests ----------------------------------------------------------------------------------------------------

    def instantiate(self, number: int, merge: dict[str, Any]) -> dict[str, Any]:
        """Make a service. Returns the document as it is before anything happens, as OneFlow replies it."""
        template = self._documents.get(number, TEMPLATE_TYPE).body
        check_inputs(template, merge)
        check_networks(template, merge)
        body = merge_service(template, merge)
        rules.refuse_unsupported(body)
        for role in body["roles"]:
            role.setdefault("state", 0)
        service = self._documents.insert(SERVICE_TYPE, body | {"state": 0, "start_time": int(self._clock.now())})
        reply = copy.deepcopy(service.wire())
        for role in service.roles:
            rules.complete(role)
        self._documents.enter(service, ServiceState.DEPLOYING_NETS)
        self._documents.save(service)
        self._clock.later(0, lambda: self._deploy(service))
        return reply

    def delete(self, service: Document) -> None:
        """Undeploy a service, in the states in which OneFlow allows it. Raises `CloudError` 500."""
        if service.state in FAILED or (service.state in TRANSIENT and service.state is not ServiceState.UNDEPLOYING):
            raise CloudError(500, f"Service cannot be undeployed in state: {service.state.name}")
        self._undeploy(service)

    def recover(self, service: Document, *, delete: bool) -> None:
        """Retry what failed; with `delete`, undeploy whatever the state. Raises `CloudError` 500."""
        self._waiting.cancel(service.id)
        if delete:
            self._undeploy(service)
            return
        with self._documents.changing(service):
            steps = [step for states, step in self._RECOVERIES.items() if service.state in states]
            if not steps:
                raise CloudError(500, f"Service cannot be recovered in state: {service.state.name}")
            steps[0](self, service)

    def release(self, service: Document) -> None:
        """Let go of the roles on hold. Raises `CloudError` 500."""
        with self._documents.changing(service):
            roles = rules.deployable(service, RoleState.HOLD)
            if not roles:
                raise CloudError(500, "Service has no roles in HOLD")
            self._release(service, roles, For.RELEASE)
            self._documents.enter(service, ServiceState.DEPLOYING)

    def scale(self, service: Document, name: str, cardinality: int, force: Any) -> None:
        """Change how many VMs a role has; on the way down the oldest go. Raises `CloudError` 500.

        `force` is what the request says. OneFlow writes it into JSON text, unquoted, and reads that again: "true" is
        true, and what is no JSON then, as nothing at all, raises `JsonError`, with the service unwatched from then on.
        """
        if service.state is not ServiceState.RUNNING:
            raise CloudError(500, f"Service cannot be scaled in state: {service.state.name}")
        # From here on OneFlow watches over the service only when it is RUNNING again: a refusal leaves it unwatched.
        self._watchdog.leave(service)
        role = service.role(name)
        if role is None:
            raise CloudError(500, f"Role {name} not found")
        if role["type"] == "vr":
            raise CloudError(500, f"Virtual Router role {name} does not support cardinality update")
        given = ruby.load(f'{{ "cardinality" : {cardinality},\n  "force" : {ruby.text(force)} }}')
        with self._documents.changing(service):
            before = role["cardinality"]
            if given["force"] is not True:
                try:
                    rules.check_cardinality(role, cardinality)
                except CloudError as error:
                    self._watchdog.watch(service)
                    raise CloudError(500, f"Can't scale service {service.id}: {error.message}") from error
            if cardinality == before:
                raise CloudError(500, f"Cardinality of {name} is already at {cardinality}")
            self._documents.set_cardinality(service, role, cardinality)
            for policy in role.get("elasticity_policies") or ():
                policy.pop("true_evals", None)
            if cardinality > before:
                role["scale_way"] = _UP
                going = (RoleState.SCALING, RoleState.FAILED_SCALING, For.SCALE_UP)
                well = self._deploy_roles(service, [role], *going)
            else:
                role["scale_way"] = _DOWN
                self._undeploy_roles(service, [role], RoleState.SCALING, For.SCALE_DOWN)
                well = True
            self._documents.enter(service, ServiceState.SCALING if well else ServiceState.FAILED_SCALING)

    def add_role(self, service: Document, role: Role) -> None:
        """Add a role to a running service and deploy it at once, whatever its parents. Raises `CloudError` 500."""
        self._need_running(service)
        if service.role(role["name"]) is not None:
            raise CloudError(500, f"Role {role['name']} already exists")
        rules.refuse_unsupported({"roles": [role]})
        with self._documents.changing(service):
            service.roles.append(role | {"state": 0})
            role = service.roles[-1]
            rules.complete(role)
            fill_contents(service.body)
            self._watchdog.leave(service)
            well = self._deploy_roles(service, [role], RoleState.DEPLOYING, RoleState.FAILED_DEPLOYING, For.ADD)
            self._documents.enter(service, ServiceState.DEPLOYING if well else ServiceState.FAILED_DEPLOYING)

    def remove_role(self, service: Document, name: str) -> None:
        """Take down a role of a running service. Raises `CloudError` 500."""
        self._need_running(service)
        role = service.role(name)
        if role is None:
            raise CloudError(500, f"Role {name} does not exist")
        with self._documents.changing(service):
            self._watchdog.leave(service)
            self._undeploy_roles(service, [role], RoleState.UNDEPLOYING, For.REMOVE)
            self._documents.enter(service, ServiceState.UNDEPLOYING)

    def update(self, service: Document, body: Any, *, append: bool) -> None:
        """Change what may be changed of a service: not its inputs, names, roles or nodes. Raises `CloudError` 500."""
        if service.state in TRANSIENT or service.state in FAILED:
            raise CloudError(500, f"Service cannot be updated in state: {service.state.name}")
        changed = rules.immutable_change(service, body, append=append)
        if changed == "name":
            raise CloudError(500, "To change `service/name` use rename operation")
        if changed:
            raise CloudError(500, f"Immutable value: `{changed}` can not be changed")
        with self._documents.changing(service):
            service.body = {**service.body, **body} if append else body

    def schedule(self, service: Document, roles: list[Role], action: str, period: int, number: int) -> None:
        """Plan an action on every VM of some roles, `number` of them each `period` seconds.

        An action that does not exist is only noted in the service's log, as by OneFlow. Raises `CloudError` 500, or 501
        for one that exists and is not implemented here.
        """
        known = action.removesuffix("-hard") in VERBS
        if action in ACTIONS and not known:
            raise CloudError(501, f"The local cloud does not implement the VM action {action!r}")
        for role in roles:
            if role["state"] == RoleState.DONE:
                raise CloudError(500, f"Role {role['name']} is in DONE state")
            for index, vm in enumerate(self._vms_of(role)):
                if not known:
                    message = f"Role {role['name']} : VM {vm.id} error scheduling action; unknown action {action}"
                    self._documents.note(service, message, "E")
                    continue
                delay = index // number * period if period > 0 and number > 0 else 0
                self._compute.schedule(vm, action, delay)
        self._documents.save(service)

    def _need_running(self, service: Document) -> None:
        if service.state is not ServiceState.RUNNING:
            raise CloudError(500, f"Cannot modify roles in state: {service.state.name}")

    # -- deploying ---------------------------------------------------------------------------------------------------

    def _deploy(self, service: Document) -> None:
        if service.state not in (ServiceState.DEPLOYING_NETS, ServiceState.FAILED_DEPLOYING_NETS):
            return
        with self._documents.changing(service):
            try:
                fill_contents(service.body)
            except (TypeError, AttributeError):
                log.warning("service %d: the template contents cannot take user inputs", service.id)
                self._documents.enter(service, ServiceState.FAILED_DEPLOYING)
                return
            roles = rules.deployable(service)
            if not roles:
                if service.all_roles(RoleState.RUNNING):
                    self._documents.enter(service, ServiceState.RUNNING)
                    self._watchdog.watch(service)
                    return
                raise StuckError("no role can be deployed first: parents that do not exist, or a circle of parents")
            well = self._deploy_roles(service, roles)
            if not well:
                self._documents.enter(service, ServiceState.FAILED_DEPLOYING)
            else:
                self._documents.enter(
                    service, ServiceState.HOLD if service.body.get("on_hold") else ServiceState.DEPLOYING
                )

    def _deploy_roles(
        self,
        service: Document,
        roles: list[Role],
        success: RoleState = RoleState.DEPLOYING,
        failure: RoleState = RoleState.FAILED_DEPLOYING,
        purpose: For = For.DEPLOY,
    ) -> bool:
        """Boot the VMs that roles lack. Returns whether all could be; the service's log says why not."""
        for role in roles:
            pending = role["state"] == RoleState.PENDING
            if pending and (service.body.get("on_hold") or rules.parent_on_hold(service, role)):
                role["on_hold"] = True
            try:
                fresh = self._instantiate_missing(service, role)
            except CloudError as error:
                message = f"Instantiate failed for template {role['template_id']}; {error.message}"
                self._documents.note(service, f"Role {role['name']} : {message}", "E")
                role["state"] = int(failure)
                return False
            held = role.get("on_hold") and pending
            role["state"] = int(RoleState.HOLD if held else success)
            self._wait(For.HOLD if held else purpose, service, role, fresh)
        return True

    def _instantiate_missing(self, service: Document, role: Role) -> list[int]:
        number = role["cardinality"] - len(role["nodes"])
        if number == 0:
            return []
        text = self._contents(service, role)
        role.setdefault("last_vmname", 0)
        fresh = []
        for _ in range(number):
            name = f"{role['name']}_{role['last_vmname']}_(service_{service.id})"
            role["last_vmname"] += 1
            vm = self._compute.instantiate(role["template_id"], name, text, hold=bool(role.get("on_hold")))
            role["nodes"].append({"deploy_id": vm.id, "vm_info": {"VM": vm.owner()}})
            fresh.append(vm.id)
        return fresh

    def _contents(self, service: Document, role: Role) -> str:
        """Return the text that is laid over the VM template: that template itself with the role's contents over it."""
        extra = role.get("template_contents") or {}
        if extra:
            try:
                base = self._compute.template(role["template_id"], "one.template.info")
            except CloudError as error:
                raise StuckError(f"role {role['name']}: {error.message}") from error
            extra = deep_merge({key: value for key, value in base.items() if key != "NAME"}, extra, join=False)
        text = render_contents({**extra, "SERVICE_ID": service.id, "ROLE_NAME": role["name"]})
        return fill_references(text, lambda reference: self._lookup(service, role, reference))

    def _lookup(self, service: Document, role: Role, reference: str) -> str:
        name, _, path = reference.partition(".")
        parent = service.role(name) if name in (role.get("parents") or ()) else None
        for number in node_ids(parent) if parent else ():
            if (value := corexml.find(self._compute.find(number), path.upper().split("."))) is not None:
                return value
        return ""

    # -- undeploying -------------------------------------------------------------------------------------------------

    def _undeploy(self, service: Document) -> None:
        self._watchdog.leave(service)
        roles = rules.removable(service)
        if not roles:
            # Also when a role is still on its way down: a second DELETE makes OneFlow forget the service and its VMs.
            self._forget(service)
            return
        with self._documents.changing(service):
            self._undeploy_roles(service, roles)
            self._documents.enter(service, ServiceState.UNDEPLOYING)

    def _undeploy_roles(
        self,
        service: Document,
        roles: list[Role],
        state: RoleState = RoleState.UNDEPLOYING,
        purpose: For = For.UNDEPLOY,
        *,
        recover: bool = False,
    ) -> None:
        for role in roles:
            gone = self._shut_down(service, role, recover=recover)
            role["state"] = int(state)
            self._wait(purpose, service, role, gone)

    def _shut_down(self, service: Document, role: Role, *, recover: bool) -> list[int]:
        """Terminate the nodes that are too many, or all where none is. Returns their VM ids."""
        surplus = len(role["nodes"]) - role["cardinality"]
        doomed = node_ids(role)[:surplus] if surplus else node_ids(role)
        action = role.get("shutdown_action") or service.body.get("shutdown_action") or "terminate"
        for number in doomed:
            vm = self._compute.vms.get(number)
            if vm is None:
                continue
            if recover and vm.failed:
                self._compute.recover(vm, 2)
            else:
                self._compute.act(vm, "terminate-hard" if action == "terminate-hard" else "terminate")
        return doomed

    def _forget(self, service: Document) -> None:
        self._waiting.cancel(service.id)
        self._watchdog.leave(service)
        self._documents.forget(service.id)

    # -- recovering --------------------------------------------------------------------------------------------------

    def _recover_deploy(self, service: Document) -> None:
        for role in service.roles:
            parents = (service.role(name) for name in role.get("parents") or ())
            blocked = any(parent and parent["state"] != RoleState.RUNNING for parent in parents)
            if role["state"] in (RoleState.FAILED_DEPLOYING, RoleState.DEPLOYING) or (
                role["state"] == RoleState.PENDING and not blocked
            ):
                self._wait(For.DEPLOY, service, role, self._retry(service, role))

    def _retry(self, service: Document, role: Role) -> list[int]:
        """Boot failed VMs again, resume parked ones, make those that are missing. Returns what is to be waited for."""
        waited = []
        for vm in self._vms_of(role):
            if vm.running and not service.gate:
                continue
            if vm.failed:
                self._compute.recover(vm, 2)
            elif vm.parked:
                self._compute.act(vm, "resume")
            waited.append(vm.id)
        try:
            return waited + self._instantiate_missing(service, role)
        except CloudError as error:
            self._documents.note(service, f"Role {role['name']} : {error.message}", "E")
            return waited

    def _recover_undeploy(self, service: Document) -> None:
        removable = rules.removable(service)
        for role in service.roles:
            state = RoleState(role["state"])
            if state in (RoleState.FAILED_UNDEPLOYING, RoleState.UNDEPLOYING) or role in removable:
                self._undeploy_roles(service, [role], state, recover=True)

    def _recover_scale(self, service: Document) -> None:
        for role in service.roles:
            state = RoleState(role["state"])
            if state not in (RoleState.SCALING, RoleState.FAILED_SCALING):
                continue
            if role.get("scale_way") == _UP:
                self._wait(For.SCALE_UP, service, role, self._retry(service, role))
            else:
                self._undeploy_roles(service, [role], state, For.SCALE_DOWN, recover=True)

    def _recover_nets(self, service: Document) -> None:
        self._clock.later(0, lambda: self._deploy(service))

    def _recover_end(self, service: Document) -> None:
        self._clock.later(0, lambda: self._documents.forget(service.id))

    def _recover_cooldown(self, service: Document) -> None:
        self._documents.enter(service, ServiceState.RUNNING)
        for role in service.roles:
            role["state"] = int(RoleState.RUNNING)

    _RECOVERIES = {  # noqa: RUF012 - a constant
        (ServiceState.PENDING, ServiceState.DEPLOYING, ServiceState.FAILED_DEPLOYING): _recover_deploy,
        (
            ServiceState.UNDEPLOYING,
            ServiceState.FAILED_UNDEPLOYING,
            ServiceState.FAILED_UNDEPLOYING_NETS,
        ): _recover_undeploy,
        (ServiceState.SCALING, ServiceState.FAILED_SCALING): _recover_scale,
        (ServiceState.DEPLOYING_NETS, ServiceState.FAILED_DEPLOYING_NETS): _recover_nets,
        (ServiceState.UNDEPLOYING_NETS,): _recover_end,
        (ServiceState.COOLDOWN,): _recover_cooldown,
    }

    def _release(self, service: Document, roles: list[Role], purpose: For) -> None:
        for role in roles:
            for vm in self._vms_of(role):
                if vm.state is VmState.HOLD:
                    self._compute.act(vm, "release")
            role["state"] = int(RoleState.DEPLOYING)
            self._wait(purpose, service, role, node_ids(role))

    # -- what follows when a wait ends -------------------------------------------------------------------------------

    def _wait(self, purpose: For, service: Document, role: Role, vms: list[int]) -> None:
        self._waiting.open(Wait(purpose, service.id, role["name"], set(vms), gate=service.gate))

    def _finish(self, wait: Wait) -> None:
        service = self._documents.service(wait.service)
        role = service.role(wait.role) if service else None
        if service is None or role is None:
            return
        with self._documents.changing(service):
            self._ENDS[wait.purpose](self, service, role)

    def _fail(self, wait: Wait) -> None:
        service = self._documents.service(wait.service)
        role = service.role(wait.role) if service else None
        if service is None or role is None:
            return
        self._waiting.cancel(service.id)
        kinds = {
            For.SCALE_UP: "SCALING",
            For.SCALE_DOWN: "SCALING",
            For.UNDEPLOY: "UNDEPLOYING",
            For.REMOVE: "UNDEPLOYING",
        }
        kind = f"FAILED_{kinds.get(wait.purpose, 'DEPLOYING')}"
        with self._documents.changing(service):
            self._documents.enter(service, ServiceState[kind])
            role["state"] = int(RoleState[kind])

    def _deployed(self, service: Document, role: Role) -> None:
        role["state"] = int(RoleState.RUNNING)
        if not self._running_again(service) and service.straight:
            self._deploy_roles(service, rules.deployable(service))
        self._delete_when_empty(service)

    def _released(self, service: Document, role: Role) -> None:
        role["state"] = int(RoleState.RUNNING)
        if not self._running_again(service) and service.straight:
            self._release(service, rules.deployable(service, RoleState.HOLD), For.DEPLOY)
        self._delete_when_empty(service)

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
            self._deploy_roles(service, ready)

    def _added(self, service: Document, role: Role) -> None:
        role["state"] = int(RoleState.RUNNING)
        self._documents.enter(service, ServiceState.RUNNING)
        if service.all_roles(RoleState.RUNNING):
            self._watchdog.watch(service)

    def _scaled(self, service: Document, role: Role) -> None:
        role["nodes"] = [
            node for node in role["nodes"] if role.get("scale_way") == _UP or node["deploy_id"] in self._compute.vms
        ]
        role.pop("scale_way", None)
        self._documents.enter(service, ServiceState.COOLDOWN)
        role["state"] = int(RoleState.COOLDOWN)
        name, until = role["name"], self._clock.now() + int(role["cooldown"])
        self._resting[service.id] = until
        self._clock.later(int(role["cooldown"]), lambda: self._rested(service, name, until))

    def _rested(self, service: Document, name: str, until: float) -> None:
        role = service.role(name)
        alive = self._documents.service(service.id) is not None and service.state is ServiceState.COOLDOWN
        if role is None or not alive or self._resting.get(service.id) != until:
            return
        with self._documents.changing(service):
            self._documents.enter(service, ServiceState.RUNNING)
            role["state"] = int(RoleState.RUNNING)
            self._delete_when_empty(service)
            self._watchdog.watch(service)

    def _removed(self, service: Document, role: Role) -> None:
        service.roles.remove(role)
        if service.all_roles(RoleState.DONE):
            self._forget(service)
        else:
            self._documents.enter(service, ServiceState.RUNNING)
            if service.all_roles(RoleState.RUNNING):
                self._watchdog.watch(service)

    def _undeployed(self, service: Document, role: Role) -> None:
        if all(other["state"] == RoleState.DONE for other in service.roles if other is not role):
            # OneFlow does not write the last role's end down: it is still shown as undeploying, with its nodes.
            self._documents.enter(service, ServiceState.UNDEPLOYING_NETS)
            self._clock.later(0, lambda: self._documents.forget(service.id))
            return
        role["state"], role["nodes"] = int(RoleState.DONE), []
        if service.straight:
            self._undeploy_roles(service, rules.removable(service))

    _ENDS = {  # noqa: RUF012 - a constant
        For.DEPLOY: _deployed,
        For.RELEASE: _released,
        For.HOLD: _held,
        For.ADD: _added,
        For.SCALE_UP: _scaled,
        For.SCALE_DOWN: _scaled,
        For.REMOVE: _removed,
        For.UNDEPLOY: _undeployed,
    }

    def _running_again(self, service: Document) -> bool:
        if not service.all_roles(RoleState.RUNNING):
            return False
        self._documents.enter(service, ServiceState.RUNNING)
        self._watchdog.watch(service)
        return True

    def _delete_when_empty(self, service: Document) -> None:
        if service.body.get("automatic_deletion") and not any(role["nodes"] for role in service.roles):
            self._clock.later(0, lambda: self._undeploy(service))

    def _vms_of(self, role: Role) -> list[Vm]:
        return [self._compute.vms[number] for number in node_ids(role) if number in self._compute.vms]
