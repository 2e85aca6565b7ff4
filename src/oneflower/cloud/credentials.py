"""Where the cloud is and who we are there, found as OpenNebula's own tools find it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from oneflower_appliance.errors import ExitCode, OneflowerError


@dataclass(frozen=True)
class Endpoints:
    """URLs of OneFlow and of OpenNebula's XML-RPC, and the session string `user:password`."""

    oneflow: str
    xmlrpc: str
    session: str = field(repr=False)

    @property
    def login(self) -> tuple[str, str]:
        """User and password. A password may contain colons."""
        user, _, password = self.session.partition(":")
        return user, password


def opennebula_endpoints() -> Endpoints:
    """Read ONEFLOW_URL, ONE_XMLRPC, ONE_AUTH and ~/.one. Raises `OneflowerError` when there are no credentials."""
    folder = Path.home() / ".one"
    oneflow = _first(os.environ.get("ONEFLOW_URL"), _line(folder / "oneflow_endpoint"), "http://localhost:2474")
    xmlrpc = _first(os.environ.get("ONE_XMLRPC"), _line(folder / "one_endpoint"), "http://localhost:2633/RPC2")
    path = Path(os.environ.get("ONE_AUTH") or folder / "one_auth")
    session = _line(path)
    user, password = os.environ.get("ONEFLOW_USER"), os.environ.get("ONEFLOW_PASSWORD")
    if user and password:
        session = f"{user}:{password}"
    if not session or ":" not in session:
        raise OneflowerError(
            f"No OpenNebula credentials: {path} does not hold a line `user:password`.",
            "Write one there (mode 0600), or name another file in ONE_AUTH.",
            ExitCode.CLOUD,
        )
    return Endpoints(oneflow.rstrip("/"), xmlrpc, session)


def _first(*candidates: str | None) -> str:
    return next(candidate for candidate in candidates if candidate)


def _line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip().splitlines()[0]
    except (OSError, IndexError, UnicodeDecodeError):
        return ""
