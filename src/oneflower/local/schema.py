"""What OneFlow 7.4 accepts as a service template, and how it merges what `instantiate` brings.

Rules and error texts follow its validator (service_template.rb, validator.rb): unknown keys stay, numbers may be
strings, `null` counts as absent, defaults are filled in only where a key is absent.
"""

from __future__ import annotations

import copy
import re
from typing import Any

from oneflower.local.models import CloudError

_SHUTDOWN = ("terminate", "terminate-hard", "shutdown", "shutdown-hard")


def check_template(body: Any) -> dict[str, Any]:
    """Return a service template as OneFlow would store it. Raises `CloudError` 400."""
    if not isinstance(body, dict):
        raise CloudError(400, "The template is not a JSON object")
    checked = copy.deepcopy(body)
    _require(checked, "name", str, "string")
    _require(checked, "roles", list, "array")
    _enumerated(checked, "deployment", ("none", "straight"))
    _enumerated(checked, "shutdown_action", _SHUTDOWN)
    checked.setdefault("deployment", "none")
    checked.setdefault("description", "")
    if checked.get("ready_status_gate") not in (None, True, False):
        raise CloudError(400, "KEY: 'ready_status_gate' must be a Boolean;")
    _mapping(checked, "user_inputs", "user_inputs_values")
    names = [_check_role(role)["name"] for role in checked["roles"]]
    if len(names) != len(set(names)):
        raise CloudError(400, "Role name already exist in the service template")
    return checked


def _check_role(role: Any) -> dict[str, Any]:
    if not isinstance(role, dict):
        raise CloudError(400, "KEY: 'roles' must be an Object;")
    _require(role, "name", str, "string")
    if not re.search(r"^\w+$", role["name"], re.MULTILINE):
        raise CloudError(400, r"KEY: 'name' must match regexp /^\w+$/;")
    _require(role, "type", str, "string")
    _enumerated(role, "type", ("vm", "vr"))
    if role["type"] == "vr":
        raise CloudError(501, "The local cloud does not implement virtual-router roles")
    if role.get("template_id") is None:
        raise CloudError(400, f"Mandatory document key 'template_id (integer)' is missing from {role}")
    for key in ("template_id", "cardinality", "min_vms", "max_vms", "cooldown"):
        if role.get(key) is not None:
            role[key] = _integer(role[key], key)
            if role[key] < 0 and key != "template_id":
                raise CloudError(400, f"KEY: '{key}' must be greater than or equal to 0;")
    role.setdefault("cardinality", 0)
    _mapping(role, "template_contents", "user_inputs", "user_inputs_values")
    if not isinstance(role.get("parents") or [], list):
        raise CloudError(400, "KEY: 'parents' must be an Array;")
    _enumerated(role, "shutdown_action", _SHUTDOWN)
    _check_bounds(role)
    if role.get("elasticity_policies") or role.get("scheduled_policies"):
        raise CloudError(501, "The local cloud does not implement scaling policies")
    return role


def _check_bounds(role: dict[str, Any]) -> None:
    least, most, number = role.get("min_vms"), role.get("max_vms"), role["cardinality"]
    if least is not None and number < least:
        raise CloudError(400, f"Role '{role['name']}' 'cardinality' must be greater than or equal to 'min_vms'")
    if most is not None and number > most:
        raise CloudError(400, f"Role '{role['name']}' 'cardinality' must be lower than or equal to 'max_vms'")


def _require(data: dict[str, Any], key: str, kind: type, name: str) -> None:
    if data.get(key) is None:
        raise CloudError(400, f"Mandatory document key '{key} ({name})' is missing from {data}")
    if not isinstance(data[key], kind):
        raise CloudError(400, f"KEY: '{key}' must be a {name.capitalize()};")


def _enumerated(data: dict[str, Any], key: str, values: tuple[str, ...]) -> None:
    if data.get(key) is not None and data[key] not in values:
        raise CloudError(400, f"KEY: '{key}' must be one of {', '.join(values)};")


def _mapping(data: dict[str, Any], *keys: str) -> None:
    for key in keys:
        if data.get(key) is not None and not isinstance(data[key], dict):
            raise CloudError(400, f"KEY: '{key}' must be an Object;")


def _integer(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise CloudError(500, f"can't convert {value!r} into Integer")
    try:
        return int(value)
    except ValueError as error:
        raise CloudError(400, f"KEY: '{key}' must be an Integer;") from error


def check_inputs(template: dict[str, Any], merge: dict[str, Any]) -> None:
    """Check that every declared input has a value; OneFlow applies no default. Raises `CloudError` 400."""
    declared = template.get("user_inputs")
    if declared:
        values = merge.get("user_inputs_values")
        if not values:
            raise CloudError(400, "The Service template specifies User Inputs but no values have been found")
        _complete(declared, values)
    roles = merge.get("roles")
    for role in template["roles"]:
        if role.get("user_inputs") is None:
            continue
        if not isinstance(roles, list) or not roles:
            raise CloudError(
                400,
                f"The Service template specifies user inputs for the role {role['name']} but no values have been found",
            )
        given = next((entry for entry in roles if entry.get("name") == role["name"]), None)
        if given is not None:
            _complete(role["user_inputs"], given.get("user_inputs_values") or {})


def _complete(declared: dict[str, Any], values: dict[str, Any]) -> None:
    if not set(declared) <= set(values):
        raise CloudError(400, "Verify that every User Input have its corresponding value defined")


def merge_service(template: dict[str, Any], merge: dict[str, Any]) -> dict[str, Any]:
    """Return the template with `merge` over it: objects merge, roles by name (unknown ones dropped), arrays append."""
    rest = {key: value for key, value in merge.items() if key != "roles"}
    merged = _deep(copy.deepcopy(template), rest)
    given = {entry.get("name"): entry for entry in merge.get("roles") or () if isinstance(entry, dict)}
    merged["roles"] = [_deep(role, given.get(role["name"], {})) for role in merged["roles"]]
    try:
        return check_template(merged)
    except CloudError as error:
        raise CloudError(500, error.message) from error


def _deep(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    for key, value in over.items():
        mine = base.get(key)
        if isinstance(mine, dict) and isinstance(value, dict):
            base[key] = _deep(mine, value)
        elif isinstance(mine, list) and isinstance(value, list):
            base[key] = mine + value
        else:
            base[key] = copy.deepcopy(value)
    return base
