"""The life of services: OneFlow's state machine, over whatever VMs `compute` has.

A service changes on a request, when a VM changes, and when time passes. Whoever waits for VMs is a `Wait`; when the
last of its VMs has arrived the service goes on, and where that boots further machines they boot in that very moment.
What the real OneFlow does wrong is done wrong here too; where it would leave a service stuck for ever, this one does,
and says so in the daemon's log. Source: LifeCycleManager.rb, EventManager.rb, ServiceWatchDog.rb, vmrole.rb.
"""

from __future__ import annotations

import copy
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from oneflower.local import corexml, policies
from oneflower.local.compute import VERBS
from oneflower.local.instantiation import check_inputs, check_networks, deep_merge, fill_contents, merge_service
from oneflower.local.models import (
    FAILED,
    SERVICE_TYPE,
    TEMPLATE_TYPE,
    TRANSIENT,
    CloudError,
    Document,
    RoleState,
    ServiceState,
    Vm,
    VmState,
    node_ids,
)
from oneflower.local.vmtext import fill_references, render_contents
from oneflower.local.waits import For, Wait

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oneflower.local.compute import Compute
    from oneflower.local.documents import Documents

log = logging.getLogger(__name__)

Role = dict[str, Any]

DEFAULT_COOLDOWN = 300
ACTIONS = frozenset(
    f"{verb}{hard}"
    for verb, hards in {
        "terminate": ("", "-hard"), "undeploy": ("", "-hard"), "reboot": ("", "-hard"), "poweroff": ("", "-hard"),
        "hold": ("",), "release": ("",), "stop": ("",), "suspend": ("",), "resume": ("",),
        "snapshot": ("-create", "-revert", "-delete"), "disk-snapshot": ("-create", "-revert", "-delete"),
    }.items()
    for hard in hards
)  # fmt: skip
_LEAVING = (RoleState.UNDEPLOYING, RoleState.DONE, RoleState.FAILED_UNDEPLOYING)
_UP, _DOWN = 0, 1


class StuckError(Exception):
    """What makes the real OneFlow lose a service: an exception in the middle of a step that nobody takes up again."""


