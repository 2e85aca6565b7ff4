"""The disks of a VM: their numbers and targets, and from which of them it boots.

Sources: VirtualMachineDisk.cc, and set_boot_order and replace_vector_values of VirtualMachine.cc.
"""

from __future__ import annotations

import re
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

from oneflower.local.errors import CloudError, CoreError
from oneflower.local.oned.vms import devices_of, disks_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from oneflower.local.oned.models import Image, Vm

_PREFIX = "sd"  # DEFAULT_DEVICE_PREFIX of a new OpenNebula
_DEVICE = re.compile(r"(DISK|NIC)(\d+)", re.IGNORECASE)
_ID_OF = {"DISK": "DISK_ID", "NIC": "NIC_ID"}
BOOT_ATTRIBUTES = ("ARCH", "MACHINE", "KERNEL", "INITRD", "BOOTLOADER", "BOOT", "KERNEL_CMD", "ROOT", "SD_DISK_BUS",
                   "UUID", "FIRMWARE", "FIRMWARE_FORMAT")  # fmt: skip


def complete(disk: Mapping[str, Any], number: int, image: Image | None, used: Collection[str]) -> dict[str, Any]:
    """Return a disk as a VM has it. `used` are the targets of the others. Raises `CloudError`."""
    known: dict[str, Any] = {}
    if image is not None:
        known = {"IMAGE_ID": str(image.id), "IMAGE": image.name, "DATASTORE": "default", "DATASTORE_ID": "1"}
        size, wanted = int(image.template.get("SIZE") or 0), str(disk.get("SIZE", ""))
        if wanted.isdigit() and int(wanted) < size:
            raise CloudError(500, f"SIZE of {wanted}MB is less than the image [{image.id}] size of {size}MB.")
        known["SIZE"] = wanted or str(size)
    if (target := disk.get("TARGET")) and target in used:
        raise CloudError(500, f"Target {target} is already in use.")
    prefix = disk.get("DEV_PREFIX") or (image.template.get("DEV_PREFIX") if image else "") or _PREFIX
    free = target or next(name for letter in ascii_lowercase if (name := f"{prefix}{letter}") not in used)
    return {**disk, **known, "DEV_PREFIX": prefix, "DISK_ID": str(number), "TARGET": free}


def next_number(vm: Vm) -> int:
    """Return the number of the next disk: one more than any has, also that with the context."""
    numbers = [disk.get("DISK_ID", "") for disk in (*disks_of(vm.template), vm.context)]
    return 1 + max((int(number) for number in numbers if str(number).isdigit()), default=-1)


def targets(vm: Vm) -> set[str]:
    """Return the targets that are in use."""
    return {str(disk["TARGET"]) for disk in (*disks_of(vm.template), vm.context) if disk.get("TARGET")}


def ordered(template: Mapping[str, Any]) -> dict[str, Any]:
    """Return a VM's template with the place of each device in the boot order (ORDER), as OS/BOOT says.

    Raises `CoreError` if that names a device which is not there.
    """
    system = template.get("OS")
    order = str(system.get("BOOT", "")) if isinstance(system, dict) else ""
    places: dict[tuple[str, str], str] = {}
    for place, word in enumerate(filter(None, order.split(",")), 1):
        match = _DEVICE.fullmatch(word)
        if match is None:
            raise CoreError(f'Wrong OS/BOOT value: "{order}" should be a comma-separated list of disk# or nic#')
        kind, number = match[1].upper(), str(int(match[2]))
        if number not in [str(device.get(_ID_OF[kind])) for device in devices_of(template, kind)]:
            raise CoreError(f"Wrong OS/BOOT value. Device with {_ID_OF[kind]} {number} not found")
        places[kind, number] = str(place)
    changed = dict(template)
    for kind, name in _ID_OF.items():
        if kind in template:
            changed[kind] = _as_before(template[kind], [
                {key: value for key, value in device.items() if key != "ORDER"}
                | ({"ORDER": places[found]} if (found := (kind, str(device.get(name)))) in places else {})
                for device in devices_of(template, kind)
            ])  # fmt: skip
    return changed


def booted(template: Mapping[str, Any]) -> dict[str, Any]:
    """Return the disk from which a VM boots: the first in the boot order, else the first of all; empty without one."""
    found = disks_of(template)
    return next((disk for disk in found if disk.get("ORDER") == "1"), found[0] if found else {})


def _as_before(before: Any, devices: list[dict[str, Any]]) -> Any:
    return devices if isinstance(before, list) or len(devices) != 1 else devices[0]
