"""The OneFlow service template, built from the declared parameters, in two renderings.

The three levels ask for every variable: once for the service, or in the role that it concerns. Sunstone cannot fill in
the inputs of a role; it sends the values that the template has for them. So the template has the defaults.

The form asks for a few variables, on service level; Sunstone groups them by the names of the inputs. Each becomes a
variable in the CONTEXT of just the roles that need it. The inputs themselves reach every machine, so the form asks
for no secret.

Neither rendering asks for a secret. An input is also an attribute of the VM, which every machine of the service reads
through OneGate. `up` puts a secret into the CONTEXT of the role that needs it (`inputs.merge_template`).

OpenNebula 7 copies every user input into the CONTEXT of the VMs by itself and merges `template_contents` as an
object. OpenNebula 6 uses other names (`vm_template`, `vm_template_contents` as text, `custom_attrs`) and only replaces
`$NAME` in that text, so each variable is written into CONTEXT here. Source: OneFlow's service_template.rb and
service.rb of both releases.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from oneflower.opennebula.carried import Carried
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.form import APP, Group
from oneflower_appliance.parameters import Level, form_fields, of_level
from oneflower_appliance.roles import COORDINATOR, NODES
from oneflower_appliance.settings import Bounds, resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "oneflower"
READY_SCRIPT = "/usr/lib/oneflower/ready"

# OneFlow refuses a template_id that is not a number, so nobody can register a template with these by mistake.
PLACEHOLDERS = {COORDINATOR: "SUPERLINK_VM_TEMPLATE_ID", NODES: "SUPERNODE_VM_TEMPLATE_ID"}

_LEVEL_OF_ROLE = {COORDINATOR: Level.SUPERLINK, NODES: Level.SUPERNODE}


class Rendering(StrEnum):
    """How a service template asks for the variables."""

    LEVELS = "levels"
    FORM = "form"

    def template_name(self, name: str) -> str:
        """Return the name of this service template; `name` is that of the one with the three levels."""
        return f"{name}-form" if self is Rendering.FORM else name


@dataclass(frozen=True)
class ServiceOptions:
    """What may differ between two service templates.

    `cooldown` is how long, in seconds, OneFlow waits after each scaling, including manual ones. `carried` is what the
    image of the SuperNodes has.
    """

    name: str = NAME
    bounds: Bounds = field(default_factory=Bounds)
    cooldown: int = 5
    compat: int = 7
    template_ids: Mapping[str, int] = field(default_factory=dict)
    rendering: Rendering = Rendering.LEVELS
    carried: Carried = field(default_factory=Carried)


def service_template(options: ServiceOptions) -> dict[str, Any]:
    """Return the service template as JSON-able data.

    Raises `InvalidParametersError` for impossible bounds, and `OneflowerError` for a form on OpenNebula 6.
    """
    resolve({}, bounds=options.bounds)
    if options.rendering is Rendering.FORM and options.compat == 6:
        raise OneflowerError(
            "The form is for OpenNebula 7: the Sunstone of OpenNebula 6 has no groups.",
            "Leave --form or --compat 6 out.",
            ExitCode.USAGE,
        )
    bounds = options.bounds
    roles = [
        {"name": COORDINATOR, "cardinality": 1, "min_vms": 1, "max_vms": 1},
        {
            "name": NODES,
            "parents": [COORDINATOR],
            "cardinality": bounds.cardinality,
            "min_vms": bounds.minimum,
            "max_vms": bounds.maximum,
        },
    ]
    common = {
        "name": options.name,
        "description": "A Flower federation: one SuperLink, and SuperNodes that train on the data they hold.",
        "deployment": "straight",
        "ready_status_gate": True,
        "shutdown_action": "shutdown",
    }
    if options.compat == 6:
        roles = [_role_of_6(role, options) for role in roles]
        return {**common, "custom_attrs": _inputs(Level.SERVICE, options.carried), "roles": roles}
    if options.rendering is Rendering.FORM:
        roles = [_role_of_form(role, options) for role in roles]
        return {**common, "user_inputs": _form(options.carried), "user_inputs_metadata": _form_groups(), "roles": roles}
    asked = _inputs(Level.SERVICE, options.carried)
    return {**common, "user_inputs": asked, "roles": [_role_of_7(role, options) for role in roles]}


def infrastructure(role: str) -> dict[str, str]:
    """Return the CONTEXT entries that the appliance needs and that the form does not ask for."""
    return {
        "NETWORK": "YES",
        "TOKEN": "YES",
        "REPORT_READY": "YES",
        "READY_SCRIPT_PATH": READY_SCRIPT,
        "SSH_PUBLIC_KEY": "$USER[SSH_PUBLIC_KEY]",
        "ONEFLOWER_ROLE": role,
    }


def _inputs(level: Level, carried: Carried) -> dict[str, str]:
    return {parameter.name: carried.fit(parameter).user_input() for parameter in of_level(level)}


def _form(carried: Carried) -> dict[str, str]:
    return {field.input: carried.fit(parameter).user_input(field.label) for field, parameter in form_fields()}


def _form_groups() -> list[dict[str, str]]:
    """Return the titles of the form's tab and groups in Sunstone."""
    tab = {
        "type": "APP",
        "name": APP,
        "title": "Flower federation",
        "description": "Everything has a default. What most people set comes first.",
    }
    groups = [{"type": "GROUP", "name": g.name, "title": g.title, "description": g.help} for g in Group]
    return [tab, *groups]


def _role_of_form(role: dict[str, Any], options: ServiceOptions) -> dict[str, Any]:
    levels = (Level.SERVICE, _LEVEL_OF_ROLE[role["name"]])
    variables = {p.name: f"${field.input}" for field, p in form_fields() if p.level in levels}
    context = infrastructure(role["name"]) | options.carried.fixed() | variables
    return _role(role, options) | {"template_contents": {"CONTEXT": context}}


def _role_of_7(role: dict[str, Any], options: ServiceOptions) -> dict[str, Any]:
    asked = [parameter for parameter in of_level(_LEVEL_OF_ROLE[role["name"]]) if not parameter.secret]
    return {
        **_role(role, options),
        "user_inputs": {p.name: options.carried.fit(p).user_input() for p in asked},
        "user_inputs_values": {p.name: options.carried.fit(p).default for p in asked},
        "template_contents": {"CONTEXT": infrastructure(role["name"])},
    }


def _role(role: dict[str, Any], options: ServiceOptions) -> dict[str, Any]:
    name = role["name"]
    number = options.template_ids.get(name, PLACEHOLDERS[name])
    return {**role, "type": "vm", "template_id": number, "cooldown": options.cooldown}


def _role_of_6(role: dict[str, Any], options: ServiceOptions) -> dict[str, Any]:
    name = role["name"]
    level = _LEVEL_OF_ROLE[name]
    variables = {p.name: f"${p.name}" for p in of_level(Level.SERVICE, level)}
    entries = ",\n".join(f'  {key}="{value}"' for key, value in (infrastructure(name) | variables).items())
    return {
        **role,
        "vm_template": options.template_ids.get(name, PLACEHOLDERS[name]),
        "cooldown": options.cooldown,
        "custom_attrs": _inputs(level, options.carried),
        "vm_template_contents": f"CONTEXT=[\n{entries} ]\n",
    }
