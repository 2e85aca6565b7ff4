"""Finds the traps in a service template that OneFlow accepts without a word.

OneFlow checks little (a missing `type`, cardinality outside its bounds) and stores the rest as it comes; what is wrong
then shows as a service that hangs, trains on the wrong data, or starts before its coordinator. Each rule here names
one such trap.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oneflower.opennebula.service import COORDINATOR, NODES, PLACEHOLDERS, infrastructure
from oneflower_appliance.parameters import PARAMETERS, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_INFRASTRUCTURE = {
    *infrastructure(COORDINATOR),
    "READY_SCRIPT",
    "START_SCRIPT",
    "START_SCRIPT_BASE64",
    "ONEGATE_ENDPOINT",
}
_SEVEN = 7
_TYPES = {*(str(kind) for kind in Kind), "password", "range", "range-float", "fixed", "list-multiple"}


@dataclass(frozen=True)
class Finding:
    """One trap: where it is, why it is one, and how to mend it."""

    rule: str
    where: str
    why: str
    mend: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why} {self.mend} [{self.rule}]"


Found = tuple[str, str, str]


class _Role:
    """One role, whichever release's names it uses."""

    def __init__(self, data: dict[str, Any], index: int) -> None:
        self.data = data
        self.name = data["name"] if isinstance(data.get("name"), str) else ""
        self.where = f"role {self.name}" if self.name else f"role number {index + 1}"
        self.inputs = _mapping(data.get("user_inputs", data.get("custom_attrs")))
        contents = data.get("template_contents", data.get("vm_template_contents"))
        self.text = contents if isinstance(contents, str) else ""
        self.contents = _mapping(contents)
        self.context = _mapping(self.contents.get("CONTEXT"))

    def setting(self, key: str) -> str | None:
        """Return what CONTEXT says for `key`, in an object or in 6.x text."""
        if key in self.context:
            return str(self.context[key])
        match = re.search(rf'\b{key}\s*=\s*"((?:[^"\\]|\\.)*)"', self.text)
        return match[1] if match else None

    def number(self, key: str) -> int | None:
        value = self.data.get(key)
        if isinstance(value, str) and re.fullmatch(r"\d+", value):
            return int(value)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def parents(self) -> list[str]:
        parents = self.data.get("parents")
        return [str(parent) for parent in parents] if isinstance(parents, list) else []


class _Service:
    """A template, and for which release of OpenNebula (6 or 7) it is meant."""

    def __init__(self, data: dict[str, Any], release: int = 7) -> None:
        self.data = data
        self.release = release
        entries = data.get("roles")
        self.roles = [
            _Role(_mapping(role), index) for index, role in enumerate(entries if isinstance(entries, list) else [])
        ]
        self.inputs = _mapping(data.get("user_inputs", data.get("custom_attrs")))
        self.compat6 = any("vm_template" in role.data or "vm_template_contents" in role.data for role in self.roles)

    @property
    def forms(self) -> list[tuple[str, dict[str, Any]]]:
        """Where user inputs are asked for, and which."""
        return [("service", self.inputs), *((role.where, role.inputs) for role in self.roles)]

    def role(self, name: str) -> _Role | None:
        return next((role for role in self.roles if role.name == name), None)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


_RULES: list[tuple[str, Callable[[_Service], Iterator[Found]]]] = []


def _rule(name: str) -> Callable[[Callable[[_Service], Iterator[Found]]], Callable[[_Service], Iterator[Found]]]:
    def register(check: Callable[[_Service], Iterator[Found]]) -> Callable[[_Service], Iterator[Found]]:
        _RULES.append((name, check))
        return check

    return register


def lint(template: Any, release: int = 7) -> list[Finding]:
    """Return every trap found in a service template, given as parsed JSON, for a server of OpenNebula 6 or 7."""
    if not isinstance(template, dict):
        return [Finding("not-a-template", "file", "The JSON is not an object.", "Give one service template.")]
    body = template.get("DOCUMENT", {}).get("TEMPLATE", {}).get("BODY") if "DOCUMENT" in template else None
    service = _Service(body if isinstance(body, dict) else template, release)
    return [Finding(name, *found) for name, check in _RULES for found in check(service)]


def placeholders(template: Any) -> list[str]:
    """Return the roles whose VM template id is still a placeholder of `oneflower render`."""
    service = _Service(_mapping(template))
    return [
        role.name
        for role in service.roles
        if role.data.get("template_id", role.data.get("vm_template")) in PLACEHOLDERS.values()
    ]


