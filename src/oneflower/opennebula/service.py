"""The OneFlow service template of each kind, built from the declared parameters, in two renderings.

The three levels ask for every variable: once for the service, or in the role that it concerns. Sunstone cannot fill in
the inputs of a role; it sends the values that the template has for them. So the template has the defaults.

The form asks for a few variables, on service level; Sunstone groups them by the names of the inputs. Each becomes a
variable in the CONTEXT of just the roles that need it. The inputs themselves reach every machine, so the form asks
for no secret of one role.

Neither rendering asks for a secret, unless every machine of the service needs it, as the invitation of a site. An input
is also an attribute of the VM, which every machine of the service reads through OneGate. `up` puts a secret into the
CONTEXT of the role that needs it (`inputs.merge_template`).

OpenNebula 7 copies every user input into the CONTEXT of the VMs by itself and merges `template_contents` as an
object. OpenNebula 6 uses other names (`vm_template`, `vm_template_contents` as text, `custom_attrs`) and only replaces
`$NAME` in that text, so each variable is written into CONTEXT here. Source: OneFlow's service_template.rb and
service.rb of both releases.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from oneflower.opennebula.autoscale import Policies
from oneflower.opennebula.carried import Carried
from oneflower.opennebula.kinds import ServiceKind
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.form import APP
from oneflower_appliance.roles import COORDINATOR, NODES
from oneflower_appliance.settings import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower_appliance.parameter import Parameter
    from oneflower_appliance.settings import Bounds

NAME = "oneflower"
READY_SCRIPT = "/usr/lib/oneflower/ready"

# OneFlow refuses a template_id that is not a number, so nobody can register a template with these by mistake.
PLACEHOLDERS = {COORDINATOR: "SUPERLINK_VM_TEMPLATE_ID", NODES: "SUPERNODE_VM_TEMPLATE_ID"}

_HELP = {
    ServiceKind.FEDERATION: "Everything has a default. What most people set comes first.",
    ServiceKind.COORDINATOR: "Everything has a default. Sites bring the SuperNodes.",
    ServiceKind.SITE: "Who runs the coordinator tells where it is.",
}
_DESCRIPTIONS = {
    ServiceKind.FEDERATION: "A Flower federation: one SuperLink, and SuperNodes that train on the data they hold.",
    ServiceKind.COORDINATOR: "The coordinator of a Flower federation: one SuperLink, for SuperNodes of other sites.",
    ServiceKind.SITE: "A site of a Flower federation: SuperNodes that train on the data they hold, for a coordinator.",
}


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

    `bounds` are the usual ones of the kind, if there are none. `cooldown` is how long, in seconds, OneFlow waits after
    each scaling, including manual ones. `carried` is what the image of the SuperNodes has. `policies` scale SuperNodes.
    """

    name: str = NAME
    bounds: Bounds | None = None
    cooldown: int = 5
    compat: int = 7
    template_ids: Mapping[str, int] = field(default_factory=dict)
    rendering: Rendering = Rendering.LEVELS
    carried: Carried = field(default_factory=Carried)
    kind: ServiceKind = ServiceKind.FEDERATION
    policies: Policies = field(default_factory=Policies)


