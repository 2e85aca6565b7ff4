"""Makes a virtual machine from template text: the machine's own attributes, the user's, and its CONTEXT."""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any, TypeVar

from oneflower.local.errors import CloudError
from oneflower.local.oned.models import Access, Image, Network, Vm
from oneflower.local.oned.vmtext import resolve_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from oneflower.local.oned.accounts import User

# These describe the machine itself. Every other attribute of its template goes into the user template.
_OF_THE_MACHINE = {"CONTEXT", "CPU", "VCPU", "MEMORY", "CPU_MODEL", "NIC", "NIC_ALIAS", "NIC_DEFAULT", "DISK", "OS",
                   "FEATURES", "GRAPHICS", "VIDEO", "INPUT", "RAW", "PCI", "TOPOLOGY", "NUMA_NODE", "EMULATOR",
                   "BACKUP_CONFIG", "TPM"}  # fmt: skip
# A context has every property that a network can have, even if it is empty.
_ETHERNET = ("DNS", "EXTERNAL", "GATEWAY", "IP", "IP6", "IP6_GATEWAY", "IP6_METHOD", "IP6_METRIC", "IP6_PREFIX_LENGTH",
             "IP6_ULA", "MAC", "MASK", "METHOD", "METRIC", "MTU", "NETWORK", "ROUTES", "SEARCH_DOMAIN", "VLAN_ID",
             "VROUTER_IP", "VROUTER_IP6", "VROUTER_MANAGEMENT")  # fmt: skip

# How the core names an object that it does not find: with its article, its attribute, and where that is.
_OF_NIC, _OF_DISK = ("a network", "NETWORK", "NIC"), ("an image", "IMAGE", "DISK")
Thing = TypeVar("Thing", Image, Network)


@dataclass(frozen=True)
class Subnet:
    """The network of a NIC, as a context describes it."""

    network: str
    mask: str
    gateway: str = ""


LOOPBACK = Subnet("127.0.0.0", "255.0.0.0")


@dataclass(frozen=True)
class Place:
    """Where a VM will be: its id, the addresses for its NICs (at least one), its OneGate, the time."""

    number: int
    addresses: tuple[str, ...]
    onegate: str
    now: int
    subnet: Subnet = LOOPBACK


