"""Sees to it that the VM templates and the service template are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower.template import COORDINATOR, NAME, NODES, ServiceOptions, service_template, vm_template
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from oneflower.cloud.client import Cloud


def find_registered(cloud: Cloud) -> int:
    """Return the id of the service template `oneflower` that an operator registered. Raises `OneflowerError`."""
    for document in cloud.service_templates():
        if document["NAME"] == NAME:
            return int(document["ID"])
    raise OneflowerError(
        f"There is no service template called {NAME!r} on this OpenNebula.",
        "An operator registers one: `oneflower render -o oneflower.json`, put in the ids of the two VM templates, "
        "`oneflower-template create oneflower.json`.",
        ExitCode.NOT_FOUND,
    )


def register(cloud: Cloud) -> int:
    """Return the id of the service template `oneflower`, registering what is missing and updating what is old."""
    known = cloud.vm_templates()
    ids = {}
    for role in (COORDINATOR, NODES):
        name = f"oneflower-{role}"
        ids[role] = known[name] if name in known else cloud.create_vm_template(vm_template(role, name))
    wanted = service_template(ServiceOptions(template_ids=ids))
    for document in cloud.service_templates():
        if document["NAME"] == wanted["name"]:
            number = int(document["ID"])
            body = document["TEMPLATE"]["BODY"]
            if any(body.get(key) != value for key, value in wanted.items()):
                cloud.update_service_template(number, wanted)
            return number
    return cloud.create_service_template(wanted)
