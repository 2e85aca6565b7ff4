"""What must be so before the machines of a service are moved to another release or image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower.cloud import superlink
from oneflower.opennebula import ServiceKind
from oneflower.opennebula.states import ServiceState
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from oneflower.cloud.release_change import ReleaseChange
    from oneflower.cloud.service import Service
    from oneflower.cloud.status import FederationStatus

QUIET = (ServiceState.RUNNING, ServiceState.WARNING)


def check(service: Service, plan: ReleaseChange, status: FederationStatus) -> None:
    """Raise `OneflowerError` if the service is not ready, if it trains, or if it is on another way already."""
    name = status.name
    if status.state not in [state.name for state in QUIET]:
        raise OneflowerError(
            f"{name} is {status.state} now: its machines cannot be changed.",
            f"Wait until it is RUNNING (`oneflower show {name}`).",
            ExitCode.CONFLICT,
        )
    if not status.ready and not plan.begun:
        waits = ", ".join(vm.name for vm in status.vms if not vm.ready) or status.state
        raise OneflowerError(
            f"{name} is not ready ({waits}), so nobody could tell whether an upgrade has worked.",
            f"Look with `oneflower show {name}` and repair it first, or `oneflower recover {name}`.",
            ExitCode.CONFLICT,
        )
    _check_images(plan)
    link = status.superlink
    if status.kind is ServiceKind.SITE or link is None or not link.ready:
        return
    with superlink.reach(service.cloud.surroundings, status) as reached:
        busy = [run.id for run in reached.runs() if not run.finished]
    if busy:
        raise OneflowerError(
            f"{name} trains now: run {', '.join(busy)}.",
            "Wait for its end, or stop it: with Ctrl-C where `oneflower run` follows it, or on the page.",
            ExitCode.CONFLICT,
        )


def _check_images(plan: ReleaseChange) -> None:
    for move in plan.moves:
        if move.image and not plan.to.images:
            raise OneflowerError(
                f"{move.name} boots an image, which the VM template of its service does not name by its id (IMAGE_ID).",
                "Deploy another federation: docs/upgrades.md.",
                ExitCode.CONFLICT,
            )
        known = [place.image_of(move.role) for place in (plan.origin, plan.to)]
        if not plan.back and plan.to.images and move.image not in known:
            raise OneflowerError(
                f"{plan.name} is between two other images: an upgrade was interrupted.",
                f"Finish that one, or take it back: `oneflower upgrade {plan.name} --back`.",
                ExitCode.CONFLICT,
            )
