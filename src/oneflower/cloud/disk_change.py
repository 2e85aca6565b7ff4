"""Gives a machine a disk of another image to boot from, and takes away the one from which it booted before.

Both disks stay until all machines are well, so that going back is booting the one before.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from oneflower.cloud.image_source import owner_of
from oneflower.opennebula.states import PLUGGING, VmState
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Collection

    from oneflower.cloud.core import CoreClient
    from oneflower.cloud.objects import Disk, Vm

_LOOK = 0.25
_UNPLUG = 60.0  # seconds in which a running machine should let go of a disk


class DiskChange:
    """The disks of machines. `images` are known to be those of machines; others are if they say so themselves."""

    def __init__(self, core: CoreClient, limit: float, images: Collection[str]) -> None:
        self._core = core
        self._limit = limit
        self._own = dict.fromkeys(images, True)

    def ready(self, vm: Vm, image: str, *, back: bool) -> tuple[int, bool]:
        """Return the number of a disk of an image, and whether it was attached now. The machine is powered off.

        On the way `back` it is the one from which the machine booted before. Otherwise it is always a fresh one:
        what an earlier attempt left has an old state. Raises `OneflowerError` if there is none, or if OpenNebula does
        not attach it.
        """
        if back:
            return self._kept(vm, image), False
        for disk in self._others(vm):
            self._core.detach_disk(vm.id, disk.number)
            vm = self._settled(vm.id, self._limit)
        before, about = {disk.number for disk in vm.disks}, self._core.image(int(image))
        size = max(about.size, vm.boots.size if vm.boots else 0)
        self._core.attach_disk(vm.id, {"IMAGE_ID": image, "DEV_PREFIX": "vd", "SIZE": str(size)})
        fresh = [disk for disk in self._settled(vm.id, self._limit).disks if disk.number not in before]
        if not fresh:
            raise OneflowerError(
                f"OpenNebula did not attach the image {about.name} to {vm.short_name}.",
                f"Its log says why: /var/log/one/{vm.id}.log on the front-end.",
                ExitCode.CLOUD,
            )
        return fresh[0].number, True

    def _kept(self, vm: Vm, image: str) -> int:
        for disk in self._others(vm):
            if disk.image == image:
                return disk.number
        raise OneflowerError(
            f"{vm.short_name} has no disk of the image {image} any more, from which it booted before.",
            "Finish the upgrade.",
            ExitCode.CONFLICT,
        )

    def tidy(self, vm: Vm) -> str:
        """Detach from a running machine what it does not boot from. Returns why a disk stays, if one does."""
        for disk in self._others(vm):
            if any(other.target > disk.target for other in vm.disks if not self._is_own(other)):
                return (
                    f"{vm.short_name} keeps its disk {disk.number} until the next upgrade: without it, its data disks "
                    "would have other names."
                )
            try:
                self._core.detach_disk(vm.id, disk.number)
                left = self._settled(vm.id, min(self._limit, _UNPLUG)).disks
            except OneflowerError as error:
                return _stays(vm, disk, error.message)
            if disk.number in [each.number for each in left]:
                return _stays(vm, disk, "the machine did not let go of it.")
        return ""

    def _others(self, vm: Vm) -> list[Disk]:
        """Return the disks of images of ours from which a machine does not boot."""
        return [disk for disk in vm.disks if disk != vm.boots and self._is_own(disk)]

    def _is_own(self, disk: Disk) -> bool:
        if disk.image and disk.image not in self._own:
            about = self._core.find_image(int(disk.image))
            self._own[disk.image] = about is not None and bool(owner_of(about.attributes))
        return self._own.get(disk.image, False)

    def _settled(self, number: int, limit: float) -> Vm:
        """Return a machine once nothing is being attached to it or detached. Raises `OneflowerError` after a while."""
        deadline = time.monotonic() + limit
        while (vm := self._core.vm(number)) and vm.lcm_state in PLUGGING and time.monotonic() < deadline:
            time.sleep(_LOOK)
        if vm is None or vm.lcm_state in PLUGGING or vm.state == VmState.DONE:
            raise OneflowerError(
                f"VM {number} is {'gone' if vm is None or vm.state == VmState.DONE else 'still being changed'} after "
                f"{limit:.0f} s.", "", ExitCode.TIMEOUT,
            )  # fmt: skip
        return vm


def _stays(vm: Vm, disk: Disk, why: str) -> str:
    return (
        f"{vm.short_name} keeps its disk {disk.number}, which only takes room: {why.rstrip('.')}. "
        f"`onevm disk-detach {vm.id} {disk.number}` removes it."
    )
