"""A service template as the rules read it, whichever release's names it uses."""

from __future__ import annotations

import re
from typing import Any

from oneflower.opennebula.kinds import ServiceKind


class Role:
    """One role, whichever release's names it uses."""

    def __init__(self, data: dict[str, Any], index: int) -> None:
        self.data = data
        self.name = data["name"] if isinstance(data.get("name"), str) else ""
        self.where = f"role {self.name}" if self.name else f"role number {index + 1}"
        self.inputs = mapping(data.get("user_inputs", data.get("custom_attrs")))
        contents = data.get("template_contents", data.get("vm_template_contents"))
        self.text = contents if isinstance(contents, str) else ""
        self.contents = mapping(contents)
        self.context = mapping(self.contents.get("CONTEXT"))

    def setting(self, key: str) -> str | None:
        """Return what CONTEXT says for `key`, in an object or in 6.x text."""
        if key in self.context:
            return str(self.context[key])
        match = re.search(rf'\b{key}\s*=\s*"((?:[^"\\]|\\.)*)"', self.text)
        return match[1] if match else None

    def number(self, key: str) -> int | None:
        """Return a number, which may be written as text; None where it is not one."""
        value = self.data.get(key)
        if isinstance(value, str) and re.fullmatch(r"\d+", value):
            return int(value)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def parents(self) -> list[str]:
        """The names of the roles that it waits for."""
        parents = self.data.get("parents")
        return [str(parent) for parent in parents] if isinstance(parents, list) else []


class Template:
    """A template, and for which release of OpenNebula (6 or 7) it is meant."""

    def __init__(self, data: dict[str, Any], release: int = 7) -> None:
        self.data = data
        self.release = release
        entries = data.get("roles")
        self.roles = [
            Role(mapping(role), index) for index, role in enumerate(entries if isinstance(entries, list) else [])
        ]
        self.inputs = mapping(data.get("user_inputs", data.get("custom_attrs")))
        self.kind = ServiceKind.of(data)
        self.compat6 = any("vm_template" in role.data or "vm_template_contents" in role.data for role in self.roles)

    @property
    def forms(self) -> list[tuple[str, dict[str, Any]]]:
        """Where user inputs are asked for, and which."""
        return [("service", self.inputs), *((role.where, role.inputs) for role in self.roles)]

    def role(self, name: str) -> Role | None:
        """Return the role of this name, if there is one."""
        return next((role for role in self.roles if role.name == name), None)


def mapping(value: Any) -> dict[str, Any]:
    """Return the value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}
