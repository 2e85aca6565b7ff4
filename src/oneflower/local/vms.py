"""How a virtual machine follows from its template, its role and the answers in the form."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oneflower.local.models import Document, Vm
from oneflower.local.vmtext import resolve_context

if TYPE_CHECKING:
    from collections.abc import Mapping

# What describes the machine itself; every other attribute of its template lands in the user template.
_OF_THE_MACHINE = {"CPU", "VCPU", "MEMORY", "CPU_MODEL", "HYPERVISOR", "CONTEXT", "NIC", "DISK", "OS", "FEATURES",
                   "GRAPHICS", "NAME", "DESCRIPTION"}  # fmt: skip


def inject_inputs(role: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Write user inputs into a role's template_contents, and a reference to each into CONTEXT. Source: service.rb."""
    if values:
        contents = role.setdefault("template_contents", {})
        contents.update({key: _text(value) for key, value in values.items()})
        contents.setdefault("CONTEXT", {}).update({key: f"${key}" for key in values})


@dataclass(frozen=True)
class Place:
    """Where a VM will be: its id, its address, and the OneGate it will know."""

    number: int
    ip: str
    onegate: str


def new_vm(service: Document, role: dict[str, Any], base: dict[str, Any], place: Place) -> Vm:
    """Return a VM of a role: template `base` with the role's contents over it, CONTEXT resolved."""
    merged = _over(base, role.get("template_contents") or {})
    name = f"{role['name']}_{role['last_vmname']}_(service_{service.id})"
    user = {key: value for key, value in merged.items() if key not in _OF_THE_MACHINE and isinstance(value, str)}
    user |= {"SERVICE_ID": str(service.id), "ROLE_NAME": role["name"]}
    context = resolve_context(merged.get("CONTEXT") or {}, {**merged, **user, "NAME": name})
    nic = {"IP": place.ip, "MAC": _mac(place.number), "NAME": "NIC0", "NETWORK": "loopback"}
    if context.get("NETWORK") == "YES":
        context |= {"ETH0_IP": place.ip, "ETH0_MASK": "255.0.0.0", "ETH0_MAC": nic["MAC"]}
    if context.get("TOKEN") == "YES":
        context |= {"VMID": str(place.number), "ONEGATE_ENDPOINT": place.onegate}
    template = {"CONTEXT": context, "NIC": nic}
    return Vm(place.number, name, service.id, template, user, secrets.token_urlsafe(24), place.ip)


def _over(base: dict[str, Any], contents: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in contents.items():
        mine = merged.get(key)
        merged[key] = _over(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return merged


def _text(value: Any) -> str:
    """Return a value as Ruby's to_s does: nil is empty, booleans are lower-case."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _mac(number: int) -> str:
    return "02:00:" + ":".join(f"{byte:02x}" for byte in number.to_bytes(4, "big"))
