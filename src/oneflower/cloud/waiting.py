"""Waits for a federation: until it is ready, and until it has trained what FL_USE_CASE names."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from oneflower.events import ignore
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from oneflower.cloud.service import Service
    from oneflower.cloud.status import FederationStatus, VmStatus
    from oneflower_appliance.progress import RunProgress
    from oneflower_appliance.runs import RunRow

    Watch = Callable[[FederationStatus], None]

HEALING = 60.0  # seconds that a running federation is given to recover by itself before a failure counts
_PULSE, _LOOK = 0.15, 1.0


def changes(service: Service) -> Iterator[FederationStatus]:
    """Yield the status now, whenever the service changes, and once a second because machines change unseen."""
    seen, looked = None, 0.0
    while True:
        body = service.body()
        if body != seen or time.monotonic() - looked > _LOOK:
            seen, looked = body, time.monotonic()
            yield service.status(body)
        time.sleep(_PULSE)


def looks(service: Service) -> Iterator[FederationStatus]:
    """Yield the status once a second."""
    while True:
        yield service.status()
        time.sleep(_LOOK)


def wait_ready(
    statuses: Iterable[FederationStatus], timeout: float, watch: Watch = ignore, grace: float = 0
) -> FederationStatus:
    """Return the first of `statuses` in which every machine is ready; `watch` receives each of them.

    Raises `OneflowerError` when the federation fails and has not recovered after `grace` seconds, or after `timeout`
    seconds.
    """
    deadline = time.monotonic() + timeout
    well = time.monotonic()
    for status in statuses:
        watch(status)
        if status.ready:
            return status
        if not status.failure:
            well = time.monotonic()
        elif time.monotonic() - well >= grace:
            raise OneflowerError(
                f"The federation {status.name!r} failed.\n{status.failure}", "", ExitCode.DEPLOY_FAILED
            )
        if time.monotonic() > deadline:
            waiting = "; ".join(_whom(vm) for vm in status.vms if not vm.ready) or status.state
            raise OneflowerError(
                f"The federation {status.name!r} was not ready after {timeout:.0f} s; still waiting for {waiting}.",
                "Raise --timeout, or look with `oneflower logs`.",
                ExitCode.TIMEOUT,
            )
    raise AssertionError("statuses never end")


def wait_trained(
    statuses: Iterable[FederationStatus], on_row: Callable[[RunRow], None] = ignore, healing: float = HEALING
) -> RunProgress:
    """Return how the run ended that the SuperLink publishes; `on_row` receives its rounds.

    Raises `OneflowerError` when the run fails, or when the federation has failed for `healing` seconds.
    """
    seen = 0
    for status in _well(statuses, healing):
        found = status.training
        for row in found.latest if found is not None else ():
            if row.round > seen:
                seen = row.round
                on_row(row)
        if found is not None and found.finished:
            return found.completed()
    raise AssertionError("statuses never end")


def wait_begun(statuses: Iterable[FederationStatus], healing: float = HEALING) -> str:
    """Return the id of the run that the SuperLink publishes, as soon as there is one; empty if it could not begin.

    Raises `OneflowerError` when the federation has failed for `healing` seconds.
    """
    for status in _well(statuses, healing):
        if status.training is not None:
            return status.training.id if status.training.id.isdigit() else ""
    raise AssertionError("statuses never end")


def _well(statuses: Iterable[FederationStatus], healing: float) -> Iterator[FederationStatus]:
    """Yield statuses. Raises `OneflowerError` when the federation has failed for `healing` seconds."""
    well = time.monotonic()
    for status in statuses:
        yield status
        if not status.failure:
            well = time.monotonic()
        elif time.monotonic() - well > healing:
            raise OneflowerError(
                f"{status.name} is no longer ready.\n{status.failure}", "See `oneflower logs`.", ExitCode.RUN_FAILED
            )


def _whom(vm: VmStatus) -> str:
    """Return the name of a VM that is not ready and, if the cloud says so, why the VM waits."""
    return f"{vm.name} ({vm.state}: {vm.waits})" if vm.waits else vm.name
