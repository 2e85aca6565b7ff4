"""The VM templates of the two roles, in OpenNebula's own syntax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oneflower.template.service import COORDINATOR, infrastructure

if TYPE_CHECKING:
    from collections.abc import Mapping

_SIZES = {COORDINATOR: ("2", "2048")}
_NODE_SIZE = ("2", "4096")


def vm_template(role: str, name: str) -> str:
    """Return the VM template of `role` under `name`: KVM, virtio, host CPU (numpy needs x86-64-v2)."""
    cpu, memory = _SIZES.get(role, _NODE_SIZE)
    return render(
        {
            "NAME": name,
            "DESCRIPTION": f"oneflower: a Flower {role}",
            "CPU": cpu,
            "VCPU": cpu,
            "MEMORY": memory,
            "CPU_MODEL": {"MODEL": "host-passthrough"},
            "HYPERVISOR": "kvm",
            "CONTEXT": infrastructure(role),
        }
    )


def render(template: Mapping[str, Any]) -> str:
    """Return `template` as OpenNebula text: `KEY="value"` and `KEY=[A="1", B="2"]`."""
    return "".join(f"{key}={_value(value)}\n" for key, value in template.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "[" + ", ".join(f"{key}={_value(item)}" for key, item in value.items()) + "]"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
