"""The traps, one small function for each, and the table of them.

A rule yields where the trap is, why it is one, and how to fix it. OneFlow checks little (a missing `type`, cardinality
outside its bounds) and stores the rest as it comes. What is wrong shows later: the service hangs, trains on the wrong
data, or starts before its coordinator. The traps of Sunstone are in `sunstone.py`,
those in scaling policies in `policy_rules.py`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from oneflower.opennebula.inputs import default_of, references
from oneflower.opennebula.kinds import ServiceKind
from oneflower.opennebula.service import infrastructure
from oneflower_appliance.parameter import Kind, Level
from oneflower_appliance.parameters import PARAMETERS
from oneflower_appliance.roles import COORDINATOR, NODES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oneflower.opennebula.linted import Template

_INFRASTRUCTURE = {
    *infrastructure(COORDINATOR),
    "READY_SCRIPT",
    "START_SCRIPT",
    "START_SCRIPT_BASE64",
    "ONEGATE_ENDPOINT",
}
_SEVEN = 7
_TYPES = {*(str(kind) for kind in Kind if kind is not Kind.PEM), "text64", "password", "range", "range-float", "fixed",
          "list-multiple"}  # fmt: skip
Found = tuple[str, str, str]


def _structure(template: Template) -> Iterator[Found]:
    if not isinstance(template.data.get("name"), str):
        yield "service", "It has no name.", 'Add "name".'
    if not template.roles:
        yield (
            "service",
            "It has no roles, which OneFlow accepts and deploys as nothing.",
            "Add superlink, or supernode, or both.",
        )
    names = [role.name for role in template.roles]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"role {name}", "The name is used twice.", "Names are unique within a service."
    if template.kind is ServiceKind.FEDERATION or not set(names) - {COORDINATOR, NODES}:
        return  # a coordinator or a site has just one of them, and nothing that may be the other one, misspelled
    for name in sorted({COORDINATOR, NODES} - set(names)):
        yield "service", f"There is no role named {name}.", "SuperNodes find their SuperLink by the role's name."


def _role_name(template: Template) -> Iterator[Found]:
    for role in template.roles:
        if not re.fullmatch(r"\w+", role.name):
            yield role.where, "OneFlow refuses the name.", "Use letters, digits and underscores; no hyphen."


def _deployment(template: Template) -> Iterator[Found]:
    if len(template.roles) != 1 and template.data.get("deployment") != "straight":
        yield "deployment", "All roles boot at once, SuperNodes before there is a SuperLink.", 'Set "straight".'


def _gate(template: Template) -> Iterator[Found]:
    if template.data.get("ready_status_gate") is not True:
        yield (
            "ready_status_gate",
            "A role counts as running when its VM boots, not when Flower answers.",
            "Set it to true (a JSON boolean).",
        )


def _singleton(template: Template) -> Iterator[Found]:
    role = template.role(COORDINATOR)
    if role and [role.number(key) for key in ("cardinality", "min_vms", "max_vms")] != [1, 1, 1]:
        yield (
            role.where,
            "It may be deployed or scaled to something other than one; two coordinators split the federation.",
            "Set cardinality, min_vms and max_vms to 1.",
        )


def _parents(template: Template) -> Iterator[Found]:
    known = {role.name: role.parents for role in template.roles}
    for role in template.roles:
        for parent in role.parents:
            if parent not in known:
                yield role.where, f"Its parent {parent} does not exist: it would wait forever.", "Name a role."
        if _reaches(known, role.name, role.name):
            yield role.where, "It is its own ancestor: no role of the cycle would ever boot.", "Break the cycle."
    nodes = template.role(NODES)
    if nodes and template.role(COORDINATOR) and COORDINATOR not in nodes.parents:
        yield nodes.where, "It does not wait for the SuperLink.", f'Set "parents": ["{COORDINATOR}"].'


def _reaches(parents: dict[str, list[str]], start: str, goal: str) -> bool:
    seen: set[str] = set()
    stack = list(parents.get(start, []))
    while stack:
        name = stack.pop()
        if name == goal:
            return True
        if name not in seen:
            seen.add(name)
            stack.extend(parents.get(name, []))
    return False


def _cardinality(template: Template) -> Iterator[Found]:
    for role in template.roles:
        if role.name == COORDINATOR:
            continue
        number, least, most = (role.number(key) for key in ("cardinality", "min_vms", "max_vms"))
        if least is None or most is None:
            yield role.where, "It has no min_vms or no max_vms, so scaling has no limits.", "Set both."
        elif number is None or not least <= number <= most:
            yield role.where, "Its cardinality is not within min_vms and max_vms.", "OneFlow refuses it (400)."


def _min_clients(template: Template) -> Iterator[Found]:
    coordinator, nodes = template.role(COORDINATOR), template.role(NODES)
    if coordinator is None or nodes is None:
        return
    name = "FL_MIN_AVAILABLE_CLIENTS"
    asked = coordinator.inputs.get(name) or template.inputs.get(references(coordinator.data).get(name, name))
    text = default_of(asked)
    least = nodes.number("min_vms")
    if text and text.isdigit() and least is not None and least < int(text):
        yield (
            nodes.where,
            f"min_vms is {least} and FL_MIN_AVAILABLE_CLIENTS is {text}: scaled down, no round could start.",
            "Raise min_vms or lower FL_MIN_AVAILABLE_CLIENTS.",
        )


def _two_levels(template: Template) -> Iterator[Found]:
    levels = [("the service", template.inputs), *((role.where, role.inputs) for role in template.roles)]
    for key in sorted({key for _, inputs in levels for key in inputs}):
        homes = [where for where, inputs in levels if key in inputs]
        if len(homes) > 1:
            yield (
                key,
                f"It is asked for on {' and '.join(homes)}; a role's value silently overrides the service's.",
                "Keep it on one level.",
            )


def _wrong_level(template: Template) -> Iterator[Found]:
    kind = template.kind or ServiceKind.FEDERATION
    levels = [("service", template.inputs), *((role.name, role.inputs) for role in template.roles)]
    for level, inputs in levels:
        for parameter in (PARAMETERS[key] for key in inputs if key in PARAMETERS):
            own = (parameter.level,) if parameter.level is Level.SERVICE else (parameter.level, *kind.homes(parameter))
            if level in ("service", COORDINATOR, NODES) and level not in own:
                yield parameter.name, f"It is asked for on {level}.", f"It belongs to {parameter.level}."


def _infrastructure(template: Template) -> Iterator[Found]:
    for where, inputs in template.forms:
        for key in sorted(_INFRASTRUCTURE & set(inputs)):
            yield (
                where,
                f"A tenant is asked for {key}, on which booting depends.",
                "Put it into template_contents.CONTEXT.",
            )


def _token(template: Template) -> Iterator[Found]:
    for role in template.roles:
        if role.setting("TOKEN") != "YES":
            yield (
                role.where,
                "Its CONTEXT has no TOKEN=YES: the VM cannot reach OneGate and never reports READY.",
                'Add "TOKEN": "YES" to template_contents.CONTEXT.',
            )


def _static_address(template: Template) -> Iterator[Found]:
    name = "FL_SUPERLINK_ADDRESS"
    for role in template.roles if template.kind is not ServiceKind.SITE else ():
        fixed = role.setting(name) or default_of(role.inputs.get(name))
        if fixed and fixed != f"${name}":
            yield role.where, f"{name} is fixed to {fixed}, whatever SuperLink this service makes.", "Leave it empty."


def _dollar_brace(template: Template) -> Iterator[Found]:
    for role in template.roles:
        script = role.setting("START_SCRIPT") or ""
        if "${" in script:
            yield role.where, "OneFlow blanks ${...} in START_SCRIPT.", "Use START_SCRIPT_BASE64."


def _names(template: Template) -> Iterator[Found]:
    for role in template.roles:
        old = {"vm_template", "vm_template_contents", "custom_attrs"} & set(role.data)
        new = {"template_id", "template_contents", "user_inputs", "type"} & set(role.data)
        if old and new:
            yield role.where, "It mixes names of OpenNebula 6 and 7; 7 then sets template_id to 0.", "Use one set."
        elif template.compat6:
            if "vm_template" not in role.data:
                yield role.where, "It has no vm_template.", "Add the id of a VM template."
        else:
            if role.data.get("type") not in ("vm", "vr"):
                yield role.where, "It has no type, which OpenNebula 7 requires.", 'Add "type": "vm".'
            if "template_id" not in role.data:
                yield role.where, "It has no template_id.", "Add the id of a VM template."
            if "template_contents" in role.data and not isinstance(role.data["template_contents"], dict):
                yield role.where, "template_contents is not an object; OpenNebula 7 refuses it.", "Write an object."


_CONVERTED = (
    "It has the names of OpenNebula 6. OpenNebula 7 accepts and converts them: CONTEXT becomes a list, so that "
    "deployment fails where there are user inputs, and VMs have no TOKEN where there are none."
)


def _other_release(template: Template) -> Iterator[Found]:
    if template.release == _SEVEN and template.compat6:
        yield (
            "service",
            _CONVERTED,
            "Render it for 7, or validate it for a server of OpenNebula 6 with --compat 6.",
        )
    elif template.release != _SEVEN and template.roles and not template.compat6:
        yield (
            "service",
            "It has the names of OpenNebula 7, and OpenNebula 6 refuses a role without vm_template.",
            "Render it with --compat 6.",
        )


def _user_inputs(template: Template) -> Iterator[Found]:
    for where, inputs in template.forms:
        for key, text in inputs.items():
            if why := _input_problem(key, text):
                yield f"{where}, {key}", why, "The form is M|type|description|options|default or O|...."
    for role in template.roles:
        if role.data.get("user_inputs") == {}:
            yield (
                role.where,
                "Empty user_inputs require every client to send values for them.",
                "Leave user_inputs out.",
            )


def _input_problem(key: str, text: Any) -> str:
    if not re.fullmatch(r"[A-Z][A-Z0-9_]*", key):
        return "The name is not upper-case letters, digits and underscores."
    parts = text.split("|") if isinstance(text, str) else []
    if len(parts) not in (3, 5) or parts[0] not in ("M", "O"):
        return "It is not a user input that OpenNebula's tools can read."
    if parts[1] not in _TYPES:
        return f"{parts[1]!r} is not a type of user input."
    if parts[1] == "list-multiple":
        return "OpenNebula's command-line tools refuse list-multiple."
    if parts[1] == "list" and len(parts) == 5 and parts[4] not in parts[3].split(","):
        return f"Its default {parts[4]!r} is not among its options."
    return ""


# The rules by the names that findings have, in the order of a report.
RULES: dict[str, Callable[[Template], Iterator[Found]]] = {
    "structure": _structure,
    "role-name": _role_name,
    "deployment-none": _deployment,
    "gate-off": _gate,
    "superlink-not-singleton": _singleton,
    "parents": _parents,
    "cardinality": _cardinality,
    "min-clients": _min_clients,
    "key-on-two-levels": _two_levels,
    "wrong-level": _wrong_level,
    "infrastructure-as-input": _infrastructure,
    "token-missing": _token,
    "static-superlink-address": _static_address,
    "dollar-brace": _dollar_brace,
    "release-names": _names,
    "other-release": _other_release,
    "user-input": _user_inputs,
}
