"""Finds the traps in a template that OneFlow accepts without a warning (`rules.py`, and `sunstone.py` for Sunstone)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oneflower.opennebula import sunstone
from oneflower.opennebula.linted import Template, mapping
from oneflower.opennebula.rules import RULES
from oneflower.opennebula.service import PLACEHOLDERS

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Finding:
    """One trap: where it is, why it is one, and how to fix it."""

    rule: str
    where: str
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why} {self.fix} [{self.rule}]"


def lint(template: Any, release: int = 7) -> list[Finding]:
    """Return every trap found in a service template, given as parsed JSON, for a server of OpenNebula 6 or 7."""
    if not isinstance(template, dict):
        return [Finding("not-a-template", "file", "The JSON is not an object.", "Give one service template.")]
    body = template.get("DOCUMENT", {}).get("TEMPLATE", {}).get("BODY") if "DOCUMENT" in template else None
    read = Template(body if isinstance(body, dict) else template, release)
    return [Finding(name, *found) for name, check in (RULES | sunstone.RULES).items() for found in check(read)]


def lint_vm_template(template: Mapping[str, Any]) -> list[Finding]:
    """Return every trap found in the VM template of a role."""
    return [Finding("vm-template-inputs", *found) for found in sunstone.asking(template)]


def placeholders(template: Any) -> list[str]:
    """Return the roles whose VM template id is still a placeholder of `oneflower render`."""
    return [
        role.name
        for role in Template(mapping(template)).roles
        if role.data.get("template_id", role.data.get("vm_template")) in PLACEHOLDERS.values()
    ]