def merge_extra(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `extra` over a VM template: attributes of the same name are replaced. Names become upper case."""
    return {**base, **extra}


def nics_of(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the NICs that a template asks for; a machine here always has one."""
    return devices_of(attributes, "NIC") or [{}]


def new_vm(attributes: Mapping[str, Any], name: str, place: Place, access: Access, user: Mapping[str, Any]) -> Vm:
    """Return a VM called `name` with `attributes`; `user` are those of its owner. Raises `CloudError`."""
    mine = {key: value for key, value in attributes.items() if key in _OF_THE_MACHINE}
    theirs = {key: value for key, value in attributes.items() if key not in _OF_THE_MACHINE and key != "NAME"}
    nics = [
        {"NETWORK": "loopback", "NETWORK_ID": "0", **nic, "IP": ip, "MAC": mac(place.number, index),
         "NAME": f"NIC{index}", "NIC_ID": str(index)}
        for index, (nic, ip) in enumerate(zip(nics_of(attributes), place.addresses, strict=True))
    ]  # fmt: skip
    template: dict[str, Any] = {
        **mine, "NIC": nics if len(nics) > 1 else nics[0], "VMID": str(place.number),
        "CREATED_BY": str(access.uid),
    }  # fmt: skip
    context = attributes.get("CONTEXT")
    if isinstance(context, dict):
        known = {**theirs, **template, "NAME": name, **access.owner()}
        template["CONTEXT"] = _context(context, known, nics, place, user)
    service = theirs.get("SERVICE_ID", "")
    number = int(service) if service.isdigit() else None
    return Vm(place.number, name, template, theirs, place.now, number, place.addresses[0], access=access)


def finder(known: Mapping[str, Any], user: Mapping[str, Any]) -> Callable[[str, str, str, str], str]:
    """Return what finds the value of a `$NAME` or `$NAME[ATTRIBUTE, KEY=value]` of a VM; `user` are its owner's."""

    def find(name: str, attribute: str, key: str, value: str) -> str:
        if not attribute:
            found = known.get(name, "")
            return found if isinstance(found, str) else ""
        if name == "USER":
            return str(user.get(attribute.upper(), ""))
        vectors = known.get(name)
        for vector in vectors if isinstance(vectors, list) else [vectors]:
            if isinstance(vector, dict) and (not key or vector.get(key.upper()) == value.strip('"')):
                return str(vector.get(attribute.upper(), ""))
        return ""

    return find


def _context(
    context: Mapping[str, Any],
    known: Mapping[str, Any],
    nics: list[dict[str, Any]],
    place: Place,
    user: Mapping[str, Any],
) -> dict[str, str]:
    resolved = resolve_context(context, finder(known, user))
    if resolved.get("NETWORK", "").upper() == "YES":
        for index, nic in enumerate(nics):
            subnet = {"MASK": place.subnet.mask, "NETWORK": place.subnet.network, "GATEWAY": place.subnet.gateway}
            values = {"IP": nic["IP"], "MAC": nic["MAC"], **subnet}
            resolved |= {f"ETH{index}_{key}": values.get(key, "") for key in _ETHERNET}
    if resolved.get("TOKEN", "").upper() == "YES":
        resolved |= {"VMID": str(place.number), "ONEGATE_ENDPOINT": place.onegate}
    return {"DISK_ID": str(len(disks_of(known)) or 1), "TARGET": _cd(known), **resolved}


def _cd(template: Mapping[str, Any]) -> str:
    """Return the target of the CD with the context: the first that is free."""
    used = [disk.get("TARGET") for disk in disks_of(template)]
    return next(name for letter in ascii_lowercase if (name := f"hd{letter}") not in used)


def mac(number: int, index: int = 0) -> str:
    """Return a hardware address for a VM's NIC."""
    return f"02:{index:02x}:" + ":".join(f"{byte:02x}" for byte in number.to_bytes(4, "big"))


def networks_of(
    attributes: Mapping[str, Any], networks: Mapping[int, Network], user: User
) -> list[Network | CloudError]:
    """Return the networks that NICs name, by id or by name; an error in place of one that does not exist."""
    found: list[Network | CloudError] = []
    for nic in nics_of(attributes):
        name, number = nic.get("NETWORK"), nic.get("NETWORK_ID")
        if number is not None:
            there = str(number).isdigit() and int(number) in networks
            missing = CloudError(500, f"Error getting virtual network [{number}].")
            found.append(networks[int(number)] if there else missing)
        elif name is not None:
            found.append(_named(name, _owner(nic, "NETWORK", user), networks.values(), _OF_NIC))
    return found


def images_of(attributes: Mapping[str, Any], images: Mapping[int, Image], user: User) -> list[Image | CloudError]:
    """Return the images that disks name, by id or by name; an error in place of a name that does not exist.

    An id that does not exist is ignored: a machine that is a process has no disks.
    """
    found: list[Image | CloudError] = []
    for disk in disks_of(attributes):
        name, number = disk.get("IMAGE"), disk.get("IMAGE_ID")
        if number is not None and str(number).isdigit() and int(number) in images:
            found.append(images[int(number)])
        elif number is None and name is not None:
            found.append(_named(name, _owner(disk, "IMAGE", user), images.values(), _OF_DISK))
    return found


def disks_of(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the disks of a VM or of a VM template."""
    return devices_of(attributes, "DISK")


def devices_of(attributes: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """Return the vectors of one name, DISK or NIC, of a VM or of a VM template: none, one or several."""
    found = attributes.get(kind) or []
    return [device for device in (found if isinstance(found, list) else [found]) if isinstance(device, dict)]


def _owner(vector: Mapping[str, Any], what: str, user: User) -> str:
    """Return the owner that a vector names, by user id or by user name."""
    return str(vector.get(f"{what}_UID") or vector.get(f"{what}_UNAME") or user.id)


def _named(name: str, owner: str, things: Iterable[Thing], words: tuple[str, str, str]) -> Thing | CloudError:
    for thing in things:
        if thing.name == name and owner in (str(thing.access.uid), thing.access.uname):
            return thing
    word, what, where = words
    return CloudError(
        500, f"User {owner} does not own {word} with name: {name} . Set {what}_UNAME or {what}_UID of owner in {where}."
    )
