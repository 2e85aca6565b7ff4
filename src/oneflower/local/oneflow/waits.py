"""What OneFlow waits for, role by role, until a change has reached every VM.

Source: EventManager.rb. OneFlow learns some changes from events. It sees others only at its next poll. With a poll
interval of 0 it polls after every change.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from oneflower.opennebula.states import VmState

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower.local.oned.compute import Compute
    from oneflower.local.oned.models import Vm

_READY = re.compile("READY=YES")


class Purpose(Enum):
    """Why a role waits for its VMs."""

    DEPLOY = "deploy"
    SCALE_UP = "scale up"
    ADD = "add role"
    RELEASE = "release"
    UNDEPLOY = "undeploy"
    SCALE_DOWN = "scale down"
    REMOVE = "remove role"
    HOLD = "hold"


_GOING_UP = frozenset({Purpose.DEPLOY, Purpose.SCALE_UP, Purpose.ADD, Purpose.RELEASE})
_GOING_DOWN = frozenset({Purpose.UNDEPLOY, Purpose.SCALE_DOWN, Purpose.REMOVE})


@dataclass
class Wait:
    """A wait for the VMs of one role. `left` are the VMs still missing; `gate` says whether they must report ready."""

    purpose: Purpose
    service: int
    role: str
    left: set[int]
    gate: bool = False
    vms: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        self.vms = frozenset(self.left)

    @property
    def key(self) -> tuple[int, str]:
        """The wait's key: each role has at most one wait."""
        return self.service, self.role

    def arrived(self, vm: Vm | None, *, polled: bool) -> bool:
        """Whether a VM has reached the state that the wait is for. None stands for a VM that is done.

        On the way up, a VM that is parked or gone counts too: OneFlow does not wait for a VM that cannot arrive. With
        the gate, READY=YES in the user template is seen only at a poll; `reported` handles the event.
        """
        if vm is None or vm.gone:
            return True
        if self.purpose in _GOING_DOWN:
            return False
        if self.purpose is Purpose.HOLD:
            return vm.state is VmState.HOLD
        if vm.parked:
            return True
        if self.gate:
            return polled and str(vm.user_template.get("READY", "")).strip() == "YES"
        return vm.running

    def reported(self, text: str) -> bool:
        """Whether the text of an update opens the gate: OneFlow looks for READY=YES anywhere in it."""
        return self.gate and bool(_READY.search(text.replace('"', "").replace(" ", "")))

    @property
    def can_fail(self) -> bool:
        """Whether a failed VM ends the wait."""
        return self.purpose in _GOING_UP | _GOING_DOWN


class Waiting:
    """All waits. Calls `finished` when the last VM of a wait has arrived, and `failed` when a VM has failed."""

    def __init__(self, compute: Compute, finished: Callable[[Wait], None], failed: Callable[[Wait], None]) -> None:
        self._compute = compute
        self._clock = compute.clock
        self._poll_interval = compute.timing.poll
        self._finished = finished
        self._failed = failed
        self._waits: dict[tuple[int, str], Wait] = {}
        self._awaited: dict[int, Wait] = {}
        self._quiet_since = self._clock.now()

    def open(self, wait: Wait) -> None:
        """Start a wait. It replaces the wait that the role had before."""
        self._drop(self._waits.get(wait.key))
        self._waits[wait.key] = wait
        self._awaited |= dict.fromkeys(wait.vms, wait)
        self._clock.later(0, lambda: self._poll(wait))

    def cancel(self, service: int) -> None:
        """Cancel all waits of a service."""
        for wait in [wait for wait in self._waits.values() if wait.service == service]:
            self._drop(wait)

    def _drop(self, wait: Wait | None) -> None:
        if wait is not None:
            del self._waits[wait.key]
            for number in wait.vms:
                if self._awaited.get(number) is wait:
                    del self._awaited[number]

    def _poll(self, wait: Wait) -> None:
        """Check every VM in a wait; check again after a poll interval without events."""
        if self._waits.get(wait.key) is not wait:
            return
        vms = {number: self._compute.vms.get(number) for number in wait.left}
        wait.left -= {number for number, vm in vms.items() if wait.arrived(vm, polled=True)}
        if wait.can_fail and any(vm.failed for vm in vms.values() if vm):
            self._failed(wait)
        elif not wait.left:
            self._finish(wait)
        elif self._poll_interval:
            self._clock.later(self._poll_interval, lambda: self._poll_if_quiet(wait))

    def _poll_if_quiet(self, wait: Wait) -> None:
        """Poll, unless an update of any VM in the cloud has postponed it."""
        rest = self._quiet_since + self._poll_interval - self._clock.now() if wait.gate else 0
        if rest > 0:
            self._clock.later(rest, lambda: self._poll_if_quiet(wait))
        else:
            self._poll(wait)

    def vm_changed(self, vm: Vm) -> None:
        """Handle a new state of a VM."""
        polled = not self._poll_interval
        wait = self._awaited.get(vm.id)
        if wait is None:
            return
        if wait.arrived(vm, polled=polled):
            self._arrive(wait, vm)
        elif polled and vm.failed and wait.can_fail:
            self._failed(wait)

    def vm_updated(self, vm: Vm, text: str) -> None:
        """Handle an update of a VM's user template with `text`."""
        self._quiet_since = self._clock.now()
        wait = self._awaited.get(vm.id)
        if wait is not None and (wait.reported(text) or wait.arrived(vm, polled=not self._poll_interval)):
            self._arrive(wait, vm)

    def _arrive(self, wait: Wait, vm: Vm) -> None:
        wait.left.discard(vm.id)
        if not wait.left:
            self._finish(wait)

    def _finish(self, wait: Wait) -> None:
        self._drop(wait)
        self._finished(wait)
