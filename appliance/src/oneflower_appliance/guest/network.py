"""The network that the context describes (ETHx_*), as files of systemd-networkd, each matched by a MAC address."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NIC = re.compile(r"ETH(\d+)_MAC")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)
_USUAL_MASK, _USUAL_PREFIX = "255.255.255.0", "64"
_METHODS = {"METHOD": ("static", "dhcp", "skip"), "IP6_METHOD": ("static", "dhcp", "auto", "disable", "skip")}
_LINK_LOCAL = ipaddress.ip_network("169.254.0.0/16")


class _Nic:
    """The variables of one interface or alias, without their prefix."""

    def __init__(self, context: Mapping[str, str], prefix: str) -> None:
        self.prefix = prefix
        self._values = context

    def __getitem__(self, name: str) -> str:
        return self._values.get(f"{self.prefix}_{name}", "").strip()

    def words(self, name: str) -> list[str]:
        return self[name].replace(",", " ").split()

    @property
    def four(self) -> str:
        """How it gets its IPv4 address."""
        return self["METHOD"].lower() or "static"

    @property
    def six(self) -> str:
        """How it gets its IPv6 addresses: as those of IPv4, unless the context says otherwise."""
        return self["IP6_METHOD"].lower() or self.four


def network_files(context: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the files by name, and a sentence for each thing in the context that is not valid and was left out."""
    nics: list[_Nic] = []
    remarks: list[str] = []
    for number in sorted(int(match[1]) for key in context if (match := _NIC.fullmatch(key))):
        nic = _Nic(context, f"ETH{number}")
        if not _MAC.fullmatch(nic["MAC"]):
            remarks.append(f"{nic.prefix}_MAC is {nic['MAC']!r}, not a valid MAC address: the interface is left alone.")
        elif unknown := [name for name, known in _METHODS.items() if nic[name].lower() not in ("", *known)]:
            remarks += [
                f"{nic.prefix}_{name} is {nic[name]!r}, not one of {', '.join(_METHODS[name])}: the interface is left "
                "alone."
                for name in unknown
            ]
        elif (nic.four, nic.six) != ("skip", "skip"):
            nics.append(nic)
    files = {
        f"50-oneflower-{nic.prefix.lower()}.network": _file(context, nic, remarks, first=nic is nics[0]) for nic in nics
    }
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
    if nic.six == "auto":
        lines += ["", "[IPv6AcceptRA]", "DHCPv6Client=no"]
    proxy = _onegate_proxy(context) if first else []
    return "\n".join([*lines, *_routes(nic, remarks), *proxy]) + "\n"


def _automatic(nic: _Nic) -> Iterator[str]:
    """What networkd asks the network for, by METHOD and IP6_METHOD."""
    four, six = nic.four == "dhcp", nic.six == "dhcp"
    yield f"DHCP={'yes' if four and six else 'ipv4' if four else 'ipv6' if six else 'no'}"
    yield f"IPv6AcceptRA={'yes' if nic.six in ('auto', 'dhcp') else 'no'}"
    yield f"LinkLocalAddressing={'no' if nic.six == 'disable' else 'ipv6'}"


def _addresses(context: Mapping[str, str], nic: _Nic, remarks: list[str]) -> Iterator[str]:
    if nic.four == "static" and nic["IP"]:
        yield from _address(nic, "IP", nic["MASK"] or _USUAL_MASK, remarks)
    if nic.six == "static":
        yield from _addresses_6(nic, remarks)
    aliases = sorted(int(match[1]) for key in context if (match := re.fullmatch(rf"{nic.prefix}_ALIAS(\d+)_MAC", key)))
    for alias in (_Nic(context, f"{nic.prefix}_ALIAS{number}") for number in aliases):
        if alias["EXTERNAL"].upper() == "YES" or alias["DETACH"]:
            continue
        if alias["IP"]:
            yield from _address(alias, "IP", alias["MASK"] or _USUAL_MASK, remarks)
        yield from _addresses_6(alias, remarks)


def _addresses_6(nic: _Nic, remarks: list[str]) -> Iterator[str]:
    if nic["IP6"]:
        yield from _address(nic, "IP6", nic["IP6_PREFIX_LENGTH"] or _USUAL_PREFIX, remarks)
    if nic["IP6_ULA"]:
        yield from _address(nic, "IP6_ULA", _USUAL_PREFIX, remarks)


def _address(nic: _Nic, name: str, mask: str, remarks: list[str]) -> Iterator[str]:
    try:
        yield f"Address={ipaddress.ip_interface(f'{nic[name]}/{mask}').with_prefixlen}"
    except ValueError:
        remarks.append(f"{nic.prefix}_{name} is {nic[name]!r} with mask {mask!r}, not a valid address: it is left out.")


def _routes(nic: _Nic, remarks: list[str]) -> Iterator[str]:
    six = "IP6_GATEWAY" if nic["IP6_GATEWAY"] else "GATEWAY6"
    for name, method, metric in (
        ("GATEWAY", nic.four, nic["METRIC"]),
        (six, nic.six, nic["IP6_METRIC"] or nic["METRIC"]),
    ):
        if method != "static":
            continue
        for gateway in _valid(nic.words(name)[:1], f"{nic.prefix}_{name}", remarks):
            # The gateway may be outside the network of the address: then it is on the link anyway.
            yield from ("", "[Route]", f"Gateway={gateway}", "GatewayOnLink=yes")
            if metric.isdigit():
                yield f"Metric={metric}"
    for route in filter(None, (part.strip() for part in nic["ROUTES"].split(","))):
        target, _, gateway = (word.strip() for word in route.partition(" via "))
        try:
            known = ipaddress.ip_network(target, strict=False), ipaddress.ip_address(gateway)
        except ValueError:
            remarks.append(f"{nic.prefix}_ROUTES has {route!r}, not of the form NETWORK via ADDRESS: it is left out.")
            continue
        yield from ("", "[Route]", f"Destination={known[0]}", f"Gateway={known[1]}")


def _onegate_proxy(context: Mapping[str, str]) -> list[str]:
    """Return the route to OpenNebula's OneGate proxy, which listens on each host at a link-local address."""
    host = urllib.parse.urlsplit(context.get("ONEGATE_ENDPOINT", "")).hostname or ""
    try:
        if ipaddress.ip_address(host) not in _LINK_LOCAL:
            return []
    except ValueError:  # a name
        return []
    return ["", "[Route]", f"Destination={host}", "Scope=link"]


def _valid(addresses: list[str], name: str, remarks: list[str]) -> Iterator[str]:
    for address in addresses:
        try:
            yield str(ipaddress.ip_address(address))
        except ValueError:
            remarks.append(f"{name} has {address!r}, not a valid address: it is left out.")
