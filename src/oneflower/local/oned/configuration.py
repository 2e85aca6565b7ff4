"""Changes the configuration of a VM that exists. Source: `updateconf` in VirtualMachine.cc.

With `append`, entries are added to CONTEXT and OS, or replaced in them; the others stay. `$NAME` in a new entry of
CONTEXT is resolved, and an entry that has the value already is left as it is. OS/BOOT says from which disk the machine
boots. Both take effect when it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oneflower.local.errors import CloudError, CoreError
from oneflower.local.oned.disks import BOOT_ATTRIBUTES, ordered
from oneflower.local.oned.vms import finder
from oneflower.local.oned.vmtext import parse_template, resolve_context
from oneflower.opennebula.states import LcmState, VmState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower.local.oned.compute import Compute
    from oneflower.local.oned.models import Vm

_STATES = (VmState.PENDING, VmState.HOLD, VmState.POWEROFF, VmState.UNDEPLOYED, VmState.CLONING,
           VmState.CLONING_FAILURE)  # fmt: skip
_ACTIVE = (LcmState.LCM_INIT, LcmState.PROLOG, LcmState.RUNNING, LcmState.EPILOG, LcmState.SHUTDOWN,
           LcmState.CLEANUP_RESUBMIT, LcmState.HOTPLUG_PROLOG_POWEROFF, LcmState.HOTPLUG_EPILOG_POWEROFF,
           LcmState.BOOT_FAILURE, LcmState.PROLOG_FAILURE, LcmState.EPILOG_FAILURE)  # fmt: skip
_KEPT = ("TARGET", "DISK_ID")


def configure(compute: Compute, vm: Vm, content: str, *, append: bool) -> None:
    """Change a VM's CONTEXT and OS. Raises `CloudError`: 500 as the core refuses, 501 for what is not implemented."""
    fresh = parse_template(content)
    if vm.state not in _STATES and (vm.state is not VmState.ACTIVE or vm.lcm_state not in _ACTIVE):
        raise CoreError(f"configuration cannot be updated in state {compute.state_name(vm)}")
    vectors = [value for value in fresh.values() if isinstance(value, dict)]
    if not append or not fresh or not set(fresh) <= {"CONTEXT", "OS"} or len(vectors) != len(fresh):
        raise CloudError(501, "The local cloud implements only the change of CONTEXT and OS, with append")
    template = {**vm.template, **_system(vm, fresh.get("OS"))}
    if "CONTEXT" in fresh:
        template["CONTEXT"] = _context(compute, vm, fresh["CONTEXT"])
    vm.template = ordered(template)
    compute.keep(vm)
    compute.host.prepare(vm, compute.token(vm))


def _system(vm: Vm, fresh: Mapping[str, str] | None) -> dict[str, Any]:
    if fresh is None:
        return {}
    before = vm.template.get("OS")
    known = {name: fresh[name] for name in BOOT_ATTRIBUTES if name in fresh} if isinstance(before, dict) else fresh
    return {"OS": {**(before or {}), **known}}


def _context(compute: Compute, vm: Vm, fresh: Mapping[str, str]) -> dict[str, str]:
    before = vm.context
    if not before:
        raise CoreError("Virtual machine does not have context, cannot add a new one.")
    wanted = {key.upper(): value for key, value in fresh.items()}
    new = {key: value for key, value in wanted.items() if before.get(key) != value and key not in _KEPT}
    known = {**vm.user_template, **vm.template, "NAME": vm.name, **vm.access.owner()}
    user = compute.catalogue.accounts.users.get(vm.access.uid)
    return {**before, **resolve_context(new, finder(known, user.template if user else {}))}
