"""Attaches disks to a VM that exists, and detaches them. Sources: DispatchManagerActions.cc, LifeCycleStates.cc.

A VM that runs is in HOTPLUG meanwhile, one that is powered off in HOTPLUG_PROLOG_POWEROFF or HOTPLUG_EPILOG_POWEROFF.
The disk is marked with ATTACH meanwhile. An attachment that fails leaves the VM as it was before.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from oneflower.local.errors import CloudError
from oneflower.local.oned import disks
from oneflower.local.oned.vms import disks_of
from oneflower.opennebula.states import PLUGGING, LcmState, VmState

if TYPE_CHECKING:
    from oneflower.local.oned.compute import Compute
    from oneflower.local.oned.models import Image, Vm

log = logging.getLogger(__name__)
_MARK = "ATTACH"


def attach(compute: Compute, vm: Vm, disk: dict[str, Any], image: Image | None) -> None:
    """Attach a disk of an image, or an empty one. Raises `CloudError` 500 in a state that forbids it."""
    runs = _check(compute, vm, f"Could not attach a new disk to VM {vm.id}, wrong state")
    if image is None and disk.get("TYPE", "").upper() not in ("FS", "SWAP"):
        raise CloudError(500, f"Unknown disk type {disk.get('TYPE', '')}")
    number = disks.next_number(vm)
    fresh = disks.complete(disk, number, image, disks.targets(vm)) | {_MARK: "YES"}
    vm.template = {**vm.template, "DISK": [*disks_of(vm.template), fresh]}
    _enter(compute, vm, LcmState.HOTPLUG if runs else LcmState.HOTPLUG_PROLOG_POWEROFF)

    def ended(error: str) -> None:
        _end(compute, vm, gone=number if error else None, error=error)

    _hand_over(compute, vm, lambda: compute.host.attach(vm, ended), ended)


def detach(compute: Compute, vm: Vm, number: int) -> None:
    """Detach a disk, and remove what is on it. Raises `CloudError` 500 in a state that forbids it."""
    if str(number) not in [disk.get("DISK_ID") for disk in disks_of(vm.template)]:
        raise CloudError(500, "VM disk does not exist")
    runs = _check(compute, vm, f"Could not detach disk from VM {vm.id}, wrong state")
    if runs and disks.booted(vm.template).get("DISK_ID") == str(number):
        raise CloudError(501, "The local cloud does not detach the disk from which a running machine has booted")
    vm.template = {**vm.template, "DISK": [
        disk | ({_MARK: "YES"} if disk.get("DISK_ID") == str(number) else {}) for disk in disks_of(vm.template)
    ]}  # fmt: skip
    _enter(compute, vm, LcmState.HOTPLUG if runs else LcmState.HOTPLUG_EPILOG_POWEROFF)

    def ended(error: str) -> None:
        _end(compute, vm, gone=None if error else number, error=error)

    _hand_over(compute, vm, lambda: compute.host.detach(vm, number, ended), ended)


def resume(compute: Compute) -> None:
    """End what a daemon before this one had begun: nothing was attached, and nothing detached."""
    for vm in list(compute.vms.values()):
        if vm.lcm_state in PLUGGING:
            fresh = [disk for disk in disks_of(vm.template) if disk.get(_MARK)]
            attached = vm.lcm_state is LcmState.HOTPLUG_PROLOG_POWEROFF and fresh
            number = int(fresh[0]["DISK_ID"]) if attached else None
            _end(compute, vm, gone=number, error="The local cloud ended meanwhile.")


def _check(compute: Compute, vm: Vm, refusal: str) -> bool:
    """Return whether the VM runs. Raises `CloudError` if it is neither running nor powered off."""
    if not vm.running and vm.state is not VmState.POWEROFF:
        raise CloudError(500, f"{refusal} {compute.state_name(vm)}.")
    return vm.running


def _enter(compute: Compute, vm: Vm, state: LcmState) -> None:
    vm.state, vm.lcm_state = VmState.ACTIVE, state
    compute.announce(vm)


def _hand_over(compute: Compute, vm: Vm, ask: Any, ended: Any) -> None:
    """Have the host do it, or nobody, for a machine that runs no guest."""
    if compute.has_guest(vm):
        ask()
    else:
        compute.clock.later(0, lambda: ended(""))


def _end(compute: Compute, vm: Vm, *, gone: int | None, error: str) -> None:
    if vm.lcm_state not in PLUGGING:
        return  # it was terminated meanwhile
    if error:
        log.warning("VM %d: %s", vm.id, error)
    vm.template = {**vm.template, "DISK": [
        {key: value for key, value in disk.items() if key != _MARK}
        for disk in disks_of(vm.template) if disk.get("DISK_ID") != str(gone)
    ]}  # fmt: skip
    runs = vm.lcm_state is LcmState.HOTPLUG
    vm.state, vm.lcm_state = (VmState.ACTIVE, LcmState.RUNNING) if runs else (VmState.POWEROFF, LcmState.LCM_INIT)
    compute.announce(vm)
