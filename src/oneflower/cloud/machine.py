"""What the VM template of a role should be: what an operator chose now, what is there, and what the image needs."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from oneflower.cloud.image_source import ImageFacts
from oneflower.opennebula import gpu_of, vm_template
from oneflower_appliance.errors import OneflowerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower.cloud.image_source import Stored
    from oneflower.opennebula import VmOptions

NONE = "none"
# Which attributes of a VM template an option decides; an operator who leaves it out leaves them as they are.
_DECIDES: dict[str, tuple[tuple[str, ...], ...]] = {
    "cpu": (("CPU",), ("VCPU",)),
    "memory": (("MEMORY",),),
    "network": (("NIC",), ("NIC_DEFAULT",)),
    "image": (
        ("DISK",), ("OS",), ("GRAPHICS",), ("RAW",),
        ("CONTEXT", "ONEFLOWER_DATA"), ("CONTEXT", "ONEFLOWER_CHECKPOINTS"),
    ),
    "gpu": (("PCI",),),
}  # fmt: skip


def is_size(volume: str) -> bool:
    """Whether a volume is the size of an empty disk, in MB (`20480M`), and not an image."""
    return bool(re.fullmatch(r"\d+M", volume))


def disks(template: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the disks of a VM template. The machine boots from the first."""
    found = template.get("DISK") or []
    return found if isinstance(found, list) else [found]


class Machine:
    """The machines of a role: what an operator chose, `theirs` is the VM template that is there."""

    def __init__(self, options: VmOptions, theirs: Mapping[str, Any]) -> None:
        self.options = options
        self._theirs = theirs
        self._disks = disks(theirs)

    @property
    def image(self) -> str:
        """The id of the image that they boot from now, empty if there is none."""
        return self._disks[0].get("IMAGE_ID", "") if self._disks else ""

    def plan(
        self, role: str, image: Stored | None, network: str, *, admin: bool
    ) -> tuple[dict[str, Any], list[tuple[str, ...]]]:
        """Return the VM template that is wanted, and the paths in it about which nothing was decided.

        `network` is an id, empty or `none`. Raises `OneflowerError` if a disk would be too small.
        """
        options, facts = self.options, image.facts if image else ImageFacts()
        fresh = image is not None and image.id != self.image
        disk = fresh or any((options.image, options.disk, options.volume, options.gpu))
        cpu = options.cpu or (facts.cpu if self._lacks("CPU", facts.cpu, fresh=fresh) else None)
        memory = options.memory or (facts.memory if self._lacks("MEMORY", facts.memory, fresh=fresh) else None)
        given = {"cpu": cpu, "memory": memory, "network": network, "image": disk, "gpu": options.gpu}
        chosen = replace(
            options,
            cpu=cpu,
            memory=memory,
            network="" if network == NONE else network,
            image=image.id if image and disk else "",
            disk=self._size(facts),
            volume=self._volume(),
            gpu="" if options.gpu == NONE else options.gpu or gpu_of(self._theirs.get("PCI")),
            serial=admin,
        )
        undecided: list[tuple[str, ...]] = [path for key, paths in _DECIDES.items() if not given[key] for path in paths]
        return vm_template(role, chosen), undecided if admin else [*undecided, ("RAW",)]

    def _lacks(self, key: str, need: int, *, fresh: bool) -> bool:
        """Whether the machines have too little for an image that is new to them."""
        try:
            return fresh and float(self._theirs.get(key, 0)) < need
        except ValueError:
            return True

    def _size(self, facts: ImageFacts) -> int | None:
        """Return the size of the disk in MB: chosen, or what is there or is needed, whichever is more."""
        if self.options.disk:
            if facts.least > self.options.disk:
                raise OneflowerError(
                    f"A disk of {self.options.disk} MB is too small: the image has {facts.least} MB.",
                    f"Give --disk {-(-facts.least // 1024)} or more.",
                )
            return self.options.disk
        there = self._disks[0].get("SIZE", "") if self._disks else ""
        return max(int(there) if there.isdigit() else 0, facts.disk) or None

    def _volume(self) -> str:
        if self.options.volume:
            return "" if self.options.volume == NONE else self.options.volume
        if len(self._disks) < 2:
            return ""
        second = self._disks[1]
        return second.get("IMAGE_ID") or f"{second.get('SIZE', '')}M"
