"""The network that the context describes (ETHx_*), as files of systemd-networkd, each matched by a MAC address."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NIC = re.compile(r"ETH(\d+)_MAC")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)
_USUAL_MASK, _USUAL_PREFIX = "255.255.255.0", "64"


class _Nic:
    """The variables of one interface or alias, without their prefix."""

    def __init__(self, context: Mapping[str, str], prefix: str) -> None:
        self.prefix = prefix
        self._values = context

    def __getitem__(self, name: str) -> str:
        return self._values.get(f"{self.prefix}_{name}", "").strip()

    def words(self, name: str) -> list[str]:
        return self[name].replace(",", " ").split()


def network_files(context: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the files by name, and a sentence for each thing in the context that is not valid and was left out."""
    files: dict[str, str] = {}
    remarks: list[str] = []
    numbers = sorted(int(match[1]) for key in context if (match := _NIC.fullmatch(key)))
    for number in numbers:
        nic = _Nic(context, f"ETH{number}")
        if not _MAC.fullmatch(nic["MAC"]):
            remarks.append(f"{nic.prefix}_MAC is {nic['MAC']!r}, not a valid MAC address: the interface is left alone.")
        elif nic["METHOD"].lower() != "skip":
            files[f"50-oneflower-eth{number}.network"] = _file(context, nic, remarks, first=number == numbers[0])
    return files, remarks


def _file(context: Mapping[str, str], nic: _Nic, remarks: list[str], *, first: bool) -> str:
    lines = ["[Match]", f"MACAddress={nic['MAC'].lower()}", "", "[Link]"]
    if mtu := nic["MTU"]:
        if mtu.isdigit():
            lines.append(f"MTUBytes={mtu}")
        else:
            remarks.append(f"{nic.prefix}_MTU is {mtu!r}, not a number: the usual MTU stays.")
    lines += ["", "[Network]", *_automatic(nic), *_addresses(context, nic, remarks)]
    servers, domains = nic.words("DNS"), nic.words("SEARCH_DOMAIN")
    if first:
        servers += context.get("DNS", "").replace(",", " ").split()
        domains += context.get("SEARCH_DOMAIN", "").replace(",", " ").split()
    lines += [f"DNS={server}" for server in _valid(servers, f"{nic.prefix}_DNS", remarks)]
    if domains:
        lines.append(f"Domains={' '.join(dict.fromkeys(domains))}")
    return "\n".join([*lines, *_routes(nic, remarks)]) + "\n"


def _automatic(nic: _Nic) -> Iterator[str]:
    """What networkd asks the network for, by METHOD and IP6_METHOD."""
    four, six = nic["METHOD"].lower() == "dhcp", nic["IP6_METHOD"].lower()
    both = four and six == "dhcp"
    yield f"DHCP={'yes' if both else 'ipv4' if four else 'ipv6' if six == 'dhcp' else 'no'}"
    yield f"IPv6AcceptRA={'yes' if six in ('auto', 'dhcp') else 'no'}"
    yield f"LinkLocalAddressing={'no' if six == 'disable' else 'ipv6'}"


def _addresses(context: Mapping[str, str], nic: _Nic, remarks: list[str]) -> Iterator[str]:
    aliases = sorted(int(match[1]) for key in context if (match := re.fullmatch(rf"{nic.prefix}_ALIAS(\d+)_MAC", key)))
    for one in (nic, *(_Nic(context, f"{nic.prefix}_ALIAS{number}") for number in aliases)):
        if one is not nic and (one["EXTERNAL"].upper() == "YES" or one["DETACH"]):
            continue
        if one["IP"] and one["METHOD"].lower() != "dhcp":
            yield from _address(one, "IP", one["MASK"] or _USUAL_MASK, remarks)
        if one["IP6_METHOD"].lower() not in ("disable", "auto", "dhcp"):
            for name in ("IP6", "IP6_ULA"):
                if one[name]:
                    yield from _address(one, name, one["IP6_PREFIX_LENGTH"] or _USUAL_PREFIX, remarks)


def _address(nic: _Nic, name: str, mask: str, remarks: list[str]) -> Iterator[str]:
    try:
        yield f"Address={ipaddress.ip_interface(f'{nic[name]}/{mask}').with_prefixlen}"
    except ValueError:
        remarks.append(f"{nic.prefix}_{name} is {nic[name]!r} with mask {mask!r}, not a valid address: it is left out.")


def _routes(nic: _Nic, remarks: list[str]) -> Iterator[str]:
    for name, metric in (("GATEWAY", "METRIC"), ("IP6_GATEWAY", "IP6_METRIC"), ("GATEWAY6", "IP6_METRIC")):
        six = name != "GATEWAY"
        method = nic["IP6_METHOD" if six else "METHOD"].lower()
        if method in ("dhcp", "auto", "disable") or (name == "GATEWAY6" and nic["IP6_GATEWAY"]):
            continue
        for gateway in _valid(nic.words(name)[:1], f"{nic.prefix}_{name}", remarks):
            # The gateway may be outside the network of the address: then it is on the link anyway.
            yield from ("", "[Route]", f"Gateway={gateway}", "GatewayOnLink=yes")
            if nic[metric].isdigit():
                yield f"Metric={nic[metric]}"
    for route in filter(None, (part.strip() for part in nic["ROUTES"].split(","))):
        target, _, gateway = (word.strip() for word in route.partition(" via "))
        try:
            known = ipaddress.ip_network(target, strict=False), ipaddress.ip_address(gateway)
        except ValueError:
            remarks.append(f"{nic.prefix}_ROUTES has {route!r}, not of the form NETWORK via ADDRESS: it is left out.")
            continue
        yield from ("", "[Route]", f"Destination={known[0]}", f"Gateway={known[1]}")


def _valid(addresses: list[str], name: str, remarks: list[str]) -> Iterator[str]:
    for address in addresses:
        try:
            yield str(ipaddress.ip_address(address))
        except ValueError:
            remarks.append(f"{name} has {address!r}, not a valid address: it is left out.")
