"""Overrides of an app's run config, as `flwr run --run-config` takes them: NAME=VALUE, one or several, or a TOML file.

A value that `flwr run` accepts means the same here. Beyond that, a text needs no quotes.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oneflower.cloud.runconfig import Value, checked, typed
from oneflower_appliance.errors import ExitCode, OneflowerError

Overrides = Mapping[str, Value] | Sequence[str]

_PAIR = re.compile(r"""(\S+?)=('[^']*'|"[^"]*"|\S+)""")  # as `flwr run` finds them in a text


def read(given: Overrides, own: Mapping[str, object]) -> dict[str, Value]:
    """Return what overrides the values of an app's `own` config, each with the type of the app's value.

    `given` has texts as on the command line of `flwr run`, of which the last one counts, or is a mapping. Raises
    `OneflowerError`, also for a name that the app does not have.
    """
    found: dict[str, Value] = {}
    if isinstance(given, Mapping):
        _check_names(given, own)
        return {key: _of_python(key, value, own[key]) for key, value in given.items()}
    for text in filter(str.strip, given):
        found |= _read_file(Path(text), own) if _is_file(text) else _read_text(text, own)
    return found


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a config without tables: their names and a dot come before the names in them."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _of_python(key: str, value: object, own: object) -> Value:
    return typed(key, value, own) if isinstance(value, str) else checked(key, value, own)


def _is_file(text: str) -> bool:
    return text.endswith(".toml") and ("=" not in text or Path(text).expanduser().is_file())


def _read_file(path: Path, own: Mapping[str, object]) -> dict[str, Value]:
    try:
        found = flatten(tomllib.loads(path.expanduser().read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise OneflowerError(f"There is no file {path}.", "Check its path.", ExitCode.NOT_FOUND) from error
    except (OSError, ValueError) as error:
        raise OneflowerError(
            f"{path} cannot be read as TOML: {error}.", "Write one NAME = VALUE in each line."
        ) from error
    _check_names(found, own)
    return {key: checked(key, value, own[key]) for key, value in found.items()}


def _read_text(text: str, own: Mapping[str, object]) -> dict[str, Value]:
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise OneflowerError(
            f"--config {text!r} is neither NAME=VALUE nor a TOML file.",
            "Give a value as `-c NAME=VALUE`, or a file whose name ends with .toml.",
            ExitCode.USAGE,
        )
    pairs = _as_flower_reads(text)
    # A text without quotes may look like several pairs. It is taken as such only if the app has all of the names.
    if pairs is None or (isinstance(own.get(key), str) and not set(pairs) <= set(own)):
        _check_names([key], own)
        return {key: typed(key, value, own[key])}
    _check_names(pairs, own)
    return {name: _of_text(name, raw, given, own[name]) for name, (raw, given) in pairs.items()}


def _of_text(key: str, raw: str, value: object, own: object) -> Value:
    """Return a value that was typed. Where the app has a text, anything that is not in quotes is the text itself."""
    return typed(key, raw, own) if isinstance(own, str) and not isinstance(value, str) else checked(key, value, own)


def _as_flower_reads(text: str) -> dict[str, tuple[str, Any]] | None:
    """Return names, each with its value as it is written and as it is meant; None if `flwr run` refuses the text."""
    if _PAIR.sub("", text).strip():
        return None  # words that are of no pair, which Flower leaves out without a word
    found: dict[str, tuple[str, Any]] = {}
    for pair in _PAIR.finditer(text):
        name, raw = pair.groups()
        try:
            values = flatten(tomllib.loads(f"{name} = {raw}"))
        except tomllib.TOMLDecodeError:
            return None
        found |= {key: (raw, value) for key, value in values.items()}
    return found


def _check_names(names: Mapping[str, object] | Sequence[str], own: Mapping[str, object]) -> None:
    if unknown := sorted(set(names) - set(own)):
        raise OneflowerError(
            f"The app has no configuration called {', '.join(unknown)}.",
            f"It has: {', '.join(sorted(own)) or 'none'} (pyproject.toml, [tool.flwr.app.config]).",
        )
