"""What an operator wants registered on a cloud, and what then is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from oneflower.opennebula import NAME, Policies, ServiceKind, VmOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower.cloud.image_source import ImageSource
    from oneflower.cloud.reconcile import Change
    from oneflower_appliance.settings import Bounds


@dataclass(frozen=True)
class Wishes:
    """What an operator wants registered, and under which name. Networks and images are given by name, too.

    What is left open stays as it is registered. `bounds` are those of the kinds that have SuperNodes, and `policies`
    scale these. `group` is one that may use it all. `kinds` are those to register; kinds that are registered already
    are kept up to date, too.
    """

    name: str = NAME
    machines: Mapping[str, VmOptions] = field(default_factory=dict)
    images: Mapping[str, ImageSource] = field(default_factory=dict)
    datastore: str = "default"
    bounds: Mapping[ServiceKind, Bounds] = field(default_factory=dict)
    cooldown: int | None = None
    group: str = ""
    kinds: tuple[ServiceKind, ...] = tuple(ServiceKind)
    policies: Policies | None = None

    def vm_template_name(self, role: str) -> str:
        """Return the name of a role's VM template."""
        return f"{self.name}-{role}"


@dataclass(frozen=True)
class Registered:
    """What is registered now: ids, and what was changed for it.

    `templates` are the service templates with the three levels, and `forms` those with the form, which OpenNebula 6
    does not have. The machines of `diskless` roles have nothing to boot from. The VM templates of `asking` roles ask
    for inputs themselves, so that Sunstone cannot deploy. `driverless` is the name of the SuperNodes' image if they get
    a GPU for which it has no driver.
    """

    templates: Mapping[ServiceKind, int]
    forms: Mapping[ServiceKind, int]
    vm_templates: Mapping[str, int]
    changes: tuple[Change, ...]
    diskless: tuple[str, ...] = ()
    asking: tuple[str, ...] = ()
    driverless: str = ""
