"""The traps in scaling policies, by the names that findings have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower.opennebula.autoscale import has_policies, problems
from oneflower_appliance.roles import COORDINATOR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oneflower.opennebula.linted import Template
    from oneflower.opennebula.rules import Found


def _superlink(template: Template) -> Iterator[Found]:
    role = template.role(COORDINATOR)
    if role and has_policies(role.data):
        yield role.where, "It has scaling policies, and a SuperLink cannot be scaled.", "Remove them."


def _bounds(template: Template) -> Iterator[Found]:
    for role in template.roles:
        least, most = role.number("min_vms"), role.number("max_vms")
        if least is not None and most is not None and least > most:
            yield role.where, f"min_vms is {least} and max_vms is {most}: no number fits.", "Exchange them."


def _policies(template: Template) -> Iterator[Found]:
    for role in template.roles:
        if role.name != COORDINATOR:
            for why, fix in problems(role.data, role.number("min_vms"), role.number("max_vms")):
                yield role.where, why, fix


RULES: dict[str, Callable[[Template], Iterator[Found]]] = {
    "superlink-policies": _superlink,
    "scaling-limits": _bounds,
    "policies": _policies,
}