def service_template(options: ServiceOptions) -> dict[str, Any]:
    """Return the service template as JSON-able data.

    Raises `InvalidParametersError` for impossible bounds, and `OneflowerError` for a form on OpenNebula 6 and for
    policies that cannot work.
    """
    kind = options.kind
    bounds = options.bounds or kind.bounds()
    resolve({}, kind.levels, bounds, kind.also)
    if options.rendering is Rendering.FORM and options.compat == 6:
        raise OneflowerError(
            "The form is for OpenNebula 7: the Sunstone of OpenNebula 6 has no groups.",
            "Leave --form or --compat 6 out.",
            ExitCode.USAGE,
        )
    roles = _roles(kind, bounds, options.policies)
    common = {
        "name": options.name,
        "description": _DESCRIPTIONS[kind],
        "deployment": "straight",
        "ready_status_gate": True,
        "shutdown_action": "shutdown",
    }
    if options.compat == 6:
        roles = [_role_of_6(role, options) for role in roles]
        return {**common, "custom_attrs": _inputs(kind.parameters(), options.carried), "roles": roles}
    if options.rendering is Rendering.FORM:
        roles = [_role_of_form(role, options) for role in roles]
        asked = {field.input: options.carried.fit(p).user_input(field.label) for field, p in kind.form_fields()}
        return {**common, "user_inputs": asked, "user_inputs_metadata": _form_groups(kind), "roles": roles}
    asked = _inputs(kind.parameters(), options.carried)
    return {**common, "user_inputs": asked, "roles": [_role_of_7(role, options) for role in roles]}


def _roles(kind: ServiceKind, bounds: Bounds | None, policies: Policies) -> list[dict[str, Any]]:
    roles: list[dict[str, Any]] = []
    if COORDINATOR in kind.roles:
        roles.append({"name": COORDINATOR, "cardinality": 1, "min_vms": 1, "max_vms": 1})
    if bounds is not None:
        policies.check(bounds.minimum, bounds.maximum)
        limits = {"cardinality": bounds.cardinality, "min_vms": bounds.minimum, "max_vms": bounds.maximum}
        nodes = {**limits, **policies.entries}
        roles.append({"name": NODES, **({"parents": [COORDINATOR]} if roles else {}), **nodes})
    return roles


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


def _inputs(asked: list[Parameter], carried: Carried) -> dict[str, str]:
    return {parameter.name: carried.fit(parameter).user_input() for parameter in asked}


def _form_groups(kind: ServiceKind) -> list[dict[str, str]]:
    """Return the titles of the form's tab and groups in Sunstone."""
    tab = {
        "type": "APP",
        "name": APP,
        "title": f"Flower {kind}",
        "description": _HELP[kind],
    }
    groups = [
        {"type": "GROUP", "name": name, "title": title, "description": text} for name, title, text in kind.form_groups()
    ]
    return [tab, *groups]


def _role_of_form(role: dict[str, Any], options: ServiceOptions) -> dict[str, Any]:
    kind = options.kind
    variables = {p.name: f"${field.input}" for field, p in kind.form_fields() if role["name"] in kind.homes(p)}
    context = infrastructure(role["name"]) | options.carried.fixed() | variables
    return _role(role, options) | {"template_contents": {"CONTEXT": context}}


def _role_of_7(role: dict[str, Any], options: ServiceOptions) -> dict[str, Any]:
    asked = [parameter for parameter in options.kind.parameters(role["name"]) if not parameter.secret]
    return {
        **_role(role, options),
        "user_inputs": _inputs(asked, options.carried),
        "user_inputs_values": {p.name: options.carried.fit(p).default for p in asked},
        "template_contents": {"CONTEXT": infrastructure(role["name"])},
    }


def _role(role: dict[str, Any], options: ServiceOptions) -> dict[str, Any]:
    name = role["name"]
    number = options.template_ids.get(name, PLACEHOLDERS[name])
    return {**role, "type": "vm", "template_id": number, "cooldown": options.cooldown}


def _role_of_6(role: dict[str, Any], options: ServiceOptions) -> dict[str, Any]:
    name = role["name"]
    asked = options.kind.parameters(name)
    variables = {p.name: f"${p.name}" for p in (*options.kind.parameters(), *asked)}
    entries = ",\n".join(f'  {key}="{value}"' for key, value in (infrastructure(name) | variables).items())
    return {
        **role,
        "vm_template": options.template_ids.get(name, PLACEHOLDERS[name]),
        "cooldown": options.cooldown,
        "custom_attrs": _inputs(asked, options.carried),
        "vm_template_contents": f"CONTEXT=[\n{entries} ]\n",
    }
