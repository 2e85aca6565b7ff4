"""What an OpenNebula says of itself: its hosts, networks, datastores, groups and settings, and what a user may do.

It is read as XML and not through pyone's schemas, which leave out what they do not know, such as ONEGATE_ENDPOINT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oneflower.cloud.refused import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from xml.etree.ElementTree import Element

    from oneflower.cloud.client import Cloud

_MINE_AND_USABLE = (-2, -1, -1)
_MONITORED = (1, 2)  # STATE of a host that is up
_IMAGES, _SYSTEM = 0, 1  # TYPE of a datastore
# What x86-64-v2 adds, in libvirt's words, and models of processors that have all of it.
_V2 = {"cx16", "lahf_lm", "popcnt", "sse4.1", "sse4.2", "ssse3"}
_MODELS_WITH_V2 = {"Nehalem", "Westmere", "SandyBridge", "Opteron_G4", "EPYC"}
_DEFAULT = -1  # a limit that means the default quota


@dataclass(frozen=True)
class Host:
    """A host. `v2` says whether its processors have x86-64-v2, None where it does not say."""

    name: str
    up: bool
    hypervisor: str
    v2: bool | None


@dataclass(frozen=True)
class Network:
    """A virtual network. `free` are the addresses that it still has; `gateway` and `dns` are what machines get."""

    name: str
    free: int
    gateway: str
    dns: str


@dataclass(frozen=True)
class Store:
    """A datastore. `free` is in MB. `kind` is image, system or file."""

    name: str
    kind: str
    free: int
    safe: str


@dataclass(frozen=True)
class User:
    """The user who asks."""

    id: int
    name: str
    group: str
    admin: bool
    ssh_key: bool


@dataclass(frozen=True)
class Quota:
    """What a quota leaves: `whose` user or group, of what, and how much; -1 is no limit."""

    whose: str
    what: str
    left: float


class Site:
    """An OpenNebula. Methods raise `OneflowerError`; what a user may not see is left out."""

    def __init__(self, cloud: Cloud) -> None:
        self._core = cloud.core
        self._oneflow = cloud.oneflow

    def user(self) -> User:
        """Return the user who asks."""
        found = self._core.read("one.user.info", -1)
        groups = {_text(found, "GID"), *(each.text for each in found.findall("GROUPS/ID"))}
        key = bool(_text(found, "TEMPLATE/SSH_PUBLIC_KEY"))
        return User(int(_text(found, "ID")), _text(found, "NAME"), _text(found, "GNAME"), "0" in groups, key)

    def onegate(self) -> str:
        """Return the address of OneGate that machines get, or an empty text if there is none."""
        return _text(self._core.read("one.system.config"), "ONEGATE_ENDPOINT")

    def encrypted(self) -> set[str]:
        """Return the attributes of VMs that are stored and shown encrypted, such as CONTEXT/PASSWORD."""
        found = self._core.read("one.system.config").findall("VM_ENCRYPTED_ATTR")
        return {(each.text or "").strip().upper() for each in found}

    def hosts(self) -> list[Host]:
        """Return the hosts that the user may see."""
        return [_host(each) for each in self._core.read("one.hostpool.info").findall("HOST")]

    def networks(self) -> list[Network]:
        """Return the networks that the user may use."""
        return [_network(each) for each in self._core.read("one.vnpool.info", *_MINE_AND_USABLE).findall("VNET")]

    def datastores(self) -> list[Store]:
        """Return the datastores that the user may use."""
        kinds = {_IMAGES: "image", _SYSTEM: "system"}
        return [
            Store(
                _text(each, "NAME"),
                kinds.get(int(_text(each, "TYPE") or 2), "file"),
                int(_text(each, "FREE_MB") or 0),
                _text(each, "TEMPLATE/SAFE_DIRS"),
            )
            for each in self._core.read("one.datastorepool.info").findall("DATASTORE")
        ]

    def views(self) -> dict[str, str]:
        """Return Sunstone's views of each group that the user sees, but oneadmin's; empty text where they are usual."""
        groups = self._core.read("one.grouppool.info").findall("GROUP")
        return {
            _text(each, "NAME"): _text(each, "TEMPLATE/FIREEDGE/VIEWS") for each in groups if _text(each, "ID") != "0"
        }

    def quotas(self) -> list[Quota]:
        """Return what the quotas of the user and of the primary group leave for machines."""
        user = self._core.read("one.user.info", -1)
        group = self._core.read("one.group.info", int(_text(user, "GID")))
        left = [*_left(user, "user", "DEFAULT_USER_QUOTAS"), *_left(group, "group", "DEFAULT_GROUP_QUOTAS")]
        return [quota for quota in left if quota.left >= 0]

    def may_create(self) -> dict[str, str]:
        """Return what the user may not create, each with OpenNebula's reason.

        It asks for objects without a name. OpenNebula checks the rights first and then refuses the name.
        """
        stores = self._core.read("one.datastorepool.info").findall("DATASTORE")
        store = next((int(_text(each, "ID")) for each in stores if _text(each, "TYPE") == str(_IMAGES)), None)
        tried = {
            "VM templates": _refusal(lambda: self._core.create_vm_template('NAME=""'), self._core.delete_vm_template),
            "service templates": _refusal(
                lambda: self._oneflow.create_service_template({"name": "", "roles": []}),
                self._oneflow.delete_service_template,
            ),
        }
        if store is not None:
            nameless = 'NAME=""\nTYPE="DATABLOCK"\nSIZE="1"'
            tried["images"] = _refusal(lambda: self._core.create_image(nameless, store), self._core.delete_image)
        return {what: why for what, why in tried.items() if why}


def _refusal(create: Callable[[], int], remove: Callable[[int], None]) -> str:
    """Return why the user may not create an object, or an empty text. One that was made anyway is removed."""
    try:
        made = create()
    except RefusedError as error:
        return error.text if error.forbidden else ""
    remove(made)
    return ""


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _host(element: Element) -> Host:
    features = set(_text(element, "TEMPLATE/KVM_CPU_FEATURES").split(","))
    models = set(_text(element, "TEMPLATE/KVM_CPU_MODELS").split()) | {_text(element, "TEMPLATE/KVM_CPU_MODEL")}
    v2 = features >= _V2 or bool(_MODELS_WITH_V2 & models)
    known = features != {""} or models != {""}
    up = int(_text(element, "STATE") or 0) in _MONITORED
    return Host(_text(element, "NAME"), up, _text(element, "TEMPLATE/HYPERVISOR"), v2 if known else None)


def _network(element: Element) -> Network:
    size = sum(int(_text(each, "SIZE") or 0) for each in element.findall("AR_POOL/AR"))
    used = int(_text(element, "USED_LEASES") or 0)
    template = element.find("TEMPLATE")
    gateway, dns = (
        ("", "")
        if template is None
        else (_text(template, "GATEWAY") or _text(template, "GATEWAY6"), _text(template, "DNS"))
    )
    return Network(_text(element, "NAME"), max(0, size - used), gateway, dns)


def _left(element: Element, whose: str, usual: str) -> list[Quota]:
    found = []
    for what in ("VMS", "CPU", "MEMORY"):
        limit, used = _number(element, f"VM_QUOTA/VM/{what}"), _number(element, f"VM_QUOTA/VM/{what}_USED")
        if limit in (None, _DEFAULT):
            limit = _number(element, f"{usual}/VM_QUOTA/VM/{what}")
        left = -1.0 if limit is None or limit < 0 else max(0.0, limit - (used or 0.0))
        found.append(Quota(f"{whose} {_text(element, 'NAME')}", what, left))
    return found


def _number(element: Element, path: str) -> float | None:
    text = _text(element, path)
    return float(text) if text else None
