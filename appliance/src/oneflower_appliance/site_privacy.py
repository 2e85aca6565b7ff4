"""What a site's policy says about privacy: clipping and noise of updates, what else may leave, and the budget."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oneflower_appliance.gaussian_privacy import cost_of, epsilon_of

if TYPE_CHECKING:
    from collections.abc import Callable

NEEDED = ("clip", "noise")


@dataclass(frozen=True)
class SitePrivacy:
    """The largest norm of an update, the noise as a multiple of it, and the budget: 0 for none.

    `metrics` and `records` name what leaves as it is. A new `period` begins with nothing spent.
    """

    clip: float
    noise: float
    max_epsilon: float = 0.0
    delta: float = 1e-5
    metrics: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    period: str = ""

    def __post_init__(self) -> None:
        """Raise `ValueError` if the budget does not allow a single reply."""
        if self.max_epsilon and self.epsilon(self.cost) > self.max_epsilon:
            raise ValueError(
                f"max-epsilon allows no reply: one with noise {self.noise:g} spends {self.epsilon(self.cost):.3g}"
            )

    def __str__(self) -> str:
        parts = [f"clip {self.clip:g}", f"noise {self.noise:g}"]
        parts += [f"epsilon at most {self.max_epsilon:g}"] if self.max_epsilon else []
        parts += [f"delta {self.delta:g}"]
        parts += [f"metrics {', '.join(self.metrics)}"] if self.metrics else []
        parts += [f"records {', '.join(self.records)}"] if self.records else []
        parts += [f"period {self.period}"] if self.period else []
        return ", ".join(parts)

    @property
    def cost(self) -> float:
        """What one reply with an update costs (`gaussian_privacy`)."""
        return cost_of(self.noise)

    def epsilon(self, cost: float) -> float:
        """Return the epsilon of a sum of costs."""
        return epsilon_of(cost, self.delta)

    def allows(self, cost: float) -> bool:
        """Whether the budget is enough for a sum of costs."""
        return not self.max_epsilon or self.epsilon(cost) <= self.max_epsilon


def positive(value: Any) -> float:
    """Read a number above 0. Raises `ValueError`."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(f"is {value!r}; expected a number above 0")
    return float(value)


def delta(value: Any) -> float:
    """Read a probability. Raises `ValueError`."""
    if not isinstance(value, float) or not 0 < value < 1:
        raise ValueError(f"is {value!r}; expected a number between 0 and 1, like 1e-5")
    return value


def names(value: Any) -> tuple[str, ...]:
    """Read a list of names. Raises `ValueError`."""
    if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
        raise ValueError("is not a list of names")
    return tuple(dict.fromkeys(value))


def period(value: Any) -> str:
    """Read the name of a period. Raises `ValueError`."""
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"is {value!r}; expected a text like 2027")
    return value


KEYS: dict[str, Callable[[Any], Any]] = {
    "clip": positive, "noise": positive, "max-epsilon": positive, "delta": delta, "metrics": names, "records": names,
    "period": period,
}  # fmt: skip
