"""Writes what OneFlow lays over the VM template of a role: its contents, with user inputs, networks and references."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from oneflower.local.errors import CloudError
from oneflower.local.oned import corexml
from oneflower.local.oned.rights import Asking, Kind, Right, Want
from oneflower.local.oned.vmtext import render_contents
from oneflower.local.oneflow.documents import StuckError
from oneflower.local.oneflow.instantiation import deep_merge
from oneflower.local.oneflow.models import Document, Role, node_ids

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower.local.oned.catalogue import Catalogue
    from oneflower.local.oned.compute import Compute

_REFERENCE = re.compile(r"\$\{(.*?)\}")


def fill_contents(service: dict[str, Any]) -> None:
    """Write the user inputs into each role's `template_contents`, and a reference to each into CONTEXT, in place.

    Raises `TypeError` if CONTEXT is an array, as it is after a conversion from OpenNebula 6: OneFlow fails there too.
    """
    shared = service.get("user_inputs_values") or {}
    networks = service.get("networks_values") or []
    for role in service["roles"]:
        contents = role.get("template_contents") or {}
        values = deep_merge(shared, role.get("user_inputs_values") or {})
        for nic in contents.get("NIC") or ():
            _resolve_network(nic, networks)
        if values:
            context = contents.setdefault("CONTEXT", {})
            for key, value in values.items():
                contents[key] = value
                context[key] = f"${key}"
        role["template_contents"] = contents


def _resolve_network(nic: Any, networks: list[dict[str, Any]]) -> None:
    name = nic.get("NETWORK_ID") if isinstance(nic, dict) else None
    if isinstance(name, str) and name.startswith("$"):
        found = next((value[name[1:]] for value in networks if name[1:] in value), None)
        if found is not None:
            nic["NETWORK_ID"] = found.get("id")


def overlay(service: Document, role: Role, compute: Compute) -> str:
    """Return the text that is laid over a VM template: that template itself with the role's contents over it.

    Raises `StuckError` if there is no such VM template, or its owner may not read it.
    """
    extra = role.get("template_contents") or {}
    if extra:
        try:
            base = _readable(service, role["template_id"], compute.catalogue)
        except CloudError as error:
            raise StuckError(f"role {role['name']}: {error.message}") from error
        extra = deep_merge(base, extra, join=False)
    text = render_contents({**extra, "SERVICE_ID": service.id, "ROLE_NAME": role["name"]})
    return fill_references(text, lambda reference: _look_up(service, role, reference, compute))


def _readable(service: Document, number: int, catalogue: Catalogue) -> dict[str, Any]:
    asking = Asking(catalogue.accounts.user(service.access.uid, "one.user.info"), "one.template.info")
    template = catalogue.template(number, asking.call)
    catalogue.rights.need(asking, Want(Right.USE, Kind.TEMPLATE, number, template.access, past_lock=True))
    return template.body


def _look_up(service: Document, role: Role, reference: str, compute: Compute) -> str:
    name, _, path = reference.partition(".")
    parent = service.role(name) if name in (role.get("parents") or ()) else None
    for number in node_ids(parent) if parent else ():
        if (value := corexml.find(compute.find(number), path.upper().split("."))) is not None:
            return value
    return ""


def fill_references(text: str, find: Callable[[str], str]) -> str:
    """Replace each `${role.path}` with what `find` returns for it; an unknown reference becomes empty."""
    for reference in _REFERENCE.findall(text):
        text = text.replace("${" + reference + "}", find(reference))
    return text