@_rule("structure")
def _structure(service: _Service) -> Iterator[Found]:
    if not isinstance(service.data.get("name"), str):
        yield "service", "It has no name.", 'Add "name".'
    if not service.roles:
        yield (
            "service",
            "It has no roles, which OneFlow accepts and deploys as nothing.",
            "Add superlink and supernode.",
        )
    names = [role.name for role in service.roles]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"role {name}", "The name is used twice.", "Names are unique within a service."
    for name in (COORDINATOR, NODES):
        if service.roles and name not in names:
            yield "service", f"There is no role named {name}.", "SuperNodes find their SuperLink by the role's name."


@_rule("role-name")
def _role_name(service: _Service) -> Iterator[Found]:
    for role in service.roles:
        if not re.fullmatch(r"\w+", role.name):
            yield role.where, "OneFlow refuses the name.", "Use letters, digits and underscores; no hyphen."


@_rule("deployment-none")
def _deployment(service: _Service) -> Iterator[Found]:
    if service.data.get("deployment") != "straight":
        yield "deployment", "All roles boot at once, SuperNodes before there is a SuperLink.", 'Set "straight".'


@_rule("gate-off")
def _gate(service: _Service) -> Iterator[Found]:
    if service.data.get("ready_status_gate") is not True:
        yield (
            "ready_status_gate",
            "A role counts as running when its VM boots, not when Flower answers.",
            "Set it to true (a JSON boolean).",
        )


@_rule("superlink-not-singleton")
def _singleton(service: _Service) -> Iterator[Found]:
    role = service.role(COORDINATOR)
    if role and [role.number(key) for key in ("cardinality", "min_vms", "max_vms")] != [1, 1, 1]:
        yield (
            role.where,
            "It may be deployed or scaled to something other than one; two coordinators split the federation.",
            "Set cardinality, min_vms and max_vms to 1.",
        )


@_rule("superlink-policies")
def _policies(service: _Service) -> Iterator[Found]:
    role = service.role(COORDINATOR)
    if role and (role.data.get("elasticity_policies") or role.data.get("scheduled_policies")):
        yield role.where, "It has scaling policies, and a SuperLink cannot be scaled.", "Remove them."


@_rule("parents")
def _parents(service: _Service) -> Iterator[Found]:
    known = {role.name: role.parents for role in service.roles}
    for role in service.roles:
        for parent in role.parents:
            if parent not in known:
                yield role.where, f"Its parent {parent} does not exist: it would wait for ever.", "Name a role."
        if _reaches(known, role.name, role.name):
            yield role.where, "It is its own ancestor: no role of the cycle would ever boot.", "Break the cycle."
    nodes = service.role(NODES)
    if nodes and COORDINATOR not in nodes.parents:
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


@_rule("cardinality")
def _cardinality(service: _Service) -> Iterator[Found]:
    for role in service.roles:
        if role.name == COORDINATOR:
            continue
        number, least, most = (role.number(key) for key in ("cardinality", "min_vms", "max_vms"))
        if least is None or most is None:
            yield role.where, "It has no min_vms or no max_vms, so scaling has no limits.", "Set both."
        elif number is None or not least <= number <= most:
            yield role.where, "Its cardinality is not within min_vms and max_vms.", "OneFlow refuses it (400)."


@_rule("min-clients")
def _min_clients(service: _Service) -> Iterator[Found]:
    coordinator, nodes = service.role(COORDINATOR), service.role(NODES)
    if coordinator is None or nodes is None:
        return
    text = _default(coordinator.inputs.get("FL_MIN_AVAILABLE_CLIENTS"))
    least = nodes.number("min_vms")
    if text and text.isdigit() and least is not None and least < int(text):
        yield (
            nodes.where,
            f"min_vms is {least} and FL_MIN_AVAILABLE_CLIENTS is {text}: scaled down, no round could start.",
            "Raise min_vms or lower FL_MIN_AVAILABLE_CLIENTS.",
        )


@_rule("key-on-two-levels")
def _two_levels(service: _Service) -> Iterator[Found]:
    levels = [("the service", service.inputs), *((role.where, role.inputs) for role in service.roles)]
    for key in sorted({key for _, inputs in levels for key in inputs}):
        homes = [where for where, inputs in levels if key in inputs]
        if len(homes) > 1:
            yield (
                key,
                f"It is asked for on {' and '.join(homes)}; a role's value silently overrides the service's.",
                "Keep it on one level.",
            )


