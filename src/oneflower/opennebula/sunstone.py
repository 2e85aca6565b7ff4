"""The traps of Sunstone's form: what it cannot fill in, and what it spreads. Measured on FireEdge 7.4.1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oneflower.opennebula.inputs import references
from oneflower.opennebula.kinds import ServiceKind
from oneflower.opennebula.linted import mapping
from oneflower_appliance.parameters import PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from oneflower.opennebula.linted import Template
    from oneflower.opennebula.rules import Found

_SEVEN = 7
# What makes Sunstone ask for the inputs of a VM template.
_ASKING = ("USER_INPUTS", "INPUTS_ORDER")
_TABS = (
    "Sunstone then shows a tab for each role and sends one value for each tab, instead of those that the role has "
    "stored, which OneFlow refuses."
)


def asking(contents: Mapping[str, Any]) -> Iterator[Found]:
    """Yield what asks for inputs in a VM template, or in what a role adds to it."""
    for key in _ASKING:
        if key in contents:
            yield key, f"It asks for inputs. {_TABS}", "Remove it: the service template asks for inputs."


def _asking_roles(template: Template) -> Iterator[Found]:
    for role in template.roles:
        for key, why, fix in asking(role.contents):
            yield f"{role.where}, {key}", why, fix


def _text64(template: Template) -> Iterator[Found]:
    for where, inputs in template.forms:
        for key, text in inputs.items():
            if _kind(text) == "text64":
                why = "Sunstone does not encode text64, and `oneflow-template instantiate` may end at it."
                yield f"{where}, {key}", why, "Ask for text. The appliance accepts a PEM, as it is or in base64."


def _kind(user_input: Any) -> str:
    parts = user_input.split("|") if isinstance(user_input, str) else []
    return parts[1] if len(parts) > 1 else ""


def _without_values(template: Template) -> Iterator[Found]:
    if template.compat6 or template.release != _SEVEN:
        return
    for role in template.roles:
        stored = mapping(role.data.get("user_inputs_values"))
        if missing := [key for key in role.inputs if key not in stored]:
            names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            why = f"Sunstone sends for a role's inputs what the role has stored. OneFlow refuses that without {names}."
            yield role.where, why, "Store the defaults in the role's user_inputs_values, or ask on service level only."


def _secrets(template: Template) -> Iterator[Found]:
    behind = {source: name for role in template.roles for name, source in references(role.data).items()}
    for key, text in template.inputs.items():
        name = behind.get(key, key)
        known = PARAMETERS.get(name)
        if known and known.secret and (template.kind or ServiceKind.FEDERATION).may_ask(known):
            continue
        if _kind(text) == "password" or (known and known.secret):
            why = "It is a secret, and what is asked for on service level reaches every machine of the service."
            yield f"service, {key}", why, "Ask for it in the role that needs it."


def _asked_secrets(template: Template) -> Iterator[Found]:
    for role in template.roles if not template.compat6 else ():
        for key in role.inputs:
            if key in PARAMETERS and PARAMETERS[key].secret:
                why = "It is a secret. An input is an attribute of the VM, too, which the other machines can read."
                yield f"{role.where}, {key}", why, "Remove it: `oneflower up --set` gives it to the machine alone."


def _unasked(template: Template) -> Iterator[Found]:
    for role in template.roles:
        for name, source in references(role.data).items():
            if name in PARAMETERS and source not in template.inputs and source not in role.inputs:
                why = f"{name} refers to the input {source}, which nobody is asked for: it is always empty."
                yield role.where, why, "Ask for it, or remove the reference."


# The rules by the names that findings have, in the order of a report.
RULES: dict[str, Callable[[Template], Iterator[Found]]] = {
    "role-input-without-value": _without_values,
    "vm-template-inputs": _asking_roles,
    "secret-on-service": _secrets,
    "secret-input": _asked_secrets,
    "text64": _text64,
    "reference-to-nothing": _unasked,
}
