"""Finds the traps that OneFlow accepts without a warning: `rules.py`, `policy_rules.py` and `sunstone.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oneflower.opennebula import pci, policy_rules, sunstone
from oneflower.opennebula.linted import Template, mapping
from oneflower.opennebula.rules import RULES
from oneflower.opennebula.service import PLACEHOLDERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower.opennebula.kinds import ServiceKind


_RULES = RULES | pci.RULES | policy_rules.RULES | sunstone.RULES


@dataclass(frozen=True)
class Finding:
    """One trap: where it is, why it is one, and how to fix it."""

    rule: str
    where: str
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why} {self.fix} [{self.rule}]"


def lint(template: Any, release: int = 7, kind: ServiceKind | None = None) -> list[Finding]:
    """Return every trap found in a service template, given as parsed JSON, for a server of OpenNebula 6 or 7.

    It should be of this `kind`; if None, its roles tell which one it is.
    """
    if not isinstance(template, dict):
        return [Finding("not-a-template", "file", "The JSON is not an object.", "Give one service template.")]
    body = template.get("DOCUMENT", {}).get("TEMPLATE", {}).get("BODY") if "DOCUMENT" in template else None
    read = Template(body if isinstance(body, dict) else template, release)
    findings = [Finding(name, *found) for name, check in _RULES.items() for found in check(read)]
    if kind is not None and read.kind not in (kind, None):
        roles = " and ".join(kind.roles)
        findings.append(
            Finding("kind", "service", f"It is a {read.kind}, not a {kind}.", f"A {kind} has just {roles}.")
        )
    return findings


def lint_vm_template(template: Mapping[str, Any]) -> list[Finding]:
    """Return every trap found in the VM template of a role."""
    asked = [Finding("vm-template-inputs", *found) for found in sunstone.asking(template)]
    return asked + [Finding("pci", *found) for found in pci.traps(template)]


def placeholders(template: Any) -> list[str]:
    """Return the roles whose VM template id is still a placeholder of `oneflower render`."""
    return [
        role.name
        for role in Template(mapping(template)).roles
        if role.data.get("template_id", role.data.get("vm_template")) in PLACEHOLDERS.values()
    ]
