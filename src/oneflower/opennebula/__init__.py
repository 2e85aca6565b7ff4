"""Builds and lints what OpenNebula is given: the OneFlow service template and the two VM templates."""

from oneflower.opennebula.autoscale import Policies
from oneflower.opennebula.carried import Carried
from oneflower.opennebula.inputs import defaults_of, kind_of, merge_template, variables_of
from oneflower.opennebula.kinds import ServiceKind
from oneflower.opennebula.lint import Finding, lint, lint_vm_template, placeholders
from oneflower.opennebula.pci import gpu_of, is_address
from oneflower.opennebula.service import NAME, Rendering, ServiceOptions, service_template
from oneflower.opennebula.text import render
from oneflower.opennebula.vm import VmOptions, vm_template
from oneflower_appliance.roles import COORDINATOR, NODES

__all__ = [
    "COORDINATOR",
    "NAME",
    "NODES",
    "Carried",
    "Finding",
    "Policies",
    "Rendering",
    "ServiceKind",
    "ServiceOptions",
    "VmOptions",
    "defaults_of",
    "gpu_of",
    "is_address",
    "kind_of",
    "lint",
    "lint_vm_template",
    "merge_template",
    "placeholders",
    "render",
    "service_template",
    "variables_of",
    "vm_template",
]
