"""Changes the configuration of a VM that exists. Source: `updateconf` in VirtualMachine.cc.

With `append`, entries are added to CONTEXT, or replaced in it; the others stay. `$NAME` in a new entry is resolved, and
an entry that has the value already is left as it is. The machine reads its context when it boots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower.local.errors import CloudError
from oneflower.local.oned.vms import finder
from oneflower.local.oned.vmtext import parse_template, resolve_context
from oneflower.opennebula.states import LcmState, VmState

if TYPE_CHECKING:
    from oneflower.local.oned.compute import Compute
    from oneflower.local.oned.models import Vm

_STATES = (VmState.PENDING, VmState.HOLD, VmState.POWEROFF, VmState.UNDEPLOYED, VmState.CLONING,
           VmState.CLONING_FAILURE)  # fmt: skip
_ACTIVE = (LcmState.LCM_INIT, LcmState.PROLOG, LcmState.RUNNING, LcmState.EPILOG, LcmState.SHUTDOWN,
           LcmState.CLEANUP_RESUBMIT, LcmState.BOOT_FAILURE, LcmState.PROLOG_FAILURE,
           LcmState.EPILOG_FAILURE)  # fmt: skip
_KEPT = ("TARGET", "DISK_ID")


def configure(compute: Compute, vm: Vm, content: str, *, append: bool) -> None:
    """Change a VM's CONTEXT. Raises `CloudError`: 500 in a state that forbids it, 501 for what is not implemented."""
    fresh = parse_template(content)
    if vm.state not in _STATES and (vm.state is not VmState.ACTIVE or vm.lcm_state not in _ACTIVE):
        raise CloudError(500, f"configuration cannot be updated in state {compute.state_name(vm)}")
    if not append or set(fresh) != {"CONTEXT"} or not isinstance(fresh["CONTEXT"], dict):
        raise CloudError(501, "The local cloud implements only the change of CONTEXT, with append")
    before = vm.context
    if not before:
        raise CloudError(500, "Virtual machine does not have context, cannot add a new one.")
    wanted = {key.upper(): value for key, value in fresh["CONTEXT"].items()}
    new = {key: value for key, value in wanted.items() if before.get(key) != value and key not in _KEPT}
    known = {**vm.user_template, **vm.template, "NAME": vm.name, **vm.access.owner()}
    user = compute.catalogue.accounts.users.get(vm.access.uid)
    found = resolve_context(new, finder(known, user.template if user else {}))
    vm.template = {**vm.template, "CONTEXT": {**before, **found}}
    compute.keep(vm)
    compute.host.prepare(vm, compute.token(vm))
