"""How many SuperNodes a federation may have, and which ones scaling removes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from oneflower.cloud.document import bounds_of, roles_of
from oneflower.opennebula import NODES, Policies, kind_of
from oneflower.opennebula.autoscale import has_policies
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.settings import Bounds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower.cloud.status import FederationStatus, VmStatus


class Limits(NamedTuple):
    """The limits of scaling, None where the service template decides, and policies by which OneFlow scales."""

    least: int | None = None
    most: int | None = None
    policies: Policies = Policies()


@dataclass(frozen=True)
class Size:
    """How many SuperNodes a service is to have, and the limits of scaling; None where its template decides."""

    supernodes: int | None = None
    least: int | None = None
    most: int | None = None
    policies: Policies = field(default_factory=Policies)

    def bounds(self, template: Mapping[str, Any], settings: Mapping[str, str]) -> Bounds | None:
        """Return the bounds for scaling a service that is deployed from this template, None if it has no SuperNodes.

        A federation must not be scaled below what a round needs, so the lower bound follows FL_MIN_AVAILABLE_CLIENTS.
        Raises `OneflowerError` if SuperNodes are wanted of a service that has none, or policies cannot work.
        """
        usual = bounds_of(template)
        if usual is None:
            return kind_of(template).bounds(self.least, self.most, self.supernodes)
        if self.policies.entries and has_policies(roles_of(template)[NODES]):
            raise OneflowerError(
                "The service template has scaling policies of its own.",
                "Leave --when and --schedule out, or deploy from a template without policies (--template).",
                ExitCode.CONFLICT,
            )
        least, needed = usual.minimum if self.least is None else self.least, nodes_needed(settings)
        number = max(usual.cardinality, least) if self.supernodes is None else self.supernodes
        least = needed if least < needed <= number else least
        most = usual.maximum if self.most is None else self.most
        self.policies.check(least, most)
        return Bounds(least, most, number)


def nodes_needed(settings: Mapping[str, str]) -> int:
    """Return how many SuperNodes each round waits for."""
    text = settings.get("FL_MIN_AVAILABLE_CLIENTS", "")
    return int(text) if text.isdigit() else 0


def leaving(body: dict[str, Any], status: FederationStatus, supernodes: int) -> list[VmStatus]:
    """Return the SuperNodes that scaling would remove: the oldest. Raises `OneflowerError` if it cannot be."""
    check_scale(body, status, supernodes)
    nodes = [vm for vm in status.vms if vm.role == NODES]
    return nodes[: max(0, len(nodes) - supernodes)]


def check_scale(body: dict[str, Any], status: FederationStatus, supernodes: int) -> None:
    """Raise `OneflowerError` unless a federation may have that many SuperNodes."""
    role = roles_of(body).get(NODES)
    if role is None:
        raise OneflowerError(
            f"{status.name} is a coordinator, which has no SuperNodes to scale.",
            "Scale the sites: each one has its own SuperNodes.",
            ExitCode.CONFLICT,
        )
    least, most = role.get("min_vms"), role.get("max_vms")
    needed = nodes_needed(status.settings)
    if supernodes == status.supernodes:
        raise OneflowerError(f"{status.name} already has {supernodes} SuperNodes.", "", ExitCode.CONFLICT)
    if (least is not None and supernodes < least) or (most is not None and supernodes > most):
        raise OneflowerError(
            f"{status.name} cannot have {supernodes} SuperNodes: it was deployed for {least or 0} to "
            f"{'any number' if most is None else most}.",
            "Choose a number in between, or deploy it again with other --min-vms and --max-vms.",
        )
    if supernodes < needed:
        raise OneflowerError(
            f"{status.name} cannot have {supernodes} SuperNodes: each round waits for {needed} "
            "(FL_MIN_AVAILABLE_CLIENTS), so none would ever start.",
            f"Choose {needed} or more, or deploy it again with a smaller FL_MIN_AVAILABLE_CLIENTS.",
        )
