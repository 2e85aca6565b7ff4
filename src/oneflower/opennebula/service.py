"""The OneFlow service template, built from the declared parameters.

OpenNebula 7 copies every user input into the CONTEXT of the VMs by itself and merges `template_contents` as an
object. OpenNebula 6 uses other names (`vm_template`, `vm_template_contents` as text, `custom_attrs`) and only replaces
`$NAME` in that text, so each variable is written into CONTEXT here. Source: OneFlow's service_template.rb and
service.rb of both releases.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oneflower_appliance.parameters import Level, of_level
from oneflower_appliance.roles import COORDINATOR, NODES
from oneflower_appliance.settings import Bounds, Settings, resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "oneflower"
READY_SCRIPT = "/usr/lib/oneflower/ready"

# OneFlow refuses a template_id that is not a number, so nobody can register a template with these by mistake.
PLACEHOLDERS = {COORDINATOR: "SUPERLINK_VM_TEMPLATE_ID", NODES: "SUPERNODE_VM_TEMPLATE_ID"}

_LEVEL_OF_ROLE = {COORDINATOR: Level.SUPERLINK, NODES: Level.SUPERNODE}


@dataclass(frozen=True)
class ServiceOptions:
    """What may differ between two service templates.

    `cooldown` is how long, in seconds, OneFlow waits after each scaling, including manual ones.
    """

    name: str = NAME
    bounds: Bounds = field(default_factory=Bounds)
    cooldown: int = 5
    compat: int = 7
    template_ids: Mapping[str, int] = field(default_factory=dict)


def service_template(options: ServiceOptions) -> dict[str, Any]:
    """Return the service template as JSON-able data. Raises `InvalidParametersError` for impossible bounds."""
    resolve({}, bounds=options.bounds)
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
    dress = _role_of_6 if options.compat == 6 else _role_of_7
    return {
        "name": options.name,
        "description": "A Flower federation: one SuperLink, and SuperNodes that train on the data they hold.",
        "deployment": "straight",
        "ready_status_gate": True,
        "shutdown_action": "shutdown",
        ("custom_attrs" if options.compat == 6 else "user_inputs"): _inputs(Level.SERVICE),
        "roles": [dress(role, options) for role in roles],
    }


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


def _inputs(level: Level) -> dict[str, str]:
    return {parameter.name: parameter.user_input() for parameter in of_level(level)}


def _role_of_7(role: dict[str, Any], options: ServiceOptions) -> dict[str, Any]:
    name = role["name"]
    return {
        **role,
        "type": "vm",
        "template_id": options.template_ids.get(name, PLACEHOLDERS[name]),
        "cooldown": options.cooldown,
        "user_inputs": _inputs(_LEVEL_OF_ROLE[name]),
        "template_contents": {"CONTEXT": infrastructure(name)},
    }


def _role_of_6(role: dict[str, Any], options: ServiceOptions) -> dict[str, Any]:
    name = role["name"]
    level = _LEVEL_OF_ROLE[name]
    variables = {p.name: f"${p.name}" for p in of_level(Level.SERVICE, level)}
    entries = ",\n".join(f'  {key}="{value}"' for key, value in (infrastructure(name) | variables).items())
    return {
        **role,
        "vm_template": options.template_ids.get(name, PLACEHOLDERS[name]),
        "cooldown": options.cooldown,
        "custom_attrs": _inputs(level),
        "vm_template_contents": f"CONTEXT=[\n{entries} ]\n",
    }


def merge_template(name: str, settings: Settings, bounds: Bounds) -> dict[str, Any]:
    """Return the `merge_template` with which one federation is instantiated on OpenNebula 7.

    OneFlow applies no defaults and requires a value for every declared input. The values of a role belong in the
    role's entry. OneFlow takes the cardinality from that entry and requires min_vms <= cardinality <= max_vms.
    """
    return {
        "name": name,
        "user_inputs_values": settings.of_level(Level.SERVICE),
        "roles": [
            {"name": COORDINATOR, "user_inputs_values": settings.of_level(Level.SUPERLINK)},
            {
                "name": NODES,
                "cardinality": bounds.cardinality,
                "min_vms": bounds.minimum,
                "max_vms": bounds.maximum,
                "user_inputs_values": settings.of_level(Level.SUPERNODE),
            },
        ],
    }
