"""The VM templates of the two roles, in OpenNebula's own syntax."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from oneflower.opennebula.service import infrastructure
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.roles import COORDINATOR

_CPU, _MEMORY = 2.0, {COORDINATOR: 2048}
_NODE_MEMORY = 4096
_TRIPLE = re.compile(r"([0-9a-f]{4}):([0-9a-f]{4})(?::([0-9a-f]{4}))?", re.IGNORECASE)
_SHORT = re.compile(r"[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", re.IGNORECASE)


@dataclass(frozen=True)
class VmOptions:
    """What an operator chooses for the machines of a role. Everything has a default.

    `cpu` is in cores and may be a fraction. `memory` is in MB. `network` and `image` are ids, because OpenNebula would
    look up names among the tenant's own. `gpu` is a PCI device, `VENDOR:DEVICE[:CLASS]` or an address like `41:00.0`.
    """

    cpu: float | None = None
    memory: int | None = None
    network: str = ""
    image: str = ""
    gpu: str = ""


def vm_template(role: str, options: VmOptions = VmOptions()) -> dict[str, Any]:
    """Return the VM template of `role`, without its name: KVM, virtio, host CPU (numpy needs x86-64-v2).

    Raises `OneflowerError` if the GPU is not a valid PCI device.
    """
    cpu = options.cpu or _CPU
    template: dict[str, Any] = {
        "DESCRIPTION": f"oneflower: a Flower {role}",
        "CPU": f"{cpu:g}",
        "VCPU": str(max(1, round(cpu))),
        "MEMORY": str(options.memory or _MEMORY.get(role, _NODE_MEMORY)),
        "CPU_MODEL": {"MODEL": "host-passthrough"},
        "HYPERVISOR": "kvm",
        "CONTEXT": infrastructure(role),
    }
    if options.image:
        template["DISK"] = {"IMAGE_ID": options.image, "DEV_PREFIX": "vd"}
        template["OS"] = {"ARCH": "x86_64", "BOOT": "disk0"}
    if options.network:
        template |= {"NIC": {"NETWORK_ID": options.network}, "NIC_DEFAULT": {"MODEL": "virtio"}}
    if options.gpu:
        template["PCI"] = _pci(options.gpu)
    return template


def _pci(device: str) -> dict[str, str]:
    if _SHORT.fullmatch(device):
        return {"SHORT_ADDRESS": device.lower()}
    if match := _TRIPLE.fullmatch(device):
        names = zip(("VENDOR", "DEVICE", "CLASS"), match.groups(), strict=True)
        return {name: value.lower() for name, value in names if value}
    raise OneflowerError(
        f"{device!r} is not a valid PCI device.",
        "Give VENDOR:DEVICE or VENDOR:DEVICE:CLASS in hexadecimal (10de:2331:0302), or an address (41:00.0); "
        "`onehost show` lists them.",
    )
