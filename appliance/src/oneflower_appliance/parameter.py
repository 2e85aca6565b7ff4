"""What a variable of a federation is: its level, what it holds, and how its value is read and checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from oneflower_appliance.formats import read_pem
from oneflower_appliance.roles import COORDINATOR, NODES

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower_appliance.form import Field

Value = str | int | float | bool


class Level(StrEnum):
    """Where the service template asks for a variable."""

    SERVICE = "service"
    SUPERLINK = COORDINATOR
    SUPERNODE = NODES


class Kind(StrEnum):
    """What a variable holds: the types of OpenNebula's user inputs that are used here, and PEM.

    OpenNebula has text64 for values like PEM, but its tools disagree about it: Sunstone does not encode it, and
    `oneflow-template instantiate` may stop at the first one. So the form asks for a PEM as text, and accepts it raw or
    as base64.
    """

    TEXT = "text"
    PEM = "PEM"
    BOOLEAN = "boolean"
    NUMBER = "number"
    FLOAT = "number-float"
    LIST = "list"


@dataclass(frozen=True)
class Parameter:
    """One context variable.

    `expects` completes the sentence "NAME is 'x': expected ...". `check` takes the typed value and says whether it is
    acceptable. `key` is its name in the run config of a Flower app. `only` names another variable and the values of
    that variable for which this one has an effect. `field` is its place in the form, None if the form does not ask for
    it. A `secret` must reach the machine that needs it and no other.
    """

    name: str
    level: Level
    kind: Kind
    default: str
    meaning: str
    expects: str
    options: tuple[str, ...] = ()
    check: Callable[[Value], bool] | None = None
    key: str = ""
    only: tuple[str, tuple[str, ...]] | None = None
    field: Field | None = None
    secret: bool = False

    def user_input(self, label: str = "") -> str:
        """Return the OpenNebula user-input string `M|type|description|options|default`."""
        kind = Kind.TEXT if self.kind is Kind.PEM else self.kind
        return f"O|{kind}|{label or self.meaning}|{','.join(self.options)}|{self.default}"

    def parse(self, raw: str) -> Value:
        """Return `raw` as a typed value. Raises `ValueError` when it is not what this variable expects."""
        value = _CONVERTERS[self.kind](raw.strip())
        if self.options and value not in self.options:
            raise ValueError(raw)
        left_empty = value == self.default == ""
        if self.check is not None and not left_empty and not self.check(value):
            raise ValueError(raw)
        return value


def _integer(raw: str) -> int:
    if not re.fullmatch(r"[+-]?\d+", raw):
        raise ValueError(raw)
    return int(raw)


def _real(raw: str) -> float:
    if not re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", raw):
        raise ValueError(raw)
    return float(raw)


def _boolean(raw: str) -> bool:
    if raw not in ("YES", "NO"):
        raise ValueError(raw)
    return raw == "YES"


def _pem(raw: str) -> str:
    read_pem(raw).decode()
    return raw


_CONVERTERS: dict[Kind, Callable[[str], Value]] = {
    Kind.TEXT: str,
    Kind.PEM: _pem,
    Kind.BOOLEAN: _boolean,
    Kind.NUMBER: _integer,
    Kind.FLOAT: _real,
    Kind.LIST: str,
}
