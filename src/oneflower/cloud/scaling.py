"""How many SuperNodes a federation may have, and which ones scaling removes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oneflower.cloud.document import roles_of
from oneflower.opennebula import NODES
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.settings import Bounds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower.cloud.client import Cloud
    from oneflower.cloud.status import FederationStatus, VmStatus


def scaling_bounds(
    cloud: Cloud, supernodes: int, limits: tuple[int | None, int | None], settings: Mapping[str, str]
) -> Bounds:
    """Return the bounds for scaling: `limits` if they are given, otherwise those of the service template.

    A federation must not be scaled below what a round needs, so the lower bound follows FL_MIN_AVAILABLE_CLIENTS.
    """
    usual = cloud.surroundings.limits(cloud) if None in limits else (0, 0)
    least, most = (known if given is None else given for given, known in zip(limits, usual, strict=True))
    needed = nodes_needed(settings)
    return Bounds(needed if least < needed <= supernodes else least, most, supernodes)


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
    role = roles_of(body)[NODES]
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
