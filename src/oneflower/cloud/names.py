"""Names of federations: what a new one may be called, and how any name becomes part of a path."""

from __future__ import annotations

import hashlib
import re

from oneflower_appliance.errors import OneflowerError

LONGEST = 64
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST - 1}}}", re.ASCII)


def check_name(name: str) -> str:
    """Return the name. Raises `OneflowerError` unless a new federation may have it."""
    if not _NAME.fullmatch(name):
        raise OneflowerError(
            f"{name[: LONGEST + 1]!r} cannot be the name of a federation.",
            f"Use letters, digits, '.', '_' and '-', at most {LONGEST} of them, and begin with a letter or a digit.",
        )
    if name.isdigit():
        raise OneflowerError(
            f"{name!r} cannot be the name of a federation: it would be read as the id of a service.",
            "Put a letter into it.",
        )
    return name


def file_name(name: str) -> str:
    """Return the name for use in a path. Services that others created, as in Sunstone, may have any name.

    Names that must be changed for that stay distinct: a digest of the whole name is appended.
    """
    if _NAME.fullmatch(name):
        return name
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:40].strip("_-")
    return f"{readable or 'federation'}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"
