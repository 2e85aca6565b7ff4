"""By what OneFlow scales the SuperNodes of a service, and what it saw when it looked last."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from oneflower.opennebula.autoscale import ELASTIC, SCHEDULED, line_of

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class PolicyStatus:
    """One policy, as people write it, and what OneFlow noted of it.

    `looked` is when OneFlow looked at it last, in seconds since 1970, 0 if it never has. `saw` is its expression with
    the values of that moment. Its condition held `held` of the `times` looks in a row after which it fires. A scheduled
    policy has neither.
    """

    line: str
    looked: int = 0
    saw: str = ""
    held: int = 0
    times: int = 0

    @property
    def sentence(self) -> str:
        """What OneFlow noted."""
        if not self.looked:
            return "OneFlow has not looked at it yet"
        text = f"looked at {datetime.fromtimestamp(self.looked).astimezone():%H:%M:%S}"
        if self.saw:
            text += f": {self.saw}"
        return f"{text} (held {self.held} of {self.times} times)" if self.held else text


@dataclass(frozen=True)
class Autoscaling:
    """The limits of scaling, the rest after each in seconds, and the policies. `cooldown` is that of the role now."""

    least: int
    most: int
    cooldown: int
    policies: tuple[PolicyStatus, ...]

    @classmethod
    def of(cls, role: Mapping[str, Any]) -> Autoscaling | None:
        """Return those of a role in a service's document, None if it has no policy."""
        found = [policy for key in (SCHEDULED, ELASTIC) for policy in role.get(key) or ()]
        if not found:
            return None
        least, most, cooldown = (_whole(role.get(key)) for key in ("min_vms", "max_vms", "cooldown"))
        return cls(least, most, cooldown, tuple(_status(policy) for policy in found if isinstance(policy, dict)))

    @property
    def sentence(self) -> str:
        """The limits and the rest after each scaling."""
        limits = f"{self.least} and {self.most} SuperNodes"
        return f"OneFlow scales between {limits}, and waits {self.cooldown} s after each change"


def _status(policy: Mapping[str, Any]) -> PolicyStatus:
    return PolicyStatus(
        line_of(policy),
        _whole(policy.get("last_eval")),
        str(policy.get("expression_evaluated") or ""),
        _whole(policy.get("true_evals")),
        _whole(policy.get("period_number")),
    )


def _whole(value: Any) -> int:
    """Return a number of a document, which anybody may have written, 0 if it is not one."""
    with suppress(TypeError, ValueError):
        return int(value)
    return 0
