"""The run config of an app: reads what people type as the type of the app's own value, and writes it for Flower."""

from __future__ import annotations

import json
import math
import numbers
import re
from typing import TYPE_CHECKING

from oneflower_appliance.errors import OneflowerError

if TYPE_CHECKING:
    from collections.abc import Mapping

Value = str | int | float | bool

_BARE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_INTEGER = re.compile(r"[+-]?\d+(_\d+)*", re.ASCII)
_LARGEST = 2**63  # Flower carries integers in 64 bits, one of them the sign
_FLAGS = {"true": True, "false": False}
_TAKEN: dict[type, type] = {bool: bool, int: numbers.Integral, float: numbers.Real, str: str}
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def typed(key: str, text: str, own: object) -> Value:
    """Return `text` as the type of the app's `own` value of `key`. Raises `OneflowerError`."""
    try:
        return _read(text, type(own))
    except ValueError as error:
        raise _wrong(key, text, own, str(error)) from None


def checked(key: str, value: object, own: object) -> Value:
    """Return a value that has a type, if it is that of the app's `own` value of `key`. Raises `OneflowerError`.

    A whole number is taken where the app has another number.
    """
    kind = _TAKEN.get(type(own))
    if kind is None or not isinstance(value, kind) or isinstance(value, bool) is not isinstance(own, bool):
        raise _wrong(key, value, own)
    return typed(key, value if isinstance(value, str) else str(value).lower(), own)


def _wrong(key: str, value: object, own: object, why: str = "") -> OneflowerError:
    kind, shown = (
        _KINDS.get(type(own), "a value that a run config can have"),
        json.dumps(own, ensure_ascii=False, default=str),
    )
    return OneflowerError(
        f"{key}={value!r} is not {kind}{why}.",
        f"The app's own value is {shown} (pyproject.toml, [tool.flwr.app.config]); give one of that type.",
    )


def _read(text: str, kind: type) -> Value:
    """Read a value. Raises `ValueError`, which says what else is wrong if the text alone does not show it."""
    if kind is str:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(" in UTF-8") from None
        return text
    word = text.strip()
    if kind is bool and word in _FLAGS:
        return _FLAGS[word]
    if kind is int and _INTEGER.fullmatch(word):
        number = int(word)
        if not -_LARGEST <= number < _LARGEST:
            raise ValueError(" of 64 bits")
        return number
    if kind is float:
        try:
            real = float(word)
        except ValueError:
            raise ValueError from None
        if not math.isnan(real):
            return real
    raise ValueError


def toml_text(config: Mapping[str, Value]) -> str:
    """Return the config as a TOML file. Keys keep their dots, with which Flower joins them."""
    return "".join(f"{_key(key)} = {_value(value)}\n" for key, value in config.items())


def toml_key(name: str) -> str:
    """Return a name as one TOML key, in which a dot would start another key."""
    return name if "." not in name and _BARE.fullmatch(name) else toml_string(name)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else toml_string(key)


def _value(value: Value) -> str:
    if isinstance(value, str):
        return toml_string(value)
    return str(value).lower() if isinstance(value, bool) else repr(value)


def toml_string(text: str) -> str:
    """Return a text as a TOML string."""
    # As JSON, except for DEL, which TOML wants escaped. Nothing beyond ASCII is: TOML has no surrogate pairs.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
