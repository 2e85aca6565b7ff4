"""Converts service templates with the names of OpenNebula 6 as OneFlow 7 does, including its bugs.

OneFlow converts only if every role has `vm_template` or `vm_template_contents`. Then it also converts roles that have
the names of 7: a role with `template_id` and a leftover `vm_template_contents` gets template 0.
Source: service_template.rb.
"""

from __future__ import annotations

import re
from typing import Any

_OLD = ("vm_template", "vm_template_contents")


def is_legacy(body: dict[str, Any]) -> bool:
    """Whether OneFlow would convert this template."""
    roles = body.get("roles")
    return isinstance(roles, list) and all(isinstance(r, dict) and any(key in r for key in _OLD) for r in roles)


def convert(body: dict[str, Any]) -> None:
    """Rename and reshape in place."""
    for role in body["roles"]:
        role["template_id"] = _leading_integer(role.pop("vm_template", None))
        role["type"] = "vm"
        if inputs := role.pop("custom_attrs", None):
            role["user_inputs"] = inputs
        if body.get("custom_attrs_values"):
            body["user_inputs_values"] = role.get("custom_attrs_values")
        role.pop("custom_attrs_values", None)
        if contents := role.pop("vm_template_contents", None):
            role["template_contents"] = upgrade_contents(str(contents))
    for old, new in (("custom_attrs", "user_inputs"), ("custom_attrs_values", "user_inputs_values")):
        if value := body.pop(old, None):
            body[new] = value


def upgrade_contents(text: str) -> dict[str, Any]:
    """Return `vm_template_contents` as an object: quotes are dropped, commas are separators, vectors become lists."""
    result: dict[str, Any] = {}
    for line in re.split(r"\n(?![^\[]*\])", text):
        name, separator, value = line.partition("=")
        if not separator:
            continue
        key, value = name.strip(), value.strip().replace('"', "")
        entry: Any = value
        if value.startswith("[") and value.endswith("]"):
            pairs = (item.partition("=") for item in re.split(r"\s*,\s*", value[1:-1]))
            entry = {inner.strip(): content.strip() for inner, _, content in pairs}
        if key in result:
            before = result[key]
            result[key] = [*(before if isinstance(before, list) else [before]), entry]
        else:
            result[key] = entry
    return {key: [value] if isinstance(value, dict) else value for key, value in result.items()}


def _leading_integer(value: Any) -> int:
    """Return a value as Ruby's to_i does: the digits that it begins with, or 0."""
    match = re.match(r"\s*[+-]?\d+", str(value))
    return int(match[0]) if match else 0
