"""Names of federations: what a new one may be called, which one is meant, and how a name becomes part of a path."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Protocol, TypeVar

from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Sequence

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


class Named(Protocol):
    """Something with an id and a name."""

    @property
    def id(self) -> int:
        """Its id."""

    @property
    def name(self) -> str:
        """Its name, which others may have, too."""


One = TypeVar("One", bound=Named)


def choose(known: Sequence[One], name: str | None) -> One:
    """Return the one of the known federations with this name or id; None stands for the only one.

    Raises `OneflowerError`.
    """
    if name is None:
        if len(known) == 1:
            return known[0]
        choice = ", ".join(sorted(federation.name for federation in known))
        raise OneflowerError(
            "Which federation? There are several." if known else "There is no federation.",
            f"Name one of: {choice}." if known else "Deploy one with `oneflower up`.",
            ExitCode.USAGE if known else ExitCode.NOT_FOUND,
        )
    found = [one for one in known if str(one.id) == name] or [one for one in known if one.name == name]
    if len(found) == 1:
        return found[0]
    if found:
        ids = [str(number) for number in sorted(one.id for one in found)]
        raise OneflowerError(
            f"There are {len(found)} federations called {name!r}: services {', '.join(ids)}.",
            f"Name one by its id, such as {ids[-1]}.",
            ExitCode.USAGE,
        )
    raise OneflowerError(
        f"There is no federation called {name!r}.", "`oneflower ls` shows those there are.", ExitCode.NOT_FOUND
    )


def file_name(name: str) -> str:
    """Return the name for use in a path. Services that others created, as in Sunstone, may have any name.

    Names that must be changed for that stay distinct: a digest of the whole name is appended.
    """
    if _NAME.fullmatch(name):
        return name
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:40].strip("_-")
    return f"{readable or 'federation'}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"