@_rule("wrong-level")
def _wrong_level(service: _Service) -> Iterator[Found]:
    levels = [("service", service.inputs), *((role.name, role.inputs) for role in service.roles)]
    for level, inputs in levels:
        for key in inputs:
            if key in PARAMETERS and level in ("service", COORDINATOR, NODES) and PARAMETERS[key].level != level:
                yield key, f"It is asked for on {level}.", f"It belongs to {PARAMETERS[key].level}."


@_rule("infrastructure-as-input")
def _infrastructure(service: _Service) -> Iterator[Found]:
    for where, inputs in service.forms:
        for key in sorted(_INFRASTRUCTURE & set(inputs)):
            yield (
                where,
                f"A tenant is asked for {key}, on which booting depends.",
                "Put it into template_contents.CONTEXT.",
            )


@_rule("token-missing")
def _token(service: _Service) -> Iterator[Found]:
    for role in service.roles:
        if role.setting("TOKEN") != "YES":
            yield (
                role.where,
                "Its CONTEXT has no TOKEN=YES: the VM cannot reach OneGate and never reports READY.",
                'Add "TOKEN": "YES" to template_contents.CONTEXT.',
            )


@_rule("static-superlink-address")
def _static_address(service: _Service) -> Iterator[Found]:
    name = "FL_SUPERLINK_ADDRESS"
    for role in service.roles:
        fixed = role.setting(name) or _default(role.inputs.get(name))
        if fixed and fixed != f"${name}":
            yield role.where, f"{name} is fixed to {fixed}, whatever SuperLink this service makes.", "Leave it empty."


@_rule("dollar-brace")
def _dollar_brace(service: _Service) -> Iterator[Found]:
    for role in service.roles:
        script = role.setting("START_SCRIPT") or ""
        if "${" in script:
            yield role.where, "OneFlow blanks ${...} in START_SCRIPT.", "Use START_SCRIPT_BASE64."


@_rule("release-names")
def _names(service: _Service) -> Iterator[Found]:
    for role in service.roles:
        old = {"vm_template", "vm_template_contents", "custom_attrs"} & set(role.data)
        new = {"template_id", "template_contents", "user_inputs", "type"} & set(role.data)
        if old and new:
            yield role.where, "It mixes names of OpenNebula 6 and 7; 7 then sets template_id to 0.", "Use one set."
        elif service.compat6:
            if "vm_template" not in role.data:
                yield role.where, "It has no vm_template.", "Add the id of a VM template."
        else:
            if role.data.get("type") not in ("vm", "vr"):
                yield role.where, "It has no type, which OpenNebula 7 insists on.", 'Add "type": "vm".'
            if "template_id" not in role.data:
                yield role.where, "It has no template_id.", "Add the id of a VM template."
            if "template_contents" in role.data and not isinstance(role.data["template_contents"], dict):
                yield role.where, "template_contents is not an object; OpenNebula 7 refuses it.", "Write an object."


_CONVERTED = (
    "It has the names of OpenNebula 6. OpenNebula 7 accepts and converts them: CONTEXT becomes a list, so that "
    "deployment fails where there are user inputs, and VMs have no TOKEN where there are none."
)


@_rule("other-release")
def _other_release(service: _Service) -> Iterator[Found]:
    if service.release == _SEVEN and service.compat6:
        yield (
            "service",
            _CONVERTED,
            "Render it for 7, or validate it for a server of OpenNebula 6 with --compat 6.",
        )
    elif service.release != _SEVEN and service.roles and not service.compat6:
        yield (
            "service",
            "It has the names of OpenNebula 7, and OpenNebula 6 refuses a role without vm_template.",
            "Render it with --compat 6.",
        )


@_rule("user-input")
def _user_inputs(service: _Service) -> Iterator[Found]:
    for where, inputs in service.forms:
        for key, text in inputs.items():
            if why := _input_problem(key, text):
                yield f"{where}, {key}", why, "The form is M|type|description|options|default or O|...."
    for role in service.roles:
        if role.data.get("user_inputs") == {}:
            yield role.where, "Empty user_inputs oblige every client to send values for it.", "Leave user_inputs out."


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


def _default(text: Any) -> str:
    parts = text.split("|") if isinstance(text, str) else []
    return parts[4].strip() if len(parts) == 5 else ""
