"""The GPU of a machine, as an operator writes it and as OpenNebula's attribute PCI, and the traps in that attribute.

OpenNebula gives a VM any free device with a vendor, device and class, or the one device at an address. It ignores the
address where there is one of the three (HostSharePCI.cc). A vGPU, and a MIG instance as a vGPU, has a profile, too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from oneflower.opennebula.linted import mapping
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.roles import NODES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from oneflower.opennebula.linted import Template

_TRIPLE = ("VENDOR", "DEVICE", "CLASS")
_BY_KIND = re.compile(r"([0-9a-f]{4}):([0-9a-f]{4})(?::([0-9a-f]{4}))?", re.IGNORECASE)
_ADDRESS = re.compile(r"[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", re.IGNORECASE)
_PROFILE = re.compile(r"(nvidia-)?\d+")
_LIST = "`onehost show -j` lists them."
Found = tuple[str, str, str]


def is_address(device: str) -> bool:
    """Whether a GPU is one device of one host, so that one machine at a time can have it."""
    return bool(_ADDRESS.fullmatch(device.partition("/")[0]))


def pci_of(device: str) -> dict[str, str]:
    """Return the attribute PCI for a GPU as an operator writes it. Raises `OneflowerError` if it is not valid."""
    where, slash, profile = device.partition("/")
    if slash and not _PROFILE.fullmatch(profile):
        raise OneflowerError(
            f"{profile!r} is not a valid profile of a vGPU.",
            "Give the number of one in PROFILES: 10de:2236:0302/588. " + _LIST,
        )
    more = {"PROFILE": profile} if profile else {}
    if is_address(where):
        return {"SHORT_ADDRESS": where.lower()} | more
    if match := _BY_KIND.fullmatch(where):
        return {name: value.lower() for name, value in zip(_TRIPLE, match.groups(), strict=True) if value} | more
    raise OneflowerError(
        f"{device!r} is not a valid PCI device.",
        "Give VENDOR:DEVICE or VENDOR:DEVICE:CLASS in hexadecimal (10de:2331:0302), or an address (41:00.0), and for "
        "a vGPU its profile (10de:2236:0302/588). " + _LIST,
    )


def gpu_of(pci: object) -> str:
    """Return the GPU in an attribute PCI, as an operator would write it; an empty text if there is none, or several."""
    if not isinstance(pci, dict):
        return ""
    device = str(pci.get("SHORT_ADDRESS") or ":".join(pci[key] for key in _TRIPLE if pci.get(key)))
    return f"{device}/{pci['PROFILE']}" if device and pci.get("PROFILE") else device


def traps(template: Mapping[str, Any]) -> Iterator[Found]:
    """Yield what is wrong with the GPUs of a VM template."""
    found = template.get("PCI") or []
    devices = [mapping(each) for each in (found if isinstance(found, list) else [found])]
    role = mapping(template.get("CONTEXT")).get("ONEFLOWER_ROLE", NODES)
    if devices and role != NODES:
        yield "PCI", f"A {role} trains nothing, and holds a GPU that a SuperNode could use.", "Remove it here."
    for device in devices:
        yield from _wrong(device)


def _wrong(device: Mapping[str, Any]) -> Iterator[Found]:
    named = [name for name in _TRIPLE if device.get(name)]
    address = str(device.get("SHORT_ADDRESS", ""))
    if address and named:
        yield "PCI", f"OpenNebula ignores SHORT_ADDRESS where there is {', '.join(named)}.", "Keep one way of the two."
    elif not address and not named:
        yield "PCI", "It names no device: OpenNebula finds no host for the VM.", "Give VENDOR, DEVICE and CLASS."
    for name in named:
        if not re.fullmatch(r"[0-9a-fA-F]{1,4}", str(device[name])):
            yield f"PCI, {name}", f"{device[name]!r} is not hexadecimal, so no device has it.", _LIST
    if address and not _ADDRESS.fullmatch(address):
        yield "PCI, SHORT_ADDRESS", f"{address!r} is not like 41:00.0, so no device is there.", _LIST
    profile = str(device.get("PROFILE", ""))
    if profile and not _PROFILE.fullmatch(profile):
        yield "PCI, PROFILE", f"{profile!r} is not the number of a profile.", _LIST


def _in_a_role(template: Template) -> Iterator[Found]:
    for role in template.roles:
        if "PCI" in role.contents or re.search(r"^\s*PCI\s*=", role.text, re.MULTILINE):
            yield (
                f"{role.where}, PCI",
                "Only administrators may set PCI: what a tenant deploys from this template is refused.",
                "Put it into the VM template: `oneflower register --gpu 10de:2331:0302`.",
            )


RULES = {"pci-in-role": _in_a_role}
