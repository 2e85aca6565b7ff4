"""The core's virtual machines: how they are created, the operations on them, and their changes of state.

The `Host` runs machines that have a guest of ours; they take the time that they need. Machines without a guest (from
any VM template that does not set ONEFLOWER_ROLE) run nothing and take the time that `Timing` sets, as with OpenNebula's
dummy drivers. One listener is told about changes. It is told after the request that caused them, except for updates,
which it hears of at once.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from oneflower.local.errors import CloudError
from oneflower.local.oned.accounts import ONEADMIN, TOKEN_PASSWORD
from oneflower.local.oned.catalogue import Catalogue
from oneflower.local.oned.disks import ordered
from oneflower.local.oned.memory import VmMemory
from oneflower.local.oned.rights import Asking
from oneflower.local.oned.vms import LOOPBACK, Place, Subnet, merge_extra, new_vm, nics_of
from oneflower.local.oned.vmtext import parse_template, render_contents
from oneflower.opennebula.states import LcmState, VmState
from oneflower.opennebula.tokens import is_token, make_token
from oneflower_appliance.errors import OneflowerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower.local.clock import Clock, Timing
    from oneflower.local.oned.accounts import User
    from oneflower.local.oned.interfaces import Host, Listener
    from oneflower.local.oned.models import Vm
    from oneflower.local.store import Store

log = logging.getLogger(__name__)

_GUEST = "ONEFLOWER_ROLE"
_REFUSED = 401
VERBS = ("terminate", "poweroff", "suspend", "stop", "undeploy", "resume", "reboot", "hold", "release")
_PARKING = {
    "poweroff": VmState.POWEROFF, "suspend": VmState.SUSPENDED, "stop": VmState.STOPPED, "undeploy": VmState.UNDEPLOYED,
}  # fmt: skip


class Compute:
    """All VMs that are not done."""

    listener: Listener
    host: Host

    def __init__(self, store: Store, clock: Clock, timing: Timing, onegate: str, subnet: Subnet = LOOPBACK) -> None:
        self.clock = clock
        self.timing = timing
        self._store = store
        self.catalogue = Catalogue(store, clock)
        self.onegate = onegate
        self.subnet = subnet
        self._memory = VmMemory(store)
        self.vms = {vm.id: vm for vm in self._memory.living()}
        self._after_stop: dict[int, Callable[[Vm], None]] = {}

    # -- requests ----------------------------------------------------------------------------------------------------

    def need_room(self) -> None:
        """Raise `CloudError` 500 if the disk is full: then no machine can be made."""
        self._store.need_room()

    def find(self, number: int, call: str = "one.vm.info") -> Vm:
        """Return a VM, done or not. Raises `CloudError` 404."""
        vm = self.vms.get(number) or self._memory.find(number)
        if vm is None:
            raise CloudError(404, f"[{call}] Error getting virtual machine [{number}].")
        return vm

    def keep(self, vm: Vm) -> None:
        """Write a VM to the store after a change that does not concern its machine."""
        self._memory.save(vm)

    def every_vm(self) -> list[int]:
        """Return the ids of all VMs, including those that are done."""
        return self._memory.ids()

    def token(self, vm: Vm) -> str:
        """Return the token of a VM for OneGate. Only its creator and the core can compute it."""
        return make_token(self._token_password(vm), vm.id, vm.stime)

    def proves(self, token: str, vm: Vm) -> bool:
        """Whether `token` is the token of this VM."""
        password = self._token_password(vm)
        return bool(password) and is_token(token, password, vm.id, vm.stime)

    def _token_password(self, vm: Vm) -> str:
        creator = self.catalogue.accounts.users.get(int(vm.template.get("CREATED_BY", ONEADMIN)))
        return str(creator.template[TOKEN_PASSWORD]) if creator else ""

    def instantiate(self, template_id: int, name: str, extra: str, *, hold: bool, user: User | None = None) -> Vm:
        """Create a VM from a template, with `extra` laid over it, and boot it. It belongs to `user`, or to oneadmin.

        Raises `CloudError`: 401 if the user may not use the template, or an image or a network that it names.
        """
        owner = user or self.catalogue.accounts.users[ONEADMIN]
        asking = Asking(owner, "one.template.instantiate")
        template = self.catalogue.template(template_id, asking.call)
        try:
            laid_over = parse_template(extra)
            attributes = merge_extra(template.content, laid_over)
            self.catalogue.need_parts(asking, template, attributes, laid_over=bool(laid_over))
            attributes |= self.catalogue.disks(attributes, owner)
            addresses = tuple(self.host.address() for _ in nics_of(attributes))
            place = Place(self._store.next_id("vm"), addresses, self.onegate, int(self.clock.now()), self.subnet)
            access, name = self.catalogue.access_of(owner), name or f"{template.name or 'one'}-{place.number}"
            vm = new_vm(attributes, name, place, access, owner.template)
            vm.template = ordered(vm.template) | {"TEMPLATE_ID": str(template_id)}
            if hold:
                vm.state = VmState.HOLD
            self._prepare(vm)
        except CloudError as error:
            raise error if error.status == _REFUSED else CloudError(500, f"[{asking.call}] {error.message}") from error
        except OneflowerError as error:
            raise CloudError(500, f"[{asking.call}] {error.sentence}") from error
        self.vms[vm.id] = vm
        self.clock.later(0, lambda: self.announce(vm) if hold else self._schedule(vm))
        return vm

    def _prepare(self, vm: Vm) -> None:
        """Keep a new VM and what its machine reads at boot, or neither."""
        try:
            self.host.prepare(vm, self.token(vm))
            self._memory.add(vm)
        except (CloudError, OneflowerError):
            self.host.discard(vm)
            raise

    def update(self, vm: Vm, text: str, *, append: bool) -> None:
        """Change a VM's user template with OpenNebula's text. Raises `CloudError` 500 if it is not a template."""
        fresh = parse_template(text)
        vm.user_template = {**vm.user_template, **fresh} if append else fresh
        self._memory.save(vm)
        self.listener.vm_updated(vm, text)

    def erase(self, vm: Vm, name: str) -> None:
        """Remove an attribute of a VM's user template. As OneGate does, this writes the whole template again."""
        rest = {key: value for key, value in vm.user_template.items() if key != name}
        self.update(vm, render_contents(rest), append=False)

    def act(self, vm: Vm, action: str) -> None:
        """Do what one.vm.action does. Raises `CloudError`: 500 in a state that forbids it, 501 for unknown actions."""
        verb, hard = action.removesuffix("-hard"), action.endswith("-hard")
        if verb == "terminate":
            self._terminate(vm, hard=hard)
        elif verb == "hold" and vm.state is VmState.PENDING:
            vm.state = VmState.HOLD
            self._later(0, vm, lambda: self.announce(vm))
        elif verb == "release" and vm.state is VmState.HOLD:
            vm.state = VmState.PENDING
            self._later(0, vm, lambda: self._schedule(vm))
        elif verb == "resume" and vm.parked:
            self._boot(vm)
        elif verb in _PARKING and vm.running:
            self._park(vm, _PARKING[verb], hard=hard)
        elif verb == "reboot" and vm.running:
            if self.has_guest(vm):
                self._stop(vm, self._boot, hard=hard, keep=True)
        elif verb in VERBS:
            raise CloudError(500, f"[one.vm.action] This action is not available for state {self.state_name(vm)}")
        else:
            raise CloudError(501, f"The local cloud does not implement the VM action {action!r}")

    def recover(self, vm: Vm, operation: int) -> None:
        """Do what one.vm.recover does: 0 fail, 1 success, 2 retry, 3 delete. Raises `CloudError`."""
        if operation == 3:
            vm.state, vm.lcm_state = VmState.ACTIVE, LcmState.SHUTDOWN
            self._stop(vm, self._done, hard=True, keep=False)
        elif operation == 2 and vm.failed:
            self._boot(vm)
        elif operation == 1 and (vm.failed or vm.lcm_state in (LcmState.PROLOG, LcmState.BOOT)):
            self.vm_running(vm)
        elif operation == 0 and vm.lcm_state in (LcmState.PROLOG, LcmState.BOOT):
            self.vm_failed(vm, "An operator declared the boot a failure (recover).")
        elif operation in (0, 1, 2):
            raise CloudError(500, f"[one.vm.recover] This action is not available for state {self.state_name(vm)}")
        else:
            raise CloudError(501, f"The local cloud does not implement the recover operation {operation}")

    def schedule(self, vm: Vm, action: str, delay: float) -> int:
        """Do an action later, as a SCHED_ACTION of the VM; return its id. If it fails, the daemon's log says why."""
        number = 1 + max((int(entry["ID"]) for entry in vm.sched_actions), default=-1)
        entry = {"ID": str(number), "ACTION": action, "TIME": str(int(self.clock.now() + delay))}
        vm.sched_actions.append(entry)
        self._later(delay, vm, lambda: self._run_scheduled(vm, entry))
        return number

    def _run_scheduled(self, vm: Vm, entry: dict[str, str]) -> None:
        if entry not in vm.sched_actions or vm.gone:
            return
        vm.sched_actions.remove(entry)
        self._memory.save(vm)
        try:
            self.act(vm, entry["ACTION"])
        except CloudError as error:
            log.warning("VM %d: scheduled %s: %s", vm.id, entry["ACTION"], error.message)

    def unschedule(self, vm: Vm, number: int) -> None:
        """Cancel a scheduled action if the VM has it."""
        vm.sched_actions = [entry for entry in vm.sched_actions if entry["ID"] != str(number)]
        self._memory.save(vm)

    def resume(self) -> None:
        """Continue after a restart of the daemon: machines that run no guest, and scheduled actions."""
        for vm in list(self.vms.values()):
            for entry in vm.sched_actions:
                delay = max(0.0, int(entry["TIME"]) - self.clock.now())
                self._later(delay, vm, lambda vm=vm, entry=entry: self._run_scheduled(vm, entry))  # type: ignore[misc]
            if self.has_guest(vm):
                continue
            if vm.state is VmState.PENDING:
                self._schedule(vm)
            elif vm.lcm_state in (LcmState.PROLOG, LcmState.BOOT):
                self._boot(vm)
            elif vm.lcm_state is LcmState.SHUTDOWN:
                self._stop(vm, self._done, hard=False, keep=False)

    @staticmethod
    def state_name(vm: Vm) -> str:
        """Return the name that the core gives the state in its messages."""
        return vm.lcm_state.name if vm.state is VmState.ACTIVE else vm.state.name

    @staticmethod
    def has_guest(vm: Vm) -> bool:
        """Whether there is something for the host to run."""
        return _GUEST in vm.context

    # -- changes of state ------------------------------------------------------------------------------------------

    def _schedule(self, vm: Vm) -> None:
        if vm.state is VmState.PENDING:
            self._later(0 if self.has_guest(vm) else self.timing.boot / 2, vm, lambda: self._boot(vm))

    def _boot(self, vm: Vm) -> None:
        if vm.gone or vm.state is VmState.HOLD or vm.lcm_state is LcmState.SHUTDOWN:
            return
        vm.state, vm.lcm_state, vm.error = VmState.ACTIVE, LcmState.PROLOG, ""
        self._memory.save(vm)
        if self.has_guest(vm):
            self.host.start(vm)
        else:
            self._later(self.timing.boot / 2, vm, lambda: self._booted(vm))

    def _booted(self, vm: Vm) -> None:
        if vm.lcm_state is LcmState.PROLOG:
            self.vm_running(vm)

    def _terminate(self, vm: Vm, *, hard: bool) -> None:
        if vm.gone:
            raise CloudError(500, "[one.vm.action] This action is not available for state DONE")
        if vm.lcm_state is LcmState.SHUTDOWN:
            return
        vm.state, vm.lcm_state = VmState.ACTIVE, LcmState.SHUTDOWN
        self._stop(vm, self._done, hard=hard, keep=False)

    def _park(self, vm: Vm, state: VmState, *, hard: bool) -> None:
        def parked(_: Vm) -> None:
            if not vm.gone and vm.lcm_state is not LcmState.SHUTDOWN:
                vm.state, vm.lcm_state = state, LcmState.LCM_INIT
                self.announce(vm)

        self._stop(vm, parked, hard=hard, keep=True)

    def _stop(self, vm: Vm, then: Callable[[Vm], None], *, hard: bool, keep: bool) -> None:
        """Shut a machine down, and when it is down, do what comes next."""
        self._memory.save(vm)
        if self.has_guest(vm):
            self._after_stop[vm.id] = then
            self.host.stop(vm, hard=hard, keep=keep)
        else:
            self.clock.later(self.timing.shutdown, lambda: then(vm))

    def _done(self, vm: Vm) -> None:
        if vm.gone:
            return
        vm.state, vm.lcm_state, vm.etime = VmState.DONE, LcmState.LCM_INIT, int(self.clock.now())
        self.vms.pop(vm.id, None)
        if not self.has_guest(vm):
            self.host.discard(vm)
        self.announce(vm)

    def vm_running(self, vm: Vm) -> None:
        """Record that a machine is up."""
        vm.state, vm.lcm_state, vm.error = VmState.ACTIVE, LcmState.RUNNING, ""
        vm.rstime = int(self.clock.now())
        self.announce(vm)

    def vm_failed(self, vm: Vm, reason: str) -> None:
        """Record that a machine could not be booted."""
        vm.state, vm.lcm_state, vm.error = VmState.ACTIVE, LcmState.BOOT_FAILURE, reason
        self.announce(vm)

    def vm_lost(self, vm: Vm, reason: str) -> None:
        """Record that a machine went down by itself."""
        vm.state, vm.lcm_state, vm.error = VmState.POWEROFF, LcmState.LCM_INIT, reason
        self.announce(vm)

    def vm_stopped(self, vm: Vm) -> None:
        """Record that a machine has been shut down, and do what comes next; by default the VM is DONE."""
        self._after_stop.pop(vm.id, self._done)(vm)

    def announce(self, vm: Vm) -> None:
        """Keep a new state of a VM, and tell the listener."""
        self._memory.save(vm)
        self.listener.vm_changed(vm)

    def _later(self, seconds: float, vm: Vm, callback: Callable[[], None]) -> None:
        self._memory.save(vm)
        self.clock.later(seconds, callback)
