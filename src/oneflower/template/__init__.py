"""Builds and lints what OpenNebula is given: the OneFlow service template and the two VM templates."""

from oneflower.template.lint import Finding, lint, placeholders
from oneflower.template.service import (
    COORDINATOR,
    NAME,
    NODES,
    ServiceOptions,
    merge_template,
    service_template,
)
from oneflower.template.vm import VmOptions, render, vm_template

__all__ = [
    "COORDINATOR",
    "NAME",
    "NODES",
    "Finding",
    "ServiceOptions",
    "VmOptions",
    "lint",
    "merge_template",
    "placeholders",
    "render",
    "service_template",
    "vm_template",
]
