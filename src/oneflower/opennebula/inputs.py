"""What a service template asks for, and which variable of which role each answer becomes.

The template itself tells, whatever its rendering, and whatever changes were made to it. An input with the name of a
variable is that variable. An input with another name becomes the variables whose CONTEXT entry in a role refers to it
(`FL_NUM_ROUNDS = "$ONEAPP_FLOWER_TRAINING_ROUNDS"`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from oneflower.opennebula.kinds import ServiceKind
from oneflower.opennebula.linted import mapping
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.formats import encode_pem
from oneflower_appliance.parameter import Kind
from oneflower_appliance.parameters import PARAMETERS
from oneflower_appliance.roles import NODES
from oneflower_appliance.settings import InvalidParametersError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from oneflower.opennebula.autoscale import Policies
    from oneflower_appliance.settings import Bounds
    from oneflower_appliance.values import Settings

_NOT_IN_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LONGEST = 65_536


def default_of(user_input: Any) -> str:
    """Return the default of a user input `M|type|description|options|default`, or an empty text."""
    parts = user_input.split("|") if isinstance(user_input, str) else []
    return parts[4].strip() if len(parts) == 5 else ""


def references(role: Mapping[str, Any]) -> dict[str, str]:
    """Return which input each entry of a role's CONTEXT refers to, if their names differ."""
    contents = role.get("template_contents")
    context = contents.get("CONTEXT") if isinstance(contents, dict) else None
    return {
        name: value[1:]
        for name, value in (context.items() if isinstance(context, dict) else ())
        if isinstance(value, str) and value.startswith("$") and value[1:].isidentifier() and value[1:] != name
    }


