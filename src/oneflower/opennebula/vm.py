"""The VM templates of the two roles, in OpenNebula's own syntax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oneflower.opennebula.pci import pci_of
from oneflower.opennebula.service import infrastructure
from oneflower_appliance.roles import COORDINATOR, NODES

_CPU, _MEMORY = 2.0, {COORDINATOR: 2048}
_NODE_MEMORY = 4096
# What is on the second disk of a machine, by role: a volume of the guest.
_VOLUME = {COORDINATOR: "ONEFLOWER_CHECKPOINTS", NODES: "ONEFLOWER_DATA"}
_SECOND_DISK = "disk:vdb"
# OpenNebula gives machines no serial console of their own; `virsh console` on the host reads this one.
_SERIAL = "<devices><serial type='pty'><target port='0'/></serial><console type='pty'/></devices>"


@dataclass(frozen=True)
class VmOptions:
    """What an operator chooses for the machines of a role. Everything has a default.

    `cpu` is in cores and may be a fraction. `memory` and `disk` are in MB; without `disk`, a disk has its image's size.
    `network` and `image` are ids, because OpenNebula would look up names among the tenant's own. `volume` is a second
    disk, for data or checkpoints: the id of an image, or MB of an empty disk that goes with the machine, as `20480M`.
    `gpu` is a PCI device, `VENDOR:DEVICE[:CLASS]` or an address like `41:00.0`, with `/PROFILE` for a vGPU. `serial`
    adds a serial console, which only administrators may.
    """

    cpu: float | None = None
    memory: int | None = None
    network: str = ""
    image: str = ""
    gpu: str = ""
    disk: int | None = None
    volume: str = ""
    serial: bool = False


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
        system = {"IMAGE_ID": options.image, "DEV_PREFIX": "vd"} | ({"SIZE": str(options.disk)} if options.disk else {})
        template["DISK"] = [system, _volume(options.volume)] if options.volume else system
        template["OS"] = {"ARCH": "x86_64", "BOOT": "disk0"}
        # As Sunstone expects it: the console goes through the front-end, which knows the password.
        template["GRAPHICS"] = {"TYPE": "vnc", "LISTEN": "0.0.0.0", "RANDOM_PASSWD": "YES"}  # noqa: S104
        if options.serial:
            template["RAW"] = {"TYPE": "kvm", "DATA": _SERIAL}
    if options.image and options.volume:
        template["CONTEXT"][_VOLUME[role]] = _SECOND_DISK
    if options.network:
        template |= {"NIC": {"NETWORK_ID": options.network}, "NIC_DEFAULT": {"MODEL": "virtio"}}
    if options.gpu:
        template["PCI"] = pci_of(options.gpu)
    if options.gpu and options.image:
        template["OS"] |= {"MACHINE": "q35", "FIRMWARE": "UEFI", "FIRMWARE_SECURE": "NO"}
    return template


def _volume(volume: str) -> dict[str, str]:
    if volume.endswith("M"):
        return {"TYPE": "fs", "SIZE": volume.removesuffix("M"), "FORMAT": "raw", "DEV_PREFIX": "vd"}
    return {"IMAGE_ID": volume, "DEV_PREFIX": "vd"}
