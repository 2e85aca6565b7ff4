"""What the core knows: virtual machines, the objects that they are made of, and their owners."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from oneflower.opennebula.states import PARKED, VM_FAILED, ImageState, LcmState, VmState

PRIVATE = "600"  # the permissions of new objects, as an octet


def permission_bits(octet: str) -> dict[str, str]:
    """Return an octet as OpenNebula's PERMISSIONS element."""
    return {
        f"{who}_{what}": str(int(digit) >> shift & 1)
        for who, digit in zip(("OWNER", "GROUP", "OTHER"), octet, strict=True)
        for what, shift in (("U", 2), ("M", 1), ("A", 0))
    }


@dataclass(frozen=True)
class Lock:
    """A lock on an object: it refuses `level` and every stronger right (1 use, 2 manage, 3 administer)."""

    level: int
    owner: int
    time: int


@dataclass(frozen=True)
class Access:
    """The owner of an object, the permissions of owner, group and others, and its lock."""

    uid: int = 0
    gid: int = 0
    uname: str = "oneadmin"
    gname: str = "oneadmin"
    octet: str = PRIVATE
    lock: Lock | None = None

    @classmethod
    def of(cls, record: dict[str, Any]) -> Access:
        """Return the object that `dataclasses.asdict` turned into a record."""
        return cls(**(record | {"lock": Lock(**record["lock"]) if record["lock"] else None}))

    def owner(self) -> dict[str, str]:
        """Return the owner and the group as OpenNebula's elements."""
        return {"UID": str(self.uid), "GID": str(self.gid), "UNAME": self.uname, "GNAME": self.gname}

    def locked(self) -> dict[str, Any]:
        """Return the lock as OpenNebula's element, or nothing."""
        if self.lock is None:
            return {}
        level, owner, time = str(self.lock.level), str(self.lock.owner), str(self.lock.time)
        return {"LOCK": {"LOCKED": level, "OWNER": owner, "TIME": time, "REQ_ID": "-1"}}


ONEADMINS = Access()  # for objects without another owner


@dataclass
class Vm:
    """A virtual machine. `pid` and `born` (its start time in clock ticks) name the process that is the machine.

    `stime`, `etime` and `rstime` are when it was created, when it ended, and when it last began to run.
    """

    id: int
    name: str
    template: dict[str, Any]
    user_template: dict[str, Any]
    stime: int
    service_id: int | None = None
    ip: str = ""
    state: VmState = VmState.PENDING
    lcm_state: LcmState = LcmState.LCM_INIT
    etime: int = 0
    rstime: int = 0
    pid: int = 0
    born: int = 0
    error: str = ""
    sched_actions: list[dict[str, str]] = field(default_factory=list)
    access: Access = field(default_factory=Access)
    resched: bool = False

    @property
    def running(self) -> bool:
        """Whether it is running, as OpenNebula sees it."""
        return self.state is VmState.ACTIVE and self.lcm_state is LcmState.RUNNING

    @property
    def gone(self) -> bool:
        """Whether it is terminated."""
        return self.state is VmState.DONE

    @property
    def on_host(self) -> bool:
        """Whether it uses the host: it runs, is about to run, or is shutting down."""
        return self.state in (VmState.ACTIVE, VmState.POWEROFF, VmState.SUSPENDED)

    @property
    def parked(self) -> bool:
        """Whether it is powered off, suspended, stopped or undeployed."""
        return self.state in PARKED

    @property
    def failed(self) -> bool:
        """Whether it could not be booted, or not be shut down."""
        return self.lcm_state in VM_FAILED

    @property
    def context(self) -> dict[str, str]:
        """The CONTEXT section, with its variables resolved."""
        context: dict[str, str] = self.template.get("CONTEXT", {})
        return context

    def owner(self) -> dict[str, str]:
        """Return the six fields that OneFlow remembers of a node."""
        return {"ID": str(self.id), **self.access.owner(), "NAME": self.name}


@dataclass
class VmTemplate:
    """A VM template."""

    id: int
    name: str
    body: dict[str, Any]
    access: Access = field(default_factory=Access)
    regtime: int = 0

    @property
    def content(self) -> dict[str, Any]:
        """The attributes that a VM is made from, including the name."""
        return {"NAME": self.name, **self.body}


@dataclass
class Image:
    """An image of a disk, as the datastore knows it. Its file stays where it is."""

    id: int
    name: str
    template: dict[str, Any]
    state: int = ImageState.READY
    regtime: int = 0
    access: Access = field(default_factory=Access)
    persistent: bool = False


@dataclass
class Network:
    """A virtual network: another name for the loopback of this machine."""

    id: int
    name: str
    template: dict[str, Any] = field(default_factory=dict)
    access: Access = field(default_factory=Access)


class DatastoreType(IntEnum):
    """TYPE of a datastore."""

    IMAGE = 0
    SYSTEM = 1
    FILE = 2


@dataclass
class Datastore:
    """A datastore. Nothing is stored in it. It takes images from where a new one of OpenNebula does."""

    id: int
    name: str
    access: Access = field(default_factory=Access)
    template: dict[str, Any] = field(default_factory=lambda: {"SAFE_DIRS": "/var/tmp", "RESTRICTED_DIRS": "/"})  # noqa: S108

    @property
    def type(self) -> DatastoreType:
        """What it is for: of the three that there are, one is for images, one for machines, one for files."""
        return {0: DatastoreType.SYSTEM, 2: DatastoreType.FILE}.get(self.id, DatastoreType.IMAGE)
