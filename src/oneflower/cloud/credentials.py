"""The cloud's endpoints and our credentials, found the same way as OpenNebula's own tools find them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from oneflower_appliance.errors import ExitCode, OneflowerError

_SYSTEM = Path("/var/lib/one/.one")


@dataclass(frozen=True)
class Endpoints:
    """URLs of OneFlow and of OpenNebula's XML-RPC, and the session string `user:password`.

    `direct` endpoints are on this machine and are reached without a proxy.
    """

    oneflow: str
    xmlrpc: str
    session: str = field(repr=False)
    direct: bool = False

    @property
    def login(self) -> tuple[str, str]:
        """User and password. A password may contain colons."""
        user, _, password = self.session.partition(":")
        return user, password


def opennebula_endpoints() -> Endpoints:
    """Read the environment, ~/.one and the administrator's folder. Raises `OneflowerError` without credentials."""
    folders = (Path.home() / ".one", _SYSTEM)
    oneflow = _first(os.environ.get("ONEFLOW_URL"), *(_line(f / "oneflow_endpoint") for f in folders))
    xmlrpc = _first(os.environ.get("ONE_XMLRPC"), *(_line(f / "one_endpoint") for f in folders))
    user, password, named = (os.environ.get(name) for name in ("ONEFLOW_USER", "ONEFLOW_PASSWORD", "ONE_AUTH"))
    files = [Path(named).expanduser()] if named else [folder / "one_auth" for folder in folders]
    session = f"{user}:{password}" if user and password else _first(*map(_line, files))
    if ":" not in session.strip(":"):
        raise OneflowerError(
            f"No OpenNebula credentials: {files[0]} has no line `user:password`.",
            "Write one there (mode 0600), or name another file in ONE_AUTH.",
            ExitCode.CLOUD,
        )
    oneflow, xmlrpc = oneflow or "http://localhost:2474", xmlrpc or "http://localhost:2633/RPC2"
    for variable, url in (("ONEFLOW_URL", oneflow), ("ONE_XMLRPC", xmlrpc)):
        if not url.startswith(("http://", "https://")):
            raise OneflowerError(
                f"{variable} is {url!r}, which is not a URL.", "A URL begins with http:// or https://."
            )
    return Endpoints(oneflow.rstrip("/"), xmlrpc, session)


def _first(*candidates: str | None) -> str:
    return next((candidate for candidate in candidates if candidate), "")


def _line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip().splitlines()[0]
    except (OSError, IndexError, UnicodeDecodeError):
        return ""
