"""Whether anything has happened on a SuperLink since it boots another disk: going back to the old one would lose it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from oneflower.cloud import superlink
from oneflower.opennebula.states import LcmState, VmState
from oneflower_appliance.attributes import READY, READY_TIME
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from oneflower.cloud.objects import Vm
    from oneflower.cloud.service import Service

_KEPT = "ONEFLOWER_BEFORE"  # the attribute of the SuperLink's VM: what there was when it left the old disk


def remember(service: Service, link: Vm) -> None:
    """Keep which runs and sites there are, before the SuperLink boots another disk.

    If it is powered off, that was begun before, and what was kept then stays.
    """
    if READY.is_set(link.attributes) and (link.state, link.lcm_state) == (VmState.ACTIVE, LcmState.RUNNING):
        service.cloud.core.set_vm_attribute(link.id, _KEPT, _there_is(service))


def check_nothing_happened(service: Service, link: Vm) -> None:
    """Raise `OneflowerError` if there were runs or changes of sites since, or if nobody can tell.

    A SuperLink that never was ready on the other disk took no run.
    """
    ready = READY.is_set(link.attributes)
    if not ready and not READY_TIME.read(link.attributes):
        return
    if not ready or link.attributes.get(_KEPT) != _there_is(service):
        raise OneflowerError(
            f"There were runs or changes of sites on {service.name} since its SuperLink boots the other disk, or "
            "nobody can tell: they would be lost.",
            "Keep the new image. Or fetch the models and deploy again.",
            ExitCode.CONFLICT,
        )


def _there_is(service: Service) -> str:
    status = service.status()
    with superlink.reach(service.cloud.surroundings, status) as reached:
        runs = sorted(run.id for run in reached.runs())
    sites = sorted((place.name, place.standing) for place in status.sites)
    return hashlib.sha256(json.dumps([runs, sites]).encode()).hexdigest()[:32]
