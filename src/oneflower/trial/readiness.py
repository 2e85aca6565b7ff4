"""Waits for the machines of a trial."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from oneflower.trial.progress import Watcher

if TYPE_CHECKING:
    from oneflower.cloud import Federation, FederationStatus

_PULSE = 0.2


def wait_back(federation: Federation, name: str, limit: float, seen: float = 5.0) -> None:
    """Wait until a machine has been seen not to be ready, or `seen` seconds, then until everything is."""
    deadline = time.monotonic() + seen
    while time.monotonic() < deadline and _is_ready(federation.status(), name):
        time.sleep(_PULSE)
    federation.wait_ready(limit, Watcher(), grace=limit)


def _is_ready(status: FederationStatus, name: str) -> bool:
    return all(vm.ready for vm in status.vms if vm.name == name)
