"""What OneFlow 7.4 accepts as a service template or a role.

The schemas are declared as its validator knows them (service_template.rb, validator.rb): unknown keys stay, `null` and
`false` count as absent, numbers may be strings, defaults are filled in only if a key is absent. The errors are those of
the server, sensible or not: a role may name a parent that does not exist.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oneflower.local import ruby
from oneflower.local.errors import CloudError, internal
from oneflower.local.oneflow.legacy import convert, is_legacy
from oneflower.local.oneflow.policies import parse_time, valid_recurrence
from oneflower.opennebula import expressions

if TYPE_CHECKING:
    from collections.abc import Mapping

_SHUTDOWN = ("terminate", "terminate-hard", "shutdown", "shutdown-hard")
_ADJUST = ("CHANGE", "CARDINALITY", "PERCENTAGE_CHANGE")


@dataclass(frozen=True)
class Field:
    """What may stand under one key."""

    kind: str
    required: bool = False
    default: Any = None
    minimum: int | None = None
    enum: tuple[str, ...] = ()
    word: bool = False
    items: Field | None = None
    properties: Mapping[str, Field] = field(default_factory=dict)


_OBJECT = Field("object")
_COUNT = Field("integer", minimum=0)
_POLICY = {
    "type": Field("string", enum=_ADJUST, required=True),
    "adjust": Field("integer", required=True),
    "min_adjust_step": Field("integer", minimum=1),
}
_ELASTICITY = Field("object", properties={
    **_POLICY, "period_number": _COUNT, "period": _COUNT,
    "expression": Field("string", required=True), "cooldown": _COUNT,
})  # fmt: skip
_SCHEDULE = Field("object", properties={**_POLICY, "start_time": Field("string"), "recurrence": Field("string")})

_ROLE = {
    "name": Field("string", required=True, word=True),
    "type": Field("string", enum=("vm",), required=True),
    "cardinality": Field("integer", default=0, minimum=0),
    "template_id": Field("integer", required=True),
    "template_contents": _OBJECT,
    "user_inputs": _OBJECT,
    "user_inputs_values": _OBJECT,
    "parents": Field("array", items=Field("string")),
    "on_hold": Field("boolean"),
}
_VM_ROLE = Field("object", properties={
    **_ROLE,
    "shutdown_action": Field("string", enum=_SHUTDOWN),
    "min_vms": _COUNT, "max_vms": _COUNT, "cooldown": _COUNT,
    "elasticity_policies": Field("array", items=_ELASTICITY),
    "scheduled_policies": Field("array", items=_SCHEDULE),
})  # fmt: skip
_VR_ROLE = Field("object", properties={**_ROLE, "type": Field("string", enum=("vr",), required=True)})
_SERVICE = Field("object", properties={
    "name": Field("string", required=True),
    "deployment": Field("string", enum=("none", "straight"), default="none"),
    "description": Field("string", default=""),
    "shutdown_action": Field("string", enum=_SHUTDOWN),
    "roles": Field("array", required=True),
    "user_inputs": _OBJECT,
    "user_inputs_values": _OBJECT,
    "ready_status_gate": Field("boolean"),
    "automatic_deletion": Field("boolean"),
    "networks": _OBJECT,
    "networks_values": Field("array", items=_OBJECT),
    "on_hold": Field("boolean"),
    "registration_time": Field("integer"),
})  # fmt: skip


def check_template(body: Any) -> dict[str, Any]:
    """Return a service template as OneFlow would store it; `body` is changed. Raises `CloudError` 400, or 500."""
    if isinstance(body, dict) and is_legacy(body):
        convert(body)
    checked: dict[str, Any] = _check(body, _SERVICE, "")
    for role in checked["roles"]:
        check_role(role)
    _check_together(checked["roles"])
    return checked


def check_role(role: Any) -> dict[str, Any]:
    """Check one role by itself, as `add_role` does. Raises `CloudError` 400, or 500."""
    if not isinstance(role, dict):
        raise internal(ruby.no_method("fetch", role))
    schemas = {"vm": _VM_ROLE, "vr": _VR_ROLE}
    kind = role.get("type", "vm")
    if not isinstance(kind, str) or kind not in schemas:
        raise CloudError(400, f'Unsupported role type "{ruby.text(kind)}"')
    checked: dict[str, Any] = _check(role, schemas[kind], "")
    return checked


def _check(value: Any, schema: Field, key: str) -> Any:
    return _CHECKS[schema.kind](value, schema, key)


def _object(value: Any, schema: Field, key: str) -> Any:
    if not isinstance(value, dict):
        raise CloudError(400, f"KEY: '{key}' must be an Object;")
    for name, inner in schema.properties.items():
        given = value.get(name)
        if given is not None and given is not False:
            value[name] = _check(given, inner, name)
        elif inner.required:
            text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
            missing = f"'{name} ({inner.kind})' is missing from {text}"
            raise CloudError(400, f"Mandatory document key {missing}")
        elif inner.default is not None:
            value[name] = inner.default
    return value


def _array(value: Any, schema: Field, key: str) -> Any:
    if not isinstance(value, list):
        raise CloudError(400, f"KEY: '{key}' must be an Array;")
    return [_check(item, schema.items, key) for item in value] if schema.items else value


def _integer(value: Any, schema: Field, key: str) -> int:
    number = _as_integer(value, key)
    if schema.minimum is not None and number < schema.minimum:
        raise CloudError(400, f"KEY: '{key}' must be greater than or equal to {schema.minimum};")
    return number


def _as_integer(value: Any, key: str) -> int:
    """Return what Ruby's Integer() makes of a value: prefixes 0x, 0b, 0o and a bare 0 count."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise internal(f"can't convert {ruby.kind(value)} into Integer")
    try:
        if isinstance(value, str):
            octal = re.fullmatch(r"\s*([+-]?)0+(\d[\d_]*)\s*", value)
            return int(octal[1] + octal[2], 8) if octal else int(value, 0)
        return int(value)
    except (ValueError, OverflowError) as error:
        raise CloudError(400, f"KEY: '{key}' must be an Integer;") from error


