"""What OneFlow waits for, role by role, until every VM of a kind of change is where it should be."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from oneflower.local.models import VmState

if TYPE_CHECKING:
    from oneflower.local.models import Vm

_READY = re.compile("READY=YES")


class For(Enum):
    """What is waited for."""

    DEPLOY = "deploy"
    SCALE_UP = "scale up"
    ADD = "add role"
    RELEASE = "release"
    UNDEPLOY = "undeploy"
    SCALE_DOWN = "scale down"
    REMOVE = "remove role"
    HOLD = "hold"


_GOING_UP = frozenset({For.DEPLOY, For.SCALE_UP, For.ADD, For.RELEASE})
_GOING_DOWN = frozenset({For.UNDEPLOY, For.SCALE_DOWN, For.REMOVE})


@dataclass
class Wait:
    """A role on its way. `left` are the VMs still waited for; `gate` whether they must report ready."""

    purpose: For
    service: int
    role: str
    left: set[int]
    gate: bool = False
    vms: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        self.vms = frozenset(self.left)

    @property
    def key(self) -> tuple[int, str]:
        """By what the wait is known: there is one a role."""
        return self.service, self.role

    def arrived(self, vm: Vm | None, *, polled: bool) -> bool:
        """Whether a VM is where it should be, None being one that is done.

        Going up, a VM that is parked or gone counts, too: OneFlow waits for nothing that cannot come. With the gate a
        READY=YES of the user template is seen at a poll only; the event is `reported`.
        """
        if vm is None or vm.gone:
            return True
        if self.purpose in _GOING_DOWN:
            return False
        if self.purpose is For.HOLD:
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
        """Whether a VM in failure ends it."""
        return self.purpose in _GOING_UP | _GOING_DOWN
