"""What a machine publishes when it is ready, and when it is not: READY, since when, and why not.

So an operator sees it without logging in.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from oneflower_appliance.agent.backoff import Backoff
from oneflower_appliance.agent.onegate import OneGateError
from oneflower_appliance.agent.systemd import rest
from oneflower_appliance.attributes import ERROR, NOTHING, READY, READY_TIME

if TYPE_CHECKING:
    from oneflower_appliance.agent.onegate import OneGate
    from oneflower_appliance.errors import OneflowerError

log = logging.getLogger(__name__)

_PARTING = 2.0  # seconds that OneGate may take to hear that this machine stops


def readiness() -> dict[str, str]:
    """Return what says that this machine is ready from now on."""
    return {READY.name: READY.flag(value=True), READY_TIME.name: READY_TIME.write(str(int(time.time())))}


def withdraw(onegate: OneGate) -> None:
    """Take back what an earlier life of this agent published: READY, and why it was not. Raises `OneGateError`."""
    attributes = onegate.attributes()
    stale = {READY.name: READY.flag(value=False)} if READY.is_set(attributes) else {}
    if attributes.get(ERROR.name, NOTHING) != NOTHING:
        stale[ERROR.name] = NOTHING
    if stale:
        onegate.publish(stale)


def withdraw_ready(onegate: OneGate) -> None:
    """Take back READY only: why the machine was not ready still holds. Raises `OneGateError`."""
    if READY.is_set(onegate.attributes()):
        onegate.publish({READY.name: READY.flag(value=False)})


def part(onegate: OneGate | None) -> None:
    """Take back READY because this machine is about to stop. A OneGate that does not answer keeps nobody from that."""
    if onegate is not None:
        with suppress(OneGateError):
            withdraw_ready(onegate.within(_PARTING))


def report(onegate: OneGate | None, error: OneflowerError) -> None:
    """Publish why this machine is not ready, if there is anybody to tell."""
    if onegate is not None:
        with suppress(OneGateError):
            _publish(onegate, error)


def report_for_good(onegate: OneGate | None, error: OneflowerError) -> None:
    """Publish it before this agent ends for good, however long OneGate cannot be reached: nobody else would."""
    if onegate is None:
        return
    for delay in Backoff(cap=30).delays():
        try:
            _publish(onegate, error)
        except OneGateError as trouble:
            if not trouble.heals:
                return
            log.warning("%s", trouble.sentence)
        else:
            return
        rest(delay)


def _publish(onegate: OneGate, error: OneflowerError) -> None:
    """Publish it, unless OneGate has it already: an agent that is started every few seconds fails as often."""
    wanted = {ERROR.name: ERROR.write(error.sentence), READY.name: READY.flag(value=False)}
    published = onegate.attributes()
    if any(published.get(name) != value for name, value in wanted.items()):
        onegate.publish(wanted)
