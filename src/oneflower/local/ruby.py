"""How Ruby reads and writes values, in JSON and in sentences. OneFlow and OneGate are written in Ruby."""

from __future__ import annotations

import json
import re
from json.encoder import encode_basestring
from typing import Any, NoReturn

from oneflower.opennebula.text import number_text

MOST_NESTED = 100
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"|([\[{])|[\]}]', re.DOTALL)
_INDENT = "  "


class JsonError(ValueError):
    """Ruby's parser refuses a text. The message is the parser's."""


class GeneratorError(ValueError):
    """Ruby's generator refuses a value. The message is the generator's."""


def load(text: str) -> Any:
    """Return the value of JSON text. Raises `JsonError`, or `GeneratorError` for a number that Ruby could not write."""
    _check_depth(text)

    def constant(name: str) -> NoReturn:
        raise JsonError(f"unexpected token at '{text[text.index(name) :]}'")

    try:
        value = json.loads(text, parse_constant=constant, parse_float=_float)
    except (JsonError, GeneratorError):
        raise
    except (ValueError, RecursionError) as error:
        raise JsonError(f"unexpected token at '{text}'") from error
    # Half of a surrogate pair is not a character, and cannot be encoded.
    broken = "\\ud" in text.lower()
    return json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace")) if broken else value


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MOST_NESTED:
        return
    depth = 0
    for found in _BRACKETS.finditer(text):
        if found[1]:
            depth += 1
            if depth > MOST_NESTED:
                raise JsonError(f"nesting of {depth} is too deep")
        elif found[0] in "]}":
            depth -= 1


def _float(digits: str) -> float:
    """Return a number with a fraction. Ruby reads 1e999 as Infinity, and then cannot write that as JSON."""
    number = float(digits)
    if number in (float("inf"), -float("inf")):
        raise GeneratorError(f"{'-' if number < 0 else ''}Infinity not allowed in JSON")
    return number


def pretty(value: Any, margin: str = "") -> str:
    """Return JSON text as JSON.pretty_generate writes it."""
    inner = margin + _INDENT
    if isinstance(value, dict):
        lines = [f"{inner}{encode_basestring(str(key))}: {pretty(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{margin}}}" if lines else "{}"
    if isinstance(value, list):
        lines = [inner + pretty(item, inner) for item in value]
        return "[\n" + ",\n".join(lines) + f"\n{margin}]" if lines else "[]"
    if isinstance(value, str):
        return str(encode_basestring(value))
    if isinstance(value, float):
        return number_text(value)
    return "null" if value is None else str(value).lower()


def text(value: Any) -> str:
    """Return a value as Ruby's to_s does, for example inside a sentence: nil is empty."""
    if value is None:
        return ""
    return value if isinstance(value, str) else inspect(value)


def inspect(value: Any) -> str:
    """Return a value as Ruby's inspect does, up to Ruby 3.3: `{"a"=>nil}`."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{inspect(key)}=>{inspect(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inspect, value)) + "]"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, float):
        return number_text(value)
    return "nil" if value is None else str(value).lower()


def kind(value: Any) -> str:
    """Return how Ruby names a value that it cannot convert: by its class, or by itself for nil, true and false."""
    return inspect(value) if value is None or isinstance(value, bool) else class_of(value)


def class_of(value: Any) -> str:
    """Return the name of the class that a value has in Ruby."""
    if isinstance(value, bool):
        return "TrueClass" if value else "FalseClass"
    names = {dict: "Hash", list: "Array", int: "Integer", float: "Float", str: "String", type(None): "NilClass"}
    return names[type(value)]


def no_method(name: str, value: Any) -> str:
    """Return what Ruby 3.2 says when a value has no method of that name."""
    return f"undefined method `{name}' for {inspect(value)}:{class_of(value)}"


_ESCAPES = {"\a": "\\a", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\v": "\\v", "\f": "\\f", "\r": "\\r", "\x1b": "\\e",
            '"': '\\"', "\\": "\\\\"}  # fmt: skip
_ESCAPED = re.compile(r'["\\\x00-\x1f\x7f]|#(?=[{$@])')


def _quoted(value: str) -> str:
    return f'"{_ESCAPED.sub(lambda found: _ESCAPES.get(found[0]) or _numbered(found[0]), value)}"'


def _numbered(character: str) -> str:
    if character == "#":
        return "\\#"
    return "\\x7F" if character == "\x7f" else f"\\u{ord(character):04X}"
