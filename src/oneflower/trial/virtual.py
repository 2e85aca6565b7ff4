"""What is tried of virtual machines beside the rest: their firmware, their disks, and a power cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower.local.host.qemu_driver import image_size
from oneflower.opennebula.text import render
from oneflower.trial.readiness import wait_back
from oneflower.trial.shell import ssh
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.roles import COORDINATOR, NODES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from oneflower.cloud import Cloud, Federation

# The SuperLink boots by BIOS, SuperNodes by UEFI, each on the chipset that goes with it.
_SYSTEMS = {COORDINATOR: {"FIRMWARE": "BIOS", "MACHINE": "pc"}, NODES: {"FIRMWARE": "UEFI", "MACHINE": "q35"}}
_MORE = 2 << 30  # bytes that a machine's disk has beyond the image's: the root file system must grow
_WITNESS = "/var/lib/oneflower-trial"


def choose_hardware(cloud: Cloud, vm_templates: Mapping[str, int], image: Path) -> None:
    """Write firmware, chipset and a larger disk into the VM templates of the roles."""
    disk = {"SIZE": str((image_size(image) + _MORE) >> 20)}
    for role, number in vm_templates.items():
        content = cloud.core.vm_template(number) or {}
        cloud.core.update_vm_template(number, render({**content, "OS": _SYSTEMS[role], "DISK": disk}))


def look_into(federation: Federation, state: Path, image: Path, tell: Callable[[str], None]) -> None:
    """See that each machine has the chosen firmware, that its disk grew, and that systemd has nothing to report."""
    found = []
    for vm in federation.status().vms:
        firmware = "UEFI" if "efi" in ssh(vm.ip, state, "ls /sys/firmware").split() else "BIOS"
        size = int(ssh(vm.ip, state, "findmnt -bno SIZE /"))
        failed = ssh(vm.ip, state, "systemctl --failed --no-legend --plain").split()
        used = ssh(vm.ip, state, "free -m").split("Mem:")[1].split()[1]
        found.append(f"{vm.name} by {firmware}, root of {size / (1 << 30):.1f} GB, {used} MB of memory used")
        if firmware != _SYSTEMS[vm.role]["FIRMWARE"]:
            raise OneflowerError(f"{vm.name} booted by {firmware}.", "", ExitCode.CLOUD)
        if size < image_size(image) + _MORE // 2:
            raise OneflowerError(
                f"The root of {vm.name} has {size >> 20} MB, no more than in the image: it did not grow.",
                "See what systemd-repart and oneflower-growfs.service say in its journal.",
                ExitCode.CLOUD,
            )
        if failed:
            raise OneflowerError(f"The unit {failed[0]} of {vm.name} failed.", "See its journal.", ExitCode.CLOUD)
    tell("; ".join(found))


def cut_power(federation: Federation, state: Path, limit: float) -> None:
    """Kill the SuperLink's machine and boot it again: it must be the same, with all that it had synced."""
    before = federation.status()
    (link,) = [vm for vm in before.vms if vm.role == COORDINATOR]
    ssh(link.ip, state, f"echo kept >{_WITNESS} && sync {_WITNESS}")
    federation.cloud.core.act_on_vm(link.id, "reboot-hard")
    wait_back(federation, link, limit, seen=limit)
    after = federation.status()
    if (after.ca, after.host_keys) != (before.ca, before.host_keys):
        raise OneflowerError("The SuperLink came back with another certificate or host key.", "", ExitCode.CLOUD)
    if ssh(link.ip, state, f"cat {_WITNESS}").strip() != "kept":
        raise OneflowerError("A file was lost that had been synced.", "", ExitCode.CLOUD)
