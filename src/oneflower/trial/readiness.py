"""Waits for the machines of a trial."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from oneflower.trial.progress import Watcher
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from oneflower.cloud import Federation, FederationStatus
    from oneflower.cloud.status import VmStatus

_PULSE = 0.2


def wait_back(federation: Federation, before: VmStatus, limit: float, seen: float = 5.0) -> None:
    """Wait until a machine, which was `before`, has been away and everything is ready.

    It has been away if it is not ready, or is so since another moment. One of an old image does not say since when:
    for that, `seen` seconds must do. Raises `OneflowerError`.
    """
    deadline = time.monotonic() + (limit if before.ready_since else seen)
    while _is_as_before(federation.status(), before):
        if time.monotonic() < deadline:
            time.sleep(_PULSE)
        elif before.ready_since:
            sentence = f"{before.name} was to go down and to come back. It did not within {limit:.0f} s."
            raise OneflowerError(sentence, "See its console.", ExitCode.CLOUD)
        else:
            break
    federation.wait_ready(limit, Watcher(), grace=limit)


def _is_as_before(status: FederationStatus, before: VmStatus) -> bool:
    return all(vm.ready and vm.ready_since == before.ready_since for vm in status.vms if vm.id == before.id)