def variables_of(service: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables that a service was given, on all levels, under the names that the appliance knows.

    Variables that a form does not ask for have their defaults. Secrets are left out: they are in no value.
    """
    shared = service.get("user_inputs_values") or {}
    found: dict[str, str] = {}
    behind: set[str] = set()
    for role in service["roles"]:
        own = role.get("user_inputs_values") or {}
        values = shared | own
        asked = {name: source for name, source in references(role).items() if source in values}
        behind |= set(asked.values())
        found |= values | {name: values[source] for name, source in asked.items() if name not in own}
    for name in behind:
        del found[name]
    kind = kind_of(service)
    return ({name: p.default for name, p in PARAMETERS.items() if kind.homes(p)} if behind else {}) | found


def defaults_of(template: Mapping[str, Any]) -> dict[str, str]:
    """Return what the variables have, without a wish of a user: the defaults of a template, and what it fixes."""
    service = _defaults(template)
    kind = kind_of(template)
    roles = {role["name"]: role for role in template["roles"] if role.get("name") in kind.roles}
    found: dict[str, str] = {}
    for variable, parameter in PARAMETERS.items():
        for role in kind.homes(parameter):
            asked, contents = _defaults(roles[role]), mapping(roles[role].get("template_contents"))
            context = mapping(contents.get("CONTEXT"))
            source = references(roles[role]).get(variable, variable)
            value = (asked | service).get(source, context.get(variable, ""))
            if isinstance(value, str) and value and not value.startswith("$"):
                found[variable] = value
    return found


def kind_of(body: Mapping[str, Any]) -> ServiceKind:
    """Return the kind of a service, or of a service template. Raises `OneflowerError` if it is not one of ours."""
    if (kind := ServiceKind.of(body)) is not None:
        return kind
    raise OneflowerError(
        "The service template is not one of oneflower's: it has neither a SuperLink nor SuperNodes.",
        "Register one: `oneflower --cloud opennebula register`.",
        ExitCode.CONFLICT,
    )


def merge_template(
    template: Mapping[str, Any], name: str, settings: Settings, bounds: Bounds | None, policies: Policies | None = None
) -> dict[str, Any]:
    """Return the `merge_template` with which one service is instantiated from `template` on OpenNebula 7.

    OneFlow applies no defaults and requires a value for every declared input. The values of a role belong in the
    role's entry. OneFlow takes the cardinality from that entry and requires min_vms <= cardinality <= max_vms.
    `bounds` are those of the SuperNodes, None if there are none, and `policies` are added to those of the template.
    A variable that the template does not ask for is given to the role that needs it, if it is set: OneFlow accepts
    values that nobody declared. A secret goes into that role's CONTEXT and nowhere else: a value would become an
    attribute of the VM, too, which every machine of the service reads through OneGate. Raises `OneflowerError` if a
    secret would reach every machine, and `InvalidParametersError` for values that OpenNebula would change on their way.
    """
    service, kind = _defaults(template), kind_of(template)
    roles = {role["name"]: role for role in template["roles"] if role.get("name") in kind.roles}
    values = {role: _defaults(roles[role]) for role in kind.roles}
    if lost := [Problem(name, why) for name, raw in settings.items() if (why := _lost(raw))]:
        raise InvalidParametersError(lost)
    secrets: dict[str, dict[str, str]] = {role: {} for role in kind.roles}
    for variable, raw in settings.items():
        for role, key in _places(variable, service, roles, kind):
            if PARAMETERS[variable].secret and key not in service and key not in values[role]:
                value = encode_pem(raw) if raw.strip() and PARAMETERS[variable].kind is Kind.PEM else raw.strip()
                secrets[role] |= {variable: value} if value else {}
            elif key not in service:
                if key in values[role] or raw.strip() != PARAMETERS[variable].default:
                    values[role][key] = raw
            elif raw and not kind.may_ask(PARAMETERS[variable]):
                raise _leak(variable)
            else:
                service[key] = raw
    return {
        "name": name,
        "user_inputs_values": service,
        "roles": [
            {
                "name": role,
                **(_scaling(bounds, policies) if role == NODES and bounds is not None else {}),
                "user_inputs_values": values[role],
                **_context(secrets[role]),
            }
            for role in kind.roles
        ],
    }


def _scaling(bounds: Bounds, policies: Policies | None) -> dict[str, Any]:
    limits = {"cardinality": bounds.cardinality, "min_vms": bounds.minimum, "max_vms": bounds.maximum}
    return {**limits, **(policies.entries if policies else {})}


def _lost(value: str) -> str:
    """Return why a value would not arrive as it is, or an empty text. Sources: OneFlow's role.rb, template_parser.l."""
    if "${" in value:
        return "has ${...}, which OneFlow replaces with nothing on its way to the machine."
    if value.endswith("\\"):
        return "ends with a backslash, which OpenNebula's templates cannot hold."
    if _NOT_IN_XML.search(value):
        return "has a control character, which OpenNebula's XML cannot hold."
    if len(value) > _LONGEST:
        return (
            f"has {len(value)} characters. OpenNebula keeps it with every machine, so at most {_LONGEST} are allowed."
        )
    return ""


def _context(entries: Mapping[str, str]) -> dict[str, Any]:
    return {"template_contents": {"CONTEXT": dict(entries)}} if entries else {}


def _defaults(level: Mapping[str, Any]) -> dict[str, str]:
    asked = level.get("user_inputs") or level.get("custom_attrs") or {}
    return {key: default_of(text) for key, text in asked.items()}


def _places(
    variable: str, service: Mapping[str, str], roles: Mapping[str, Mapping[str, Any]], kind: ServiceKind
) -> Iterator[tuple[str, str]]:
    """Yield where a template wants a variable: for each role that needs it, the role and the input's name."""
    for role in kind.homes(PARAMETERS[variable]):
        source = references(roles[role]).get(variable, "")
        yield role, source if source in service else variable


def _leak(variable: str) -> OneflowerError:
    return OneflowerError(
        f"The service template asks for {variable} on service level, from where it would reach every machine.",
        "`oneflower register` makes templates that do not; `oneflower validate` names the trap.",
        ExitCode.CONFLICT,
    )