class Lifecycle:
    """All services."""

    def __init__(self, documents: Documents, compute: Compute) -> None:
        self._documents = documents
        self._compute = compute
        self._clock = compute.clock
        self._timing = compute.timing
        self._waits: dict[tuple[int, str], Wait] = {}
        self._awaited: dict[int, Wait] = {}
        self._watched: set[int] = set()
        self._resting: dict[int, float] = {}
        self._quiet_since = self._clock.now()
        compute.listener = self

    def start(self) -> None:
        """Carry on with every service, as OneFlow does when it starts, and look after policies from now on."""
        for service in self._documents.pool(SERVICE_TYPE):
            if service.state in TRANSIENT:
                self.recover(service, delete=False)
            elif service.state in (ServiceState.RUNNING, ServiceState.WARNING):
                self._watch(service)
        self._clock.later(self._timing.autoscaler, self._scale_by_policy)

    # -- requests ----------------------------------------------------------------------------------------------------

    def instantiate(self, number: int, merge: dict[str, Any]) -> dict[str, Any]:
        """Make a service. Returns the document as it is before anything happens, as OneFlow replies it."""
        template = self._documents.get(number, TEMPLATE_TYPE).body
        check_inputs(template, merge)
        check_networks(template, merge)
        body = merge_service(template, merge)
        _refuse_unsupported(body)
        for role in body["roles"]:
            role.setdefault("state", 0)
        service = self._documents.insert(SERVICE_TYPE, body | {"state": 0, "start_time": int(self._clock.now())})
        reply = copy.deepcopy(service.wire())
        for role in service.roles:
            _complete(role)
        self._enter(service, ServiceState.DEPLOYING_NETS)
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
        self._cancel(service)
        if delete:
            self._undeploy(service)
            return
        with self._changing(service):
            steps = [step for states, step in self._RECOVERIES.items() if service.state in states]
            if not steps:
                raise CloudError(500, f"Service cannot be recovered in state: {service.state.name}")
            steps[0](self, service)

    def release(self, service: Document) -> None:
        """Let go of the roles on hold. Raises `CloudError` 500."""
        with self._changing(service):
            roles = self._deployable(service, RoleState.HOLD)
            if not roles:
                raise CloudError(500, "Service has no roles in HOLD")
            self._release(service, roles, For.RELEASE)
            self._enter(service, ServiceState.DEPLOYING)

    def scale(self, service: Document, name: str, cardinality: int, force: Any) -> None:
        """Change how many VMs a role has; on the way down the oldest go. Raises `CloudError` 500."""
        if service.state is not ServiceState.RUNNING:
            raise CloudError(500, f"Service cannot be scaled in state: {service.state.name}")
        # From here on OneFlow watches over the service only when it is RUNNING again: a refusal leaves it unwatched.
        self._watched.discard(service.id)
        role = service.role(name)
        if role is None:
            raise CloudError(500, f"Role {name} not found")
        if role["type"] == "vr":
            raise CloudError(500, f"Virtual Router role {name} does not support cardinality update")
        with self._changing(service):
            before = role["cardinality"]
            if force is not True:
                try:
                    _check_cardinality(role, cardinality)
                except CloudError as error:
                    self._watch(service)
                    raise CloudError(500, f"Can't scale service {service.id}: {error.message}") from error
            if cardinality == before:
                raise CloudError(500, f"Cardinality of {name} is already at {cardinality}")
            self._set_cardinality(service, role, cardinality)
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
            self._enter(service, ServiceState.SCALING if well else ServiceState.FAILED_SCALING)

    def add_role(self, service: Document, role: Role) -> None:
        """Add a role to a running service and deploy it at once, whatever its parents. Raises `CloudError` 500."""
        self._need_running(service)
        if service.role(role["name"]) is not None:
            raise CloudError(500, f"Role {role['name']} already exists")
        _refuse_unsupported({"roles": [role]})
        with self._changing(service):
            service.roles.append(role | {"state": 0})
            role = service.roles[-1]
            _complete(role)
            fill_contents(service.body)
            self._watched.discard(service.id)
            well = self._deploy_roles(service, [role], RoleState.DEPLOYING, RoleState.FAILED_DEPLOYING, For.ADD)
            self._enter(service, ServiceState.DEPLOYING if well else ServiceState.FAILED_DEPLOYING)

    def remove_role(self, service: Document, name: str) -> None:
        """Take down a role of a running service. Raises `CloudError` 500."""
        self._need_running(service)
        role = service.role(name)
        if role is None:
            raise CloudError(500, f"Role {name} does not exist")
        with self._changing(service):
            self._watched.discard(service.id)
            self._undeploy_roles(service, [role], RoleState.UNDEPLOYING, For.REMOVE)
            self._enter(service, ServiceState.UNDEPLOYING)

    def update(self, service: Document, body: Any, *, append: bool) -> None:
        """Change what may be changed of a service: not its inputs, names, roles or nodes. Raises `CloudError` 500."""
        if service.state in TRANSIENT or service.state in FAILED:
            raise CloudError(500, f"Service cannot be updated in state: {service.state.name}")
        changed = _immutable_change(service, body, append=append)
        if changed == "name":
            raise CloudError(500, "To change `service/name` use rename operation")
        if changed:
            raise CloudError(500, f"Immutable value: `{changed}` can not be changed")
        with self._changing(service):
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
        with self._changing(service):
            try:
                fill_contents(service.body)
            except (TypeError, AttributeError):
                log.warning("service %d: the template contents cannot take user inputs", service.id)
                self._enter(service, ServiceState.FAILED_DEPLOYING)
                return
            roles = self._deployable(service)
            if not roles:
                if service.all_roles(RoleState.RUNNING):
                    self._enter(service, ServiceState.RUNNING)
                    self._watch(service)
                    return
                raise StuckError("no role can be deployed first: parents that do not exist, or a circle of parents")
            well = self._deploy_roles(service, roles)
            if not well:
                self._enter(service, ServiceState.FAILED_DEPLOYING)
            else:
                self._enter(service, ServiceState.HOLD if service.body.get("on_hold") else ServiceState.DEPLOYING)

    def _deployable(self, service: Document, state: RoleState = RoleState.PENDING) -> list[Role]:
        """Return the roles in `state` that do not have to wait for a parent to be running."""
        running = {role["name"] for role in service.roles if role["state"] == RoleState.RUNNING}
        return [
            role for role in service.roles
            if role["state"] == state and (not service.straight or set(role.get("parents") or ()) <= running)
        ]  # fmt: skip

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
            if pending and (service.body.get("on_hold") or self._parent_on_hold(service, role)):
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
            self._open(For.HOLD if held else purpose, service, role, fresh)
        return True

    @staticmethod
    def _parent_on_hold(service: Document, role: Role) -> bool:
        parents = (service.role(name) for name in role.get("parents") or ())
        return any(parent and parent.get("on_hold") for parent in parents)

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
        self._watched.discard(service.id)
        roles = self._removable(service)
        if not roles:
            # Also when a role is still on its way down: a second DELETE makes OneFlow forget the service and its VMs.
            self._forget(service)
            return
        with self._changing(service):
            self._undeploy_roles(service, roles)
            self._enter(service, ServiceState.UNDEPLOYING)

    def _removable(self, service: Document) -> list[Role]:
        """Return the roles that are not on their way down and that no role left depends on."""
        parents = {
            name for role in service.roles if role["state"] != RoleState.DONE for name in role.get("parents") or ()
        }
        return [
            role for role in service.roles
            if role["state"] not in _LEAVING and not (service.straight and role["name"] in parents)
        ]  # fmt: skip

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
            self._open(purpose, service, role, gone)

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
        self._cancel(service)
        self._watched.discard(service.id)
        self._documents.forget(service.id)

    # -- recovering --------------------------------------------------------------------------------------------------

    def _recover_deploy(self, service: Document) -> None:
        for role in service.roles:
            parents = (service.role(name) for name in role.get("parents") or ())
            blocked = any(parent and parent["state"] != RoleState.RUNNING for parent in parents)
            if role["state"] in (RoleState.FAILED_DEPLOYING, RoleState.DEPLOYING) or (
                role["state"] == RoleState.PENDING and not blocked
            ):
                self._open(For.DEPLOY, service, role, self._retry(service, role))

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
        removable = self._removable(service)
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
                self._open(For.SCALE_UP, service, role, self._retry(service, role))
            else:
                self._undeploy_roles(service, [role], state, For.SCALE_DOWN, recover=True)

    def _recover_nets(self, service: Document) -> None:
        self._clock.later(0, lambda: self._deploy(service))

    def _recover_end(self, service: Document) -> None:
        self._clock.later(0, lambda: self._documents.forget(service.id))

    def _recover_cooldown(self, service: Document) -> None:
        self._enter(service, ServiceState.RUNNING)
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
            self._open(purpose, service, role, node_ids(role))

    # -- waiting -----------------------------------------------------------------------------------------------------

    def _open(self, purpose: For, service: Document, role: Role, vms: list[int]) -> None:
        wait = Wait(purpose, service.id, role["name"], set(vms), gate=service.gate)
        self._drop(self._waits.get(wait.key))
        self._waits[wait.key] = wait
        self._awaited |= dict.fromkeys(vms, wait)
        self._clock.later(0, lambda: self._poll(wait))

    def _drop(self, wait: Wait | None) -> None:
        if wait is not None:
            del self._waits[wait.key]
            for number in wait.vms:
                if self._awaited.get(number) is wait:
                    del self._awaited[number]

    def _cancel(self, service: Document) -> None:
        for role in service.roles:
            self._drop(self._waits.get((service.id, role["name"])))

    def _poll(self, wait: Wait) -> None:
        """Look at every VM that is waited for; again after a while in which nothing happened."""
        if self._waits.get(wait.key) is not wait:
            return
        vms = {number: self._compute.vms.get(number) for number in wait.left}
        wait.left -= {number for number, vm in vms.items() if wait.arrived(vm, polled=True)}
        if any(vm.failed for vm in vms.values() if vm):
            self._fail(wait)
        elif not wait.left:
            self._finish(wait)
        elif self._timing.poll:
            self._clock.later(self._timing.poll, lambda: self._poll_if_quiet(wait))

    def _poll_if_quiet(self, wait: Wait) -> None:
        """Poll, unless an update of any VM in the cloud has just postponed that."""
        rest = self._quiet_since + self._timing.poll - self._clock.now() if wait.gate else 0
        if rest > 0:
            self._clock.later(rest, lambda: self._poll_if_quiet(wait))
        else:
            self._poll(wait)

    def vm_changed(self, vm: Vm) -> None:
        """Take note of a new state of a VM."""
        polled = not self._timing.poll
        wait = self._awaited.get(vm.id)
        if wait is not None:
            if wait.arrived(vm, polled=polled):
                self._arrive(wait, vm)
            elif polled and vm.failed:
                self._fail(wait)
        if vm.service_id in self._watched:
            service = self._documents.service(vm.service_id or 0)
            if service is not None:
                self._look_after(service, str(vm.user_template.get("ROLE_NAME")), vm.id)

    def vm_updated(self, vm: Vm, text: str) -> None:
        """Take note that a VM's user template was updated with `text`."""
        self._quiet_since = self._clock.now()
        wait = self._awaited.get(vm.id)
        if wait is not None and (wait.reported(text) or wait.arrived(vm, polled=not self._timing.poll)):
            self._arrive(wait, vm)

    def _arrive(self, wait: Wait, vm: Vm) -> None:
        wait.left.discard(vm.id)
        if not wait.left:
            self._finish(wait)

    def _finish(self, wait: Wait) -> None:
        self._drop(wait)
        service = self._documents.service(wait.service)
        role = service.role(wait.role) if service else None
        if service is None or role is None:
            return
        with self._changing(service):
            self._ENDS[wait.purpose](self, service, role)

    def _fail(self, wait: Wait) -> None:
        service = self._documents.service(wait.service)
        role = service.role(wait.role) if service else None
        if service is None or role is None or not wait.can_fail:
            return
        self._cancel(service)
        kinds = {
            For.SCALE_UP: "SCALING",
            For.SCALE_DOWN: "SCALING",
            For.UNDEPLOY: "UNDEPLOYING",
            For.REMOVE: "UNDEPLOYING",
        }
        kind = f"FAILED_{kinds.get(wait.purpose, 'DEPLOYING')}"
        with self._changing(service):
            self._enter(service, ServiceState[kind])
            role["state"] = int(RoleState[kind])

    # -- what follows when a wait ends -------------------------------------------------------------------------------

    def _deployed(self, service: Document, role: Role) -> None:
        role["state"] = int(RoleState.RUNNING)
        if not self._running_again(service) and service.straight:
            self._deploy_roles(service, self._deployable(service))
        self._delete_when_empty(service)

    def _released(self, service: Document, role: Role) -> None:
        role["state"] = int(RoleState.RUNNING)
        if not self._running_again(service) and service.straight:
            self._release(service, self._deployable(service, RoleState.HOLD), For.DEPLOY)
        self._delete_when_empty(service)

    def _held(self, service: Document, role: Role) -> None:
        role["state"] = int(RoleState.HOLD)
        if service.all_roles(RoleState.HOLD):
            if service.state is not ServiceState.HOLD:
                self._enter(service, ServiceState.HOLD)
        elif service.straight:
            held = {other["name"] for other in service.roles if other["state"] == RoleState.HOLD}
            ready = [
                other for other in service.roles
                if other["state"] == RoleState.PENDING and set(other.get("parents") or ()) <= held
            ]  # fmt: skip
            self._deploy_roles(service, ready)

    def _added(self, service: Document, role: Role) -> None:
        role["state"] = int(RoleState.RUNNING)
        self._enter(service, ServiceState.RUNNING)
        if service.all_roles(RoleState.RUNNING):
            self._watch(service)

    def _scaled(self, service: Document, role: Role) -> None:
        role["nodes"] = [
            node for node in role["nodes"] if role.get("scale_way") == _UP or node["deploy_id"] in self._compute.vms
        ]
        role.pop("scale_way", None)
        self._enter(service, ServiceState.COOLDOWN)
        role["state"] = int(RoleState.COOLDOWN)
        name, until = role["name"], self._clock.now() + int(role["cooldown"])
        self._resting[service.id] = until
        self._clock.later(int(role["cooldown"]), lambda: self._rested(service, name, until))

    def _rested(self, service: Document, name: str, until: float) -> None:
        role = service.role(name)
        alive = self._documents.service(service.id) is not None and service.state is ServiceState.COOLDOWN
        if role is None or not alive or self._resting.pop(service.id) != until:
            return
        with self._changing(service):
            self._enter(service, ServiceState.RUNNING)
            role["state"] = int(RoleState.RUNNING)
            self._delete_when_empty(service)
            self._watch(service)

    def _removed(self, service: Document, role: Role) -> None:
        service.roles.remove(role)
        if service.all_roles(RoleState.DONE):
            self._forget(service)
        else:
            self._enter(service, ServiceState.RUNNING)
            if service.all_roles(RoleState.RUNNING):
                self._watch(service)

    def _undeployed(self, service: Document, role: Role) -> None:
        if all(other["state"] == RoleState.DONE for other in service.roles if other is not role):
            # OneFlow does not write the last role's end down: it is still shown as undeploying, with its nodes.
            self._enter(service, ServiceState.UNDEPLOYING_NETS)
            self._clock.later(0, lambda: self._documents.forget(service.id))
            return
        role["state"], role["nodes"] = int(RoleState.DONE), []
        if service.straight:
            self._undeploy_roles(service, self._removable(service))

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
        self._enter(service, ServiceState.RUNNING)
        self._watch(service)
        return True

    def _delete_when_empty(self, service: Document) -> None:
        if service.body.get("automatic_deletion") and not any(role["nodes"] for role in service.roles):
            self._clock.later(0, lambda: self._undeploy(service))

    # -- watching over running services ------------------------------------------------------------------------------

    def _watch(self, service: Document) -> None:
        self._watched.add(service.id)
        nodes = [(role["name"], number) for role in service.roles for number in node_ids(role)]

        def look() -> None:
            for name, number in nodes:
                if service.id in self._watched:
                    self._look_after(service, name, number)

        self._clock.later(0, look)

    def _look_after(self, service: Document, name: str, number: int) -> None:
        role, vm = service.role(name), self._compute.vms.get(number)
        if role is None:
            return
        if vm is None:
            self._lost(service, role, number)
        elif vm.state is VmState.POWEROFF or vm.failed:
            if (service.state, role["state"]) != (ServiceState.WARNING, RoleState.WARNING):
                with self._changing(service):
                    role["state"] = int(RoleState.WARNING)
                    if service.state is not ServiceState.WARNING:
                        self._enter(service, ServiceState.WARNING)
        elif vm.running and role["state"] != RoleState.RUNNING:
            with self._changing(service):
                role["state"] = int(RoleState.RUNNING)
                if service.all_roles(RoleState.RUNNING) and service.state is not ServiceState.RUNNING:
                    self._enter(service, ServiceState.RUNNING)

    def _lost(self, service: Document, role: Role, number: int) -> None:
        """Take a VM that went away behind OneFlow's back out of the books. It is not replaced."""
        if number in node_ids(role):
            with self._changing(service):
                if role["cardinality"] > 0:
                    self._set_cardinality(service, role, role["cardinality"] - 1)
                role["nodes"] = [node for node in role["nodes"] if node["deploy_id"] != number]
                self._delete_when_empty(service)

    def _scale_by_policy(self) -> None:
        self._clock.later(self._timing.autoscaler, self._scale_by_policy)
        now = self._clock.now()
        for service in self._documents.pool(SERVICE_TYPE):
            for name in [role["name"] for role in service.roles]:
                role = service.role(name)
                if service.state is ServiceState.RUNNING and role is not None and _has_policy(role):
                    self._apply_policies(service, role, now)

    def _apply_policies(self, service: Document, role: Role, now: float) -> None:
        change, cooldown = policies.wanted(role, self._vms_of(role), now)
        if change and cooldown is not None:
            role["cooldown"] = cooldown
        self._documents.save(service)
        if change:
            log.info("service %d: policies scale role %s by %+d", service.id, role["name"], change)
            try:
                self.scale(service, role["name"], role["cardinality"] + change, force=False)
            except CloudError as error:
                log.warning("service %d: %s", service.id, error.message)

    # -- the books ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _changing(self, service: Document) -> Iterator[None]:
        """Write a service down after a change. Where OneFlow would be stuck, leave it as it was and say so."""
        before = copy.deepcopy(service.body)
        try:
            yield
        except StuckError as error:
            service.body.clear()
            service.body.update(before)
            log.warning(
                "service %d stays %s for ever: %s. The real OneFlow loses it, too; `recover` with delete removes it.",
                service.id, service.state.name, error,
            )  # fmt: skip
        except Exception:
            service.body.clear()
            service.body.update(before)
            raise
        self._documents.save(service)

    def _enter(self, service: Document, state: ServiceState) -> None:
        service.body["state"] = int(state)
        self._documents.note(service, f"New state: {state.name}")
        log.info("service %d: %s", service.id, state.name)

    def _set_cardinality(self, service: Document, role: Role, number: int) -> None:
        way = "up" if number > role["cardinality"] else "down"
        message = f"Role {role['name']} scaling {way} from {role['cardinality']} to {number} nodes"
        self._documents.note(service, message)
        role["cardinality"] = number

    def _vms_of(self, role: Role) -> list[Vm]:
        return [self._compute.vms[number] for number in node_ids(role) if number in self._compute.vms]


