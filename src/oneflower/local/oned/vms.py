"""Makes a virtual machine from template text: the machine's own attributes, the user's, and its CONTEXT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oneflower.local.errors import CloudError
from oneflower.local.oned.models import Vm
from oneflower.local.oned.vmtext import resolve_context

if TYPE_CHECKING:
    from collections.abc import Mapping

# These describe the machine itself. Every other attribute of its template goes into the user template.
_OF_THE_MACHINE = {"CONTEXT", "CPU", "VCPU", "MEMORY", "CPU_MODEL", "NIC", "NIC_ALIAS", "NIC_DEFAULT", "DISK", "OS",
                   "FEATURES", "GRAPHICS", "VIDEO", "INPUT", "RAW", "PCI", "TOPOLOGY", "NUMA_NODE", "EMULATOR",
                   "BACKUP_CONFIG", "TPM"}  # fmt: skip
# A context has every property that a network can have, even if it is empty.
_ETHERNET = ("DNS", "EXTERNAL", "GATEWAY", "IP", "IP6", "IP6_GATEWAY", "IP6_METHOD", "IP6_METRIC", "IP6_PREFIX_LENGTH",
             "IP6_ULA", "MAC", "MASK", "METHOD", "METRIC", "MTU", "NETWORK", "ROUTES", "SEARCH_DOMAIN", "VLAN_ID",
             "VROUTER_IP", "VROUTER_IP6", "VROUTER_MANAGEMENT")  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a VM will be: its id, the addresses for its NICs (at least one), its OneGate, the time."""

    number: int
    addresses: tuple[str, ...]
    onegate: str
    now: int


def merge_extra(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `extra` over a VM template: attributes of the same name are replaced. Names become upper case."""
    return {**base, **extra}


def nics_of(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the NICs that a template asks for; a machine here always has one."""
    found = attributes.get("NIC") or [{}]
    return [nic for nic in (found if isinstance(found, list) else [found]) if isinstance(nic, dict)] or [{}]


def new_vm(attributes: Mapping[str, Any], name: str, place: Place, user: Mapping[str, str]) -> Vm:
    """Return a VM called `name` with `attributes`; `user` are those of its user. Raises `CloudError`."""
    mine = {key: value for key, value in attributes.items() if key in _OF_THE_MACHINE}
    theirs = {key: value for key, value in attributes.items() if key not in _OF_THE_MACHINE and key != "NAME"}
    nics = [
        {"NETWORK": "loopback", "NETWORK_ID": "0", **nic, "IP": ip, "MAC": mac(place.number, index),
         "NAME": f"NIC{index}", "NIC_ID": str(index)}
        for index, (nic, ip) in enumerate(zip(nics_of(attributes), place.addresses, strict=True))
    ]  # fmt: skip
    template: dict[str, Any] = {
        **mine, "NIC": nics if len(nics) > 1 else nics[0], "VMID": str(place.number), "CREATED_BY": "0",
    }  # fmt: skip
    context = attributes.get("CONTEXT")
    if isinstance(context, dict):
        known = {**theirs, **template, "NAME": name, "UNAME": "oneadmin", "GNAME": "oneadmin", "UID": "0", "GID": "0"}
        template["CONTEXT"] = _context(context, known, nics, place, user)
    service = theirs.get("SERVICE_ID", "")
    return Vm(
        place.number, name, template, theirs, place.now, int(service) if service.isdigit() else None, place.addresses[0]
    )


def _context(
    context: Mapping[str, Any],
    known: Mapping[str, Any],
    nics: list[dict[str, Any]],
    place: Place,
    user: Mapping[str, str],
) -> dict[str, str]:
    def find(name: str, attribute: str, key: str, value: str) -> str:
        if not attribute:
            found = known.get(name, "")
            return found if isinstance(found, str) else ""
        if name == "USER":
            return user.get(attribute.upper(), "")
        vectors = known.get(name)
        for vector in vectors if isinstance(vectors, list) else [vectors]:
            if isinstance(vector, dict) and (not key or vector.get(key.upper()) == value.strip('"')):
                return str(vector.get(attribute.upper(), ""))
        return ""

    resolved = resolve_context(context, find)
    if resolved.get("NETWORK", "").upper() == "YES":
        for index, nic in enumerate(nics):
            values = {"IP": nic["IP"], "MAC": nic["MAC"], "MASK": "255.0.0.0", "NETWORK": "127.0.0.0"}
            resolved |= {f"ETH{index}_{key}": values.get(key, "") for key in _ETHERNET}
    if resolved.get("TOKEN", "").upper() == "YES":
        resolved |= {"VMID": str(place.number), "ONEGATE_ENDPOINT": place.onegate}
    return {"DISK_ID": "1", "TARGET": "hda", **resolved}


def mac(number: int, index: int = 0) -> str:
    """Return a hardware address for a VM's NIC."""
    return f"02:{index:02x}:" + ":".join(f"{byte:02x}" for byte in number.to_bytes(4, "big"))


def check_network(nic: Mapping[str, Any], networks: Mapping[int, str]) -> None:
    """Raise `CloudError` unless the network that a NIC names exists."""
    name, number = nic.get("NETWORK"), nic.get("NETWORK_ID")
    if number is not None and (not str(number).isdigit() or int(number) not in networks):
        raise CloudError(500, f"Error getting virtual network [{number}].")
    if number is None and name is not None and name not in networks.values():
        raise CloudError(
            500, f"User 0 does not own a network with name: {name} . Set NETWORK_UNAME or NETWORK_UID of owner in NIC."
        )
