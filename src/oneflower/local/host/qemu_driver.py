"""Machines as virtual machines of QEMU that boot an appliance image: with KVM where there is one, else emulated.

Each writes to a layer of its own over the image, which stays as it is, and reads its context from a CD, as OpenNebula
makes it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower.local.host import qemu
from oneflower.local.host.driver import Boot, Disk
from oneflower.local.host.monitor import press_power_button, unplug_disk
from oneflower.local.host.processes import MARK, sweep
from oneflower.prerequisites import require_packages, require_root
from oneflower.process import run
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from oneflower.local.host.bridge import Bridge
    from oneflower.local.oned.models import Vm

NEEDED = {
    qemu.EMULATOR: "qemu-system-x86", "qemu-img": "qemu-utils", "genisoimage": "genisoimage", "ip": "iproute2",
    str(qemu.CODE): "ovmf",
}  # fmt: skip
_TUN = Path("/dev/net/tun")
_LABEL = "CONTEXT"


class QemuDriver:
    """Runs machines from the qcow2 file `image`, on a bridge. Needs root."""

    def __init__(self, image: Path, bridge: Bridge) -> None:
        self._image = image
        self._bridge = bridge
        self._bridge.up()
        self._kvm = qemu.has_kvm()
        self.stop_limit = 40.0 if self._kvm else 150.0
        self.gateway, self.subnet = bridge.gateway, bridge.subnet

    def address(self, used: Collection[str]) -> str:
        """Return a free address on the bridge. Raises `OneflowerError`."""
        return self._bridge.address(used)

    async def prepare(self, vm: Vm, folder: Path, disks: Sequence[Disk] = ()) -> Boot:
        """Make the machine's disks, CD and network cards. Raises `OneflowerError`."""
        hardware = qemu.Hardware.of(vm.template)
        found = vm.template["NIC"]
        addresses = [nic["MAC"] for nic in (found if isinstance(found, list) else [found])]
        if hardware.uefi:
            await asyncio.to_thread(_make_variables, folder)
        one = Disk(0, self._image, hardware.disk_size >> 20 if hardware.disk_size else None)
        await self.lay(folder, disks or [one])
        await asyncio.to_thread(make_cd, folder)
        taps = await asyncio.to_thread(self._bridge.taps, vm.id, len(addresses))
        nics = [qemu.Nic(tap, address) for tap, address in zip(taps, addresses, strict=True)]
        boots = {disk.number: disk.boots for disk in disks or [one]}
        return boot(qemu.command(hardware, nics, kvm=self._kvm, disks=boots), folder)

    async def lay(self, folder: Path, disks: Sequence[Disk]) -> None:
        """Lay those disks over their images that are not there yet. Raises `OneflowerError`."""
        for disk in disks:
            await asyncio.to_thread(make_disk, disk, folder)

    async def remove(self, folder: Path, number: int, *, running: bool) -> None:
        """Take a disk from the machine, and remove what is on it. Raises `OneflowerError` and `OSError`."""
        if running:
            await asyncio.to_thread(unplug_disk, folder, f"disk{number}")
        (folder / qemu.disk_file(number)).unlink(missing_ok=True)

    def shut_down(self, pid: int, folder: Path) -> None:
        """Press the machine's power button, or end it where it has none any more."""
        try:
            press_power_button(folder)
        except OSError:
            os.kill(pid, signal.SIGKILL)

    def sweep(self, folder: Path) -> None:
        """End the machine and take it off the bridge."""
        sweep(folder)
        self._bridge.unplug(int(folder.name))


def boot(command: list[str], folder: Path) -> Boot:
    """Return how to run QEMU's `command` on the files in `folder`."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", MARK: str(folder)}
    return Boot(["env", "-C", str(folder), *command], environment)


def make_disk(disk: Disk, folder: Path) -> None:
    """Lay a machine's own disk over the image, unless it is there. Raises `OneflowerError`."""
    file, image = folder / qemu.disk_file(disk.number), disk.image
    if not file.exists():
        size = max((disk.size or 0) << 20, image_size(image))
        layers = ["-f", "qcow2", "-F", "qcow2", "-b", str(image)]
        run(["qemu-img", "create", "-q", *layers, str(file), str(size)], "make a machine's disk", f"Check {image}.")


def _make_variables(folder: Path) -> None:
    variables = folder / qemu.UEFI_VARIABLES
    if not variables.exists():
        shutil.copyfile(qemu.VARIABLES, variables)


def image_size(image: Path) -> int:
    """Return the size of an image's disk in bytes. Raises `OneflowerError` if it is not a qcow2 file."""
    told = run(["qemu-img", "info", "--output=json", str(image)], f"read the image {image}", "Build it again.")
    about = json.loads(told)
    if about["format"] != "qcow2":
        raise OneflowerError(
            f"{image} is not a qcow2 file.", "Give what `oneflower image build` made.", ExitCode.INVALID_INPUT
        )
    return int(about["virtual-size"])


def make_cd(folder: Path) -> None:
    """Write the context as a CD, with the label by which a machine finds it. Raises `OneflowerError`."""
    command = ["genisoimage", "-quiet", "-V", _LABEL, "-J", "-R", "-o", str(folder / qemu.CD), str(folder / "context")]
    run(command, "make the CD with a machine's context", "apt install genisoimage")


def check_host(image: Path) -> None:
    """Raise `OneflowerError` unless this machine can run virtual machines of the qcow2 file `image`."""
    require_root("A local cloud with --image", "its machines are on a bridge")
    require_packages("A local cloud of virtual machines", NEEDED)
    if not os.access(_TUN, os.R_OK | os.W_OK):
        raise OneflowerError(
            f"Virtual machines need {_TUN}, by which they are plugged to a bridge.",
            "Load the kernel's module `tun`, or let the container that this runs in use the device.",
            ExitCode.ENVIRONMENT,
        )
    image_size(image)
