"""The privacy of a run: what its noise has spent, and what each node of a site with `[privacy]` says that it has spent.

It is recorded in each round (`PRIVACY` in a row), by the ServerApp's process. A node tells it in a record of metrics of
its own (`RECORD`), beside those of the app.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from oneflower_appliance.gaussian_privacy import epsilon_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PRIVACY = "privacy"
RECORD = "oneflower.privacy"
CENTRAL, LOCAL = "dp-central", "dp-local"
EVEN = ("FedAvg", "FedProx")  # the strategies that make a mean to which every node contributes as much as any other


@dataclass(frozen=True)
class NodeSpent:
    """What a node enforces, and what it has spent: in this run, and in all. `max_epsilon` is 0 if it has no budget."""

    clip: float
    noise: float
    delta: float
    epsilon: float
    total: float
    max_epsilon: float

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """Read what a node says. Raises `KeyError`, `TypeError` or `ValueError`."""
        found = {name: float(said[name]) for name in cls.__dataclass_fields__}
        if not all(math.isfinite(value) and value >= 0 for value in found.values()):
            raise ValueError("not what a node says of its privacy")
        return cls(**found)

    @property
    def numbers(self) -> dict[str, float]:
        """What `of` reads."""
        return asdict(self)

    @property
    def budget(self) -> str:
        """What it has spent in all, and of what."""
        return f"{self.total:.3g}" + (f" of {self.max_epsilon:g}" if self.max_epsilon else "")


@dataclass(frozen=True)
class RunPrivacy:
    """What a run has spent so far.

    `mechanism` is FL_PRIVACY, empty for none. `unknown` says why epsilon is not known, and `ended` that the budget
    ended the run. `cost` is as `gaussian_privacy` counts it. `nodes` are by Flower's ids.
    """

    mechanism: str = ""
    clip: float = 0.0
    noise: float = 0.0
    delta: float = 0.0
    cost: float = 0.0
    max_epsilon: float = 0.0
    unknown: str = ""
    ended: str = ""
    nodes: Mapping[str, NodeSpent] = field(default_factory=dict)

    @classmethod
    def in_row(cls, row: Mapping[str, Any]) -> RunPrivacy:
        """Return what a row says; nothing, if it says nothing that can be read."""
        try:
            said = dict(row[PRIVACY])
            nodes = {str(int(node)): NodeSpent.of(one) for node, one in said.pop("nodes", {}).items()}
            said.pop("epsilon", None)
            return cls(**said, nodes=nodes)
        except (AttributeError, KeyError, TypeError, ValueError):
            return cls()

    @property
    def entry(self) -> dict[str, Any]:
        """What a row says: what `in_row` reads, and epsilon for people and programs."""
        return {**asdict(self), "epsilon": self.epsilon}

    @property
    def epsilon(self) -> float | None:
        """The epsilon that was spent; None if it is not known."""
        if not self.mechanism or self.unknown:
            return None
        return epsilon_of(self.cost, self.delta)

    @property
    def sentence(self) -> str:
        """What people are told; empty if there is nothing to tell."""
        if self.epsilon is None:
            return self.unknown
        most = f" of {self.max_epsilon:g}" if self.max_epsilon else ""
        text = f"epsilon {self.epsilon:.3g}{most} at delta {self.delta:g} ({self.mechanism}, clip {self.clip:g}, noise "
        text += f"{self.noise:g})"
        if self.mechanism == LOCAL:
            text += ", if the app uses privacy_mod"
        return text + (f". {self.ended}" if self.ended else "")

    def sites(self, names: Mapping[str, str]) -> list[Sequence[object]]:
        """Return a line for each node that told what it spent, by its name."""
        return [
            (
                names.get(node, node),
                f"{one.clip:g}",
                f"{one.noise:g}",
                f"{one.epsilon:.3g}",
                one.budget,
                f"{one.delta:g}",
            )
            for node, one in sorted(self.nodes.items(), key=lambda entry: names.get(entry[0], entry[0]))
        ]


SITE_HEAD = ("Node", "Clip", "Noise", "Epsilon of this run", "Epsilon of all", "Delta")


def not_counted(mechanism: str, clipping: str, strategy: str) -> str:
    """Return why the epsilon of a run is not known; empty if it is."""
    if mechanism == CENTRAL and clipping != "fixed":
        return "Epsilon is not known: with adaptive clipping the norm follows the updates (FL_DP_CLIPPING)."
    if mechanism == CENTRAL and strategy not in EVEN:
        return f"Epsilon is not known: {strategy} does more than a mean, and epsilon is known for {' and '.join(EVEN)}."
    return ""
