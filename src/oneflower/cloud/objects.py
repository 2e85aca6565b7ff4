"""What the core describes: VMs, images and datastores, read from pyone's objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_IMAGES = 0  # TYPE of a datastore that holds images
PERMISSIONS = tuple(f"{who}_{what}" for who in ("OWNER", "GROUP", "OTHER") for what in ("U", "M", "A"))


@dataclass(frozen=True)
class Disk:
    """A disk of a VM: its number, the id of its image, empty if it has none, its size in MB, and its name there."""

    number: int
    image: str
    size: int
    target: str

    @classmethod
    def read(cls, said: dict[str, str]) -> Disk:
        """Return a disk as the core describes it."""
        size = said.get("SIZE", "")
        return cls(
            int(said.get("DISK_ID", "-1")), said.get("IMAGE_ID", ""), int(size) if size.isdigit() else 0,
            said.get("TARGET", ""),
        )  # fmt: skip


class Vm:
    """A VM as the core describes it. `booted` is when it last began to run, in seconds since 1970; 0 if unknown.

    `boots` is the disk from which it boots, None if it has no disks, and `image` the id of that disk's image, or empty.
    """

    def __init__(self, vm: Any) -> None:
        self.id: int = vm.ID
        self.name: str = vm.NAME
        self.state: int = vm.STATE
        self.lcm_state: int = vm.LCM_STATE
        self.started: int = vm.STIME
        self.booted: int = _last_boot(vm)
        template, user = plain(vm.TEMPLATE), plain(vm.USER_TEMPLATE)
        self.attributes: dict[str, str] = {key: value for key, value in user.items() if isinstance(value, str)}
        self.addresses: tuple[str, ...] = tuple(
            one[key] for one in _listed(template.get("NIC")) for key in ("IP", "IP6_GLOBAL", "IP6_SITE") if one.get(key)
        )
        self.ip: str = self.addresses[0] if self.addresses else ""
        self.creator: str = template.get("CREATED_BY", "")
        self.context: dict[str, str] = template.get("CONTEXT") or {}
        self.disks: tuple[Disk, ...] = tuple(Disk.read(each) for each in _listed(template.get("DISK")))
        self.boots: Disk | None = _boots(self.disks, template)
        self.image: str = self.boots.image if self.boots else ""

    @property
    def short_name(self) -> str:
        """Its name without that of its service."""
        return self.name.partition("_(")[0]


class Image:
    """An image as the core describes it. `size` is in MB; `error` says why it could not be made."""

    def __init__(self, image: Any) -> None:
        self.id: int = image.ID
        self.name: str = image.NAME
        self.owner: int = image.UID
        self.state = int(image.STATE)
        self.size = int(image.SIZE)
        self.persistent = bool(int(image.PERSISTENT))
        self.machines = int(image.RUNNING_VMS)
        self.users = f"{self.machines} machine{'' if self.machines == 1 else 's'}" if self.machines else ""
        self.attributes = plain(image.TEMPLATE)
        self.error = str(self.attributes.get("ERROR", ""))


class Datastore:
    """A datastore as the core describes it. `free` is in MB, None where the core does not know it."""

    def __init__(self, datastore: Any) -> None:
        self.id: int = datastore.ID
        self.name: str = datastore.NAME
        self.for_images = int(datastore.TYPE) == _IMAGES
        self.attributes = plain(datastore.TEMPLATE)
        self.free = int(datastore.FREE_MB) if int(datastore.TOTAL_MB) else None

    @property
    def safe_folders(self) -> tuple[str, ...]:
        """The folders of the front-end from which images may be copied."""
        return tuple(str(self.attributes.get("SAFE_DIRS", "")).split())


def _last_boot(vm: Any) -> int:
    """Return when a VM last began to run: RSTIME of its last history record, 0 if there is none."""
    records = getattr(vm.HISTORY_RECORDS, "HISTORY", None) or []
    return max((int(getattr(record, "RSTIME", 0) or 0) for record in records), default=0)


def _boots(disks: tuple[Disk, ...], template: dict[str, Any]) -> Disk | None:
    """Return the disk from which a VM boots: the first device of OS/BOOT if that is a disk, else its first disk."""
    system = template.get("OS")
    first = str(system.get("BOOT", "")).partition(",")[0].strip().lower() if isinstance(system, dict) else ""
    return next((disk for disk in disks if first == f"disk{disk.number}"), disks[0] if disks else None)


def _listed(value: Any) -> list[dict[str, str]]:
    """Return the vectors of one name: none, one or several."""
    return value if isinstance(value, list) else [value] if value else []


def plain(content: Any) -> dict[str, Any]:
    """Return an ordered dictionary of pyone as a plain one, with empty values as empty text."""
    if not content:
        return {}
    return {key: _plain_value(value) for key, value in content.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain_value(item) for item in value]
    if hasattr(value, "items"):
        return plain(value)
    return "" if value is None else value