def _boolean(value: Any, _schema: Field, key: str) -> Any:
    if value is not True:
        raise CloudError(400, f"KEY: '{key}' is not allowed in {{:type=>:boolean, :required=>false}};")
    return value


def _string(value: Any, schema: Field, key: str) -> Any:
    if not isinstance(value, str):
        raise CloudError(400, f"KEY: '{key}' must be a String;")
    if schema.enum and value not in schema.enum:
        raise CloudError(400, f"KEY: '{key}' must be one of {', '.join(schema.enum)};")
    # Ruby's ^ and $ match at every line, so a name of two lines is accepted.
    if schema.word and not re.search(r"^\w+$", value, re.MULTILINE | re.ASCII):
        raise CloudError(400, rf"KEY: '{key}' must match regexp /^\w+$/;")
    return value


_CHECKS = {"object": _object, "array": _array, "integer": _integer, "boolean": _boolean, "string": _string}


def _check_together(roles: list[dict[str, Any]]) -> None:
    for index, role in enumerate(roles):
        if role["name"] in {other["name"] for other in roles[index + 1 :]}:
            raise CloudError(400, f"Role name '{role['name']}' is repeated")
        if role["type"] == "vr":
            _check_virtual_router(role)
        else:
            _check_bounds(role)
            _check_policies(role)


def _check_virtual_router(role: dict[str, Any]) -> None:
    nics = (role.get("template_contents") or {}).get("NIC")
    floating = isinstance(nics, list) and any(str(key).startswith("FLOATING") for nic in nics for key in nic)
    if isinstance(nics, list) and role["cardinality"] > 1 and not floating:
        text = f"Role '{role['name']}' with 'cardinality' greather than one must define a floating IP"
        raise CloudError(400, text)


def _check_bounds(role: dict[str, Any]) -> None:
    least, most, number = role.get("min_vms"), role.get("max_vms"), role["cardinality"]
    if least is not None and least > number:
        raise CloudError(400, f"Role '{role['name']}' 'cardinality' must be greater than or equal to 'min_vms'")
    if most is not None and most < number:
        raise CloudError(400, f"Role '{role['name']}' 'cardinality' must be lower than or equal to 'max_vms'")


def _check_policies(role: dict[str, Any]) -> None:
    elastic, scheduled = role.get("elasticity_policies") or [], role.get("scheduled_policies") or []
    name = f"Role '{role['name']}'"
    if (elastic or scheduled) and (role.get("min_vms") is None or role.get("max_vms") is None):
        raise CloudError(
            400, f"{name} with  'elasticity_policies' or 'scheduled_policies'must define both 'min_vms' and 'max_vms'"
        )
    for index, policy in enumerate(elastic):
        if not policy["expression"]:
            raise CloudError(400, f"{name}, elasticity policy #{index} 'expression' cannot be empty")
        try:
            expressions.parse(policy["expression"])
        except expressions.ParseError as error:
            raise CloudError(400, f"{name}, elasticity policy #{index} 'expression' parse error: {error}") from error
    for index, policy in enumerate(scheduled):
        _check_schedule(policy, f"{name}, scheduled policy #{index}")


def _check_schedule(policy: dict[str, Any], who: str) -> None:
    start, recurrence = policy.get("start_time"), policy.get("recurrence")
    if start is not None and recurrence is not None:
        raise CloudError(400, f"{who} must define 'start_time' or 'recurrence', but not both")
    if start is not None:
        if parse_time(start) is None:
            hint = "Try with YYYY-MM-DD hh:mm:ss or 0YYY-MM-DDThh:mm:ssZ"
            raise CloudError(400, f"{who} 'start_time' is not a valid Time. {hint}")
    elif recurrence is None:
        raise CloudError(400, f"{who} needs to define either 'start_time' or 'recurrence'")
    elif not valid_recurrence(recurrence):
        raise CloudError(400, f"{who} 'recurrence' is not a valid cron expression")
