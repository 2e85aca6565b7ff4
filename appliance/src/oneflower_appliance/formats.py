"""The formats of variables: addresses, names in a certificate, node configs, certificates and keys."""

from __future__ import annotations

import base64
import ipaddress
import re


def split_address(address: str) -> tuple[str, int]:
    """Split `host:port` (IPv6 hosts in brackets). Raises `ValueError`."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not re.fullmatch(r"\d{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError(address)
    bare = host.removeprefix("[").removesuffix("]")
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", bare):
        ipaddress.ip_address(bare)
    return bare, int(port)


def split_names(names: str) -> list[tuple[str, str]]:
    """Split `IP:10.0.0.1,DNS:example.org` into (type, name) pairs. Raises `ValueError`."""
    pairs = []
    for item in filter(None, (part.strip() for part in names.split(","))):
        kind, _, name = item.partition(":")
        if kind == "IP":
            ipaddress.ip_address(name)
        elif kind != "DNS" or not re.fullmatch(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?", name):
            raise ValueError(item)
        pairs.append((kind, name))
    return pairs


_NODE_CONFIG_PAIR = re.compile(r"""\s*([A-Za-z_][A-Za-z0-9_.-]*)=("[^"]*"|'[^']*'|[^\s"']+)(?=\s|\Z)""")


def split_node_config(config: str) -> dict[str, str]:
    """Split space-separated `key=value` pairs. Values with spaces keep their quotes. Raises `ValueError`."""
    pairs: dict[str, str] = {}
    position = 0
    while config[position:].strip():
        match = _NODE_CONFIG_PAIR.match(config, position)
        if match is None or match[1] in pairs:
            raise ValueError(config)
        pairs[match[1]] = match[2]
        position = match.end()
    for key in ("partition-id", "num-partitions"):
        if key in pairs and not pairs[key].isdigit():
            raise ValueError(key)
    if "partition-id" in pairs and int(pairs["partition-id"]) >= int(pairs.get("num-partitions", 2**63)):
        raise ValueError(config)
    return pairs


_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def read_duration(text: str) -> float:
    """Return how many seconds a text such as `30s`, `10m`, `12h` or `7d` means. Raises `ValueError`."""
    if found := _DURATION.fullmatch(text.strip()):
        return float(found[1]) * _UNITS[found[2]]
    raise ValueError(text)


def read_quorum(text: str) -> tuple[float, int]:
    """Return a share of nodes and a number of nodes, of which one is 0: `0.5` is a share, `2` a number.

    Raises `ValueError`.
    """
    if re.fullmatch(r"[1-9]\d*", text):
        return 0.0, int(text)
    if re.fullmatch(r"0?\.\d+|1\.0+", text) and float(text) > 0:
        return float(text), 0
    raise ValueError(text)


def split_networks(networks: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Split a comma-separated list of addresses and networks (10.0.0.0/24). Raises `ValueError`."""
    return [ipaddress.ip_network(item) for item in filter(None, (part.strip() for part in networks.split(",")))]


def join_address(address: tuple[str, int]) -> str:
    """Return (host, port) as it is written in a URL."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(address: str) -> bool:
    """Whether the host of `host:port` is this machine's loopback."""
    try:
        host, _ = split_address(address)
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def encode_pem(text: str) -> str:
    """Return a PEM, which may be base64 already, as base64 in one line: what a CONTEXT section takes unchanged."""
    return base64.b64encode(read_pem(text)).decode()


def read_pem(text: str) -> bytes:
    """Return the PEM from a value that is either PEM or base64, with or without line breaks. Raises `ValueError`.

    Forms and tools differ in what they send: Sunstone sends the text that was pasted, others encode it.
    """
    if "-----BEGIN " in text:
        return text.strip().encode() + b"\n"
    return base64.b64decode("".join(text.split()), validate=True)
