"""Lets a SuperNode end its task before its machine goes down, however that was asked for: scaled down or switched off.

OneFlow removes a VM in a way that the guest notices: init sends SIGTERM to the agent. The agent has the node's process
end what it has begun (`flower/draining.py`), and waits for FL_DRAIN_TIMEOUT seconds at most. It does not wait while the
whole service is being removed, because nobody needs the reply then.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from oneflower_appliance.agent.onegate import OneGateError
from oneflower_appliance.agent.systemd import stopping
from oneflower_appliance.orders import DRAIN, NodeReport

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from oneflower_appliance.agent.machine import Machine
    from oneflower_appliance.process import Child

log = logging.getLogger(__name__)

REMOVED = (3, 6, 12, 14)  # states of a service that is being removed: UNDEPLOYING, with its networks, or not yet
_IDLE = 5.0  # seconds that a node without a task may take to leave
_ASKED_EVERY = 5.0  # seconds between two questions whether the service is being removed
_PULSE = 1.0


def drain(
    machine: Machine, child: Child, report: Path, pulse: Callable[[], None] = stopping, limit: int | None = None
) -> bool:
    """Wait until `child`, the process of the SuperNode, has ended by itself. Returns whether it has.

    `report` is the file in which it says whether it works. `pulse` is called about once a second. `limit` is how many
    seconds it may take, if not FL_DRAIN_TIMEOUT.
    """
    limit = machine.settings.integer("FL_DRAIN_TIMEOUT") if limit is None else limit
    if not limit or child.ended.is_set() or _is_removed(machine):
        return False
    log.info("This node is about to leave. A running task has %d s to end.", limit)
    child.send(DRAIN)
    begun = asked = busy = time.monotonic()
    while (now := time.monotonic()) - begun < limit:
        pulse()
        if child.ended.wait(_PULSE):
            log.info("This node has ended what it had begun.")
            return True
        busy = now if _works(report) else busy
        if now - busy > _IDLE:
            return False
        if now - asked > _ASKED_EVERY:
            asked = now
            if _is_removed(machine):
                return False
    log.warning("The task of this node did not end within %d s and is lost. Raise FL_DRAIN_TIMEOUT.", limit)
    return False


def _works(report: Path) -> bool:
    found = NodeReport.read(report)
    return found is not None and found.working_since is not None


def _is_removed(machine: Machine) -> bool:
    with suppress(OneGateError):  # then the task counts
        return machine.onegate is not None and machine.onegate.service_state() in REMOVED
    return False
