"""Who a machine is, and who may log in: its name, and the keys of root."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance.files import SHARED, private_directory, write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEYS = ("SSH_PUBLIC_KEY", "EC2_PUBLIC_KEY")
_LONGEST = 63
_HOSTS = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"


def host_name(context: Mapping[str, str]) -> str:
    """Return the name that the context gives this machine, without what a name may not have; empty if it gives none."""
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", context.get("SET_HOSTNAME", "").strip())
    labels = (label.strip("-")[:_LONGEST].strip("-") for label in name.split("."))
    return ".".join(label for label in labels if label).lower()


def set_host_name(name: str, root: Path = Path("/")) -> None:
    """Give this machine a name."""
    write_atomic(root / "etc/hostname", name + "\n", SHARED)
    short = name.partition(".")[0]
    write_atomic(root / "etc/hosts", f"{_HOSTS}127.0.1.1 {' '.join(dict.fromkeys((name, short)))}\n", SHARED)
    if root == Path("/"):
        socket.sethostname(name)


def keys(context: Mapping[str, str]) -> list[str]:
    """Return the public keys that the context allows to log in."""
    lines = (line.strip() for name in _KEYS for line in context.get(name, "").splitlines())
    return list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


def authorize(wanted: list[str], home: Path = Path("/root")) -> int:
    """Allow these keys to log in as root, beside those that already may. Returns how many are new."""
    path = private_directory(home / ".ssh") / "authorized_keys"
    present = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    new = [key for key in wanted if key not in present]
    if new:
        write_atomic(path, "\n".join([*present, *new]) + "\n")
    return len(new)
