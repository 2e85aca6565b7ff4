"""The core's methods about VMs. Source: VirtualMachineAPI.cc."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from oneflower.local.errors import CloudError, CoreError
from oneflower.local.oned import hotplug
from oneflower.local.oned.compute import VERBS
from oneflower.local.oned.configuration import configure
from oneflower.local.oned.corexml import short_vm_xml, text, vm_xml
from oneflower.local.oned.ownership import SharedMethods, Shelf
from oneflower.local.oned.pools import chosen, pool
from oneflower.local.oned.rights import WHOSE_ALL, Asking, Kind, Right, Want
from oneflower.local.oned.vms import disks_of, images_of
from oneflower.local.oned.vmtext import parse_template
from oneflower.opennebula.states import VmState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oneflower.local.oned.compute import Compute
    from oneflower.local.oned.models import Vm
    from oneflower.local.oned.ownership import Method

# Which states of VMs a pool call asks for.
_ANY_STATE, _NOT_DONE, _LAST_STATE = -2, -1, 11
_EXTENDED = "one.vmpool.infoextended"  # which shows all of a VM, and otherwise is like one.vmpool.info
_HOST = 0
_HARD = ("terminate", "poweroff", "reboot", "undeploy")
_ACTIONS = frozenset((*VERBS, *(f"{verb}-hard" for verb in _HARD), "resched", "unresched"))
_DEPLOYABLE = (VmState.PENDING, VmState.HOLD, VmState.STOPPED, VmState.UNDEPLOYED)


def vm_shelf(compute: Compute) -> Shelf:
    """Return access to the VMs, for the operations on anything that has an owner."""
    return Shelf(Kind.VM, "one.vm", compute.find, compute.vms.values, compute.keep, unique=False)


@contextmanager
def _named(asking: Asking) -> Iterator[None]:
    """Begin the text of a refusal with the name of the call, as the core does."""
    try:
        yield
    except CoreError as error:
        raise CoreError(f"[{asking.call}] {error.message}") from error
    except CloudError as error:
        raise CloudError(error.status, f"[{asking.call}] {error.message}") from error


class VmMethods:
    """A method for each call; the table is at the end."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._rights = compute.catalogue.rights

    def info(self, asking: Asking, number: int, decrypted: bool = False, *_: Any) -> str:  # noqa: FBT001, FBT002
        """Return a VM. What is encrypted is shown to those who may administer it, if they ask for it."""
        vm = self._may(asking, number, Right.ADMIN if decrypted else Right.USE, past_lock=True)
        return text(vm_xml(vm, decrypted=decrypted))

    def pool(
        self, asking: Asking, whose: int = WHOSE_ALL, start: int = -1, end: int = -1, state: int = _NOT_DONE,
        query: str = "",
    ) -> str:  # fmt: skip
        """Return VMs in a state."""
        if query:
            raise CloudError(500, f"[{asking.call}] JSON query search is not supported by the SQL backend")
        if not _ANY_STATE <= state <= _LAST_STATE:
            raise CloudError(400, f"[{asking.call}] Incorrect state filter {state}")
        numbers = self._compute.every_vm() if state in (_ANY_STATE, VmState.DONE) else list(self._compute.vms)
        vms = (self._compute.find(number) for number in numbers)
        wanted = {vm.id: vm for vm in vms if state < 0 or vm.state == state}
        shown = vm_xml if asking.call == _EXTENDED else short_vm_xml
        return pool("VM_POOL", map(shown, chosen(self._rights, asking, Kind.VM, wanted, whose, start, end)))

    def some(self, asking: Asking, numbers: str, extended: bool = False) -> str:  # noqa: FBT001, FBT002
        """Return the VMs with these ids that are not done."""
        wanted = [int(number) for number in numbers.split(",") if number.strip().isdigit()]
        known = {number: self._compute.vms[number] for number in wanted if number in self._compute.vms}
        seen = {vm.id for vm in chosen(self._rights, asking, Kind.VM, known)}
        shown = vm_xml if extended else short_vm_xml
        return pool("VM_POOL", (shown(known[number]) for number in wanted if number in seen))

    def act(self, asking: Asking, action: str, number: int) -> int:
        """Perform an action on a VM."""
        flags = {"resched": True, "unresched": False}
        vm = self._may(asking, number, Right.ADMIN if action in flags else Right.MANAGE)
        if action not in _ACTIONS:
            raise CloudError(500, f'[{asking.call}] Action "{action}" is not supported')
        try:
            if action in flags:
                self._reschedule(vm, wanted=flags[action])
            else:
                self._compute.act(vm, action)
        except CloudError as error:
            reason = error.message.removeprefix(f"[{asking.call}] ")
            raise CloudError(500, f'[{asking.call}] Error performing action "{action}": {reason}') from error
        return number

    def _reschedule(self, vm: Vm, *, wanted: bool) -> None:
        """Set or clear the flag that asks for another host. There is no other host, so this changes only the flag."""
        if not vm.running and vm.state is not VmState.POWEROFF:
            state = self._compute.state_name(vm)
            raise CloudError(500, f"Could not set rescheduling flag for VM {vm.id}, wrong state {state}.")
        vm.resched = wanted
        self._compute.keep(vm)

    def deploy(self, asking: Asking, number: int, host: int, *_: Any) -> int:
        """Boot a VM that is pending, on hold, stopped or undeployed. There is one host."""
        if host != _HOST:
            raise CloudError(404, f"[{asking.call}] Error getting host [{host}].")
        vm = self._may(asking, number, Right.ADMIN)
        if vm.state not in _DEPLOYABLE:
            state = self._compute.state_name(vm)
            raise CloudError(500, f"[{asking.call}] Deploy action is not available for state {state}")
        self._compute.act(vm, "release" if vm.state in (VmState.PENDING, VmState.HOLD) else "resume")
        return number

    def recover(self, asking: Asking, number: int, operation: int) -> int:
        """Recover a VM that is stuck."""
        self._compute.recover(self._may(asking, number, Right.ADMIN), operation)
        return number

    def update(self, asking: Asking, number: int, content: str, append: int = 0) -> int:
        """Change a VM's user template."""
        vm = self._may(asking, number, Right.MANAGE)
        if append not in (0, 1):
            raise CloudError(400, f"[{asking.call}] Wrong update type")
        try:
            self._compute.update(vm, content, append=append == 1)
        except CloudError as error:
            raise CoreError(f"[{asking.call}] Cannot update template. {error.message}") from error
        return number

    def configure(self, asking: Asking, number: int, content: str, append: int = 0) -> int:
        """Change a VM's CONTEXT and OS, which take effect at the next boot."""
        vm = self._may(asking, number, Right.MANAGE)
        with _named(asking):
            configure(self._compute, vm, content, append=append == 1)
        return number

    def attach(self, asking: Asking, number: int, content: str) -> int:
        """Attach a disk to a VM that is running or powered off."""
        vm = self._compute.find(number, asking.call)
        if vm.state in (VmState.INIT, VmState.PENDING, VmState.HOLD):
            raise CloudError(500, f"[{asking.call}] VM is not running in any host")
        catalogue, fresh = self._compute.catalogue, parse_template(content)
        found = images_of(fresh, catalogue.images, asking.user)
        wants = [Want(Right.USE, Kind.IMAGE, it.id, it.access) for it in found if not isinstance(it, CloudError)]
        self._rights.need(asking, Want(Right.MANAGE, Kind.VM, number, vm.access), *wants)
        with _named(asking):
            for disk in disks_of(fresh)[:1]:
                image = next(iter(found), None)
                if isinstance(image, CloudError):
                    raise image
                if image is None and "IMAGE_ID" in disk:
                    raise CloudError(500, f"Image with ID: {disk['IMAGE_ID']} does not exist")
                hotplug.attach(self._compute, vm, disk, image)
                return number
            raise CloudError(500, "Internal error parsing DISK attribute")

    def detach(self, asking: Asking, number: int, disk: int) -> int:
        """Detach a disk of a VM that is running or powered off."""
        vm = self._may(asking, number, Right.MANAGE)
        with _named(asking):
            hotplug.detach(self._compute, vm, disk)
        return number

    def schedule(self, asking: Asking, number: int, content: str) -> int:
        """Schedule one action of a VM, once, at a time. Return its id."""
        vm = self._may(asking, number, Right.MANAGE)
        action = parse_template(content).get("SCHED_ACTION")
        if not isinstance(action, dict):
            raise CoreError(f"[{asking.call}] Wrong format of SCHED_ACTION")
        name, time = str(action.get("ACTION", "")).lower(), str(action.get("TIME", ""))
        if {"REPEAT", "DAYS", "END_TYPE", "END_VALUE"} & set(action):
            raise CloudError(501, "The local cloud does not implement scheduled actions that repeat")
        if name not in _ACTIONS - {"resched", "unresched"}:
            raise CloudError(501, f"The local cloud does not implement the scheduled action {name!r}")
        if not time.removeprefix("+").isdigit():
            raise CoreError(f"[{asking.call}] Unable to parse SCHED_ACTION TIME: {time}")
        now = self._compute.clock.now()
        delay = int(time[1:]) if time.startswith("+") else max(0.0, int(time) - now)
        return self._compute.schedule(vm, name, delay)

    def unschedule(self, asking: Asking, number: int, action: int) -> int:
        """Cancel a scheduled action of a VM."""
        vm = self._may(asking, number, Right.MANAGE)
        if str(action) not in [entry["ID"] for entry in vm.sched_actions]:
            raise CoreError(f"[{asking.call}] Sched action doesn't exist.")
        self._compute.unschedule(vm, action)
        return number

    def monitor(self, asking: Asking, number: int, *_: Any) -> str:
        """Return the measurements of a VM: there are none, because the host measures nothing."""
        self._may(asking, number, Right.USE, past_lock=True)
        return "<MONITORING_DATA></MONITORING_DATA>"

    def _may(self, asking: Asking, number: int, right: Right, *, past_lock: bool = False) -> Vm:
        vm = self._compute.find(number, asking.call)
        self._rights.need(asking, Want(right, Kind.VM, number, vm.access, past_lock))
        return vm

    def table(self) -> dict[str, Method]:
        """Return the methods by name."""
        return {
            **SharedMethods(self._compute.catalogue, vm_shelf(self._compute), self._compute.clock.now).table(),
            "one.vm.info": self.info,
            "one.vm.action": self.act,
            "one.vm.deploy": self.deploy,
            "one.vm.recover": self.recover,
            "one.vm.update": self.update,
            "one.vm.updateconf": self.configure,
            "one.vm.attach": self.attach,
            "one.vm.detach": self.detach,
            "one.vm.schedadd": self.schedule,
            "one.vm.scheddelete": self.unschedule,
            "one.vm.monitoring": self.monitor,
            "one.vmpool.info": self.pool,
            _EXTENDED: self.pool,
            "one.vmpool.infoset": self.some,
        }