def _complete(role: Role) -> None:
    """Fill in what OneFlow adds to a role when it first loads it."""
    role.setdefault("nodes", [])
    role.setdefault("on_hold", False)
    role.setdefault("cooldown", DEFAULT_COOLDOWN)


def _check_cardinality(role: Role, number: int) -> None:
    least, most = role.get("min_vms"), role.get("max_vms")
    if number < (least or 0):
        raise CloudError(500, f"Minimum cardinality is {'' if least is None else least}")
    if most is not None and number > most:
        raise CloudError(500, f"Maximum cardinality is {most}")


def _has_policy(role: Role) -> bool:
    return bool(
        role.get("elasticity_policies")
        or role.get("scheduled_policies")
        or role["cardinality"] < (role.get("min_vms") or 0)
    )


def _refuse_unsupported(body: dict[str, Any]) -> None:
    if any(role.get("type") == "vr" for role in body["roles"]):
        raise CloudError(501, "The local cloud does not implement virtual routers")
    for value in body.get("networks_values") or ():
        if any("id" not in net for net in value.values()):
            raise CloudError(501, "The local cloud does not implement networks that are made with a service")


_FIXED = ("user_inputs", "user_inputs_values", "deployment", "log", "name", "networks", "networks_values",
          "ready_status_gate", "state", "start_time")  # fmt: skip
_FIXED_IN_ROLES = ("cardinality", "last_vmname", "nodes", "parents", "state", "template_id")


def _immutable_change(service: Document, body: dict[str, Any], *, append: bool) -> str:
    """Return what of a new body must not differ and does, empty when all is well."""
    if append:
        return next((f"service/{key}" for key in _FIXED if body.get(key) is not None), "")
    if len(body["roles"]) != len(service.roles):
        return "service/roles size"
    for key in _FIXED:
        if body.get(key) != service.body.get(key):
            return f"service/{key}"
    for role in body["roles"]:
        mine = service.role(role["name"])
        if mine is None:
            return "name"
        for key in _FIXED_IN_ROLES:
            if role.get(key) != mine.get(key):
                return f"role/{key}"
    return ""
