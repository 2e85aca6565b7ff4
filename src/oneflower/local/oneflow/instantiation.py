"""How `instantiate` makes a service from a service template and a `merge_template`.

Sources: oneflow-server.rb, service_template.rb, service.rb.
"""

from __future__ import annotations

import copy
from typing import Any

from oneflower.local.errors import CloudError
from oneflower.local.oneflow.schema import check_template


def rename_legacy_values(merge: dict[str, Any]) -> None:
    """Accept OpenNebula 6's name for the input values of the service and of its roles."""
    roles = merge.get("roles")
    for entry in (merge, *(roles if isinstance(roles, list) else ())):
        if isinstance(entry, dict) and "custom_attrs_values" in entry:
            entry["user_inputs_values"] = entry.pop("custom_attrs_values")


def check_inputs(template: dict[str, Any], merge: dict[str, Any]) -> None:
    """Check that every declared input has a value; OneFlow applies no default. Raises `CloudError` 400."""
    _complete(template.get("user_inputs"), merge.get("user_inputs_values"))
    given = merge.get("roles")
    for role in template["roles"]:
        if role.get("user_inputs") is None:
            continue
        if given is None:
            text = (
                f"The Service template specifies user inputs for the role {role['name']} but no values have been found"
            )
            raise CloudError(400, text)
        if not isinstance(given, list) or not given:
            raise CloudError(400, "The role user inputs are empty or do not have a valid format")
        entry = next((item for item in given if isinstance(item, dict) and item.get("name") == role["name"]), None)
        if entry is not None:
            _complete(role["user_inputs"], entry.get("user_inputs_values"))


def _complete(declared: Any, values: Any) -> None:
    if not declared:
        return
    if values is None:
        raise CloudError(400, "The Service template specifies User Inputs but no values have been found")
    if not isinstance(declared, dict) or not isinstance(values, dict):
        raise CloudError(400, "Wrong User Inputs or User Inputs Values format")
    if not set(declared) <= set(values):
        raise CloudError(400, "Verify that every User Input have its corresponding value defined")


def check_networks(template: dict[str, Any], merge: dict[str, Any]) -> None:
    """Check that every declared network has a value, its own if none is given. Raises `CloudError` 400."""
    networks = template.get("networks")
    if networks and not merge.get("networks_values"):
        try:
            parts = {name: text.split("|")[4].strip().split(":") for name, text in networks.items()}
            merge["networks_values"] = [{name: {part[0]: part[1]}} for name, part in parts.items()]
        except (AttributeError, IndexError) as error:
            raise CloudError(400, "Wrong networks format") from error
    values = merge.get("networks_values") or []
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise CloudError(400, "Wrong networks_values format")
    if networks and not set(networks) <= {name for value in values for name in value}:
        raise CloudError(400, "Every network key must have its value defined at networks_value")


def merge_service(template: dict[str, Any], merge: dict[str, Any]) -> dict[str, Any]:
    """Return a service's body: the template with `merge` over it. Raises `CloudError` 500 if the result is not valid.

    Objects are merged and arrays are joined. Roles are matched by name, and unknown roles are dropped.
    """
    base, rest = copy.deepcopy(template), dict(merge)
    if values := rest.pop("networks_values", None):
        base["networks_values"] = _by_first_key(base.get("networks_values") or [], values)
    if roles := rest.pop("roles", None):
        given = {item["name"]: item for item in roles if isinstance(item, dict) and isinstance(item.get("name"), str)}
        base["roles"] = [deep_merge(role, given.get(role["name"], {})) for role in base["roles"]]
    try:
        return check_template(deep_merge(base, rest))
    except CloudError as error:
        raise CloudError(500, error.message) from error


def _by_first_key(before: list[Any], values: list[Any]) -> list[Any]:
    merged = {next(iter(value)): value for value in before if value}
    return list((merged | {next(iter(value)): value for value in values if value}).values())


def deep_merge(base: dict[str, Any], over: dict[str, Any], *, join: bool = True) -> dict[str, Any]:
    """Return `base` with `over` merged over it. Arrays are joined (without duplicates), or replaced without `join`."""
    merged = dict(base)
    for key, value in over.items():
        mine = base.get(key)
        if isinstance(mine, dict) and isinstance(value, dict):
            merged[key] = deep_merge(mine, value, join=join)
        elif isinstance(mine, list) and isinstance(value, list) and join:
            merged[key] = _joined(mine + value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _joined(items: list[Any]) -> list[Any]:
    if not all(isinstance(item, dict) for item in items):
        return items
    return [item for index, item in enumerate(items) if item not in items[:index]]
