"""What a run does at this moment, as a SuperLink's own API describes it.

The ServerApp's process writes it (`entry`) into the folder of the run, and the client reads it (`parse`).
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONG_CHOICE = 2.0  # seconds after which a strategy waits for nodes, rather than that it chooses among them
_TIMES_USUAL, _MARGIN = 2.0, 2.0  # a node is late after so many times the usual seconds, and so many seconds more


class Phase(StrEnum):
    """What a run does."""

    CHOOSING = "choosing nodes"  # the strategy does; it waits until as many are online as it wants
    TRAINING = "training"
    EVALUATING = "evaluating"
    AGGREGATING = "aggregating"
    ASKING = "asking"  # an app without a strategy: messages that ask for neither training nor evaluation

    @classmethod
    def of(cls, message_type: str) -> Phase:
        """Return the phase in which nodes have messages of a type: train, evaluate, or perhaps with an action."""
        kinds = {"train": cls.TRAINING, "evaluate": cls.EVALUATING}
        return kinds.get(message_type.partition(".")[0], cls.ASKING)


@dataclass(frozen=True)
class RoundState:
    """A phase of a round. `round` and `rounds` are 0 in an app without a strategy, and `round` before the first one.

    `began` is a time on the SuperLink's machine, and `seconds` how long the phase had lasted when the SuperLink said
    so. Nodes are given by Flower's ids, or by names (`named`): those that were `asked`, the seconds after which each
    has `answered`, and of these the ones that `failed`. Nobody was asked in a phase of the ServerApp itself. `usual`
    are the seconds after which the last node had answered the time before; None the first time.
    """

    phase: Phase
    round: int = 0
    rounds: int = 0
    began: float = 0.0
    asked: tuple[str, ...] = ()
    answered: Mapping[str, float] = field(default_factory=dict)
    failed: tuple[str, ...] = ()
    usual: float | None = None
    seconds: float = 0.0

    @classmethod
    def parse(cls, said: Mapping[str, Any]) -> RoundState:
        """Read what `entry` wrote. Raises `KeyError`, `TypeError`, `AttributeError` or `ValueError`."""
        return cls(
            Phase(said["phase"]), int(said["round"]), int(said["rounds"]), float(said["began"]),
            tuple(map(str, said["asked"])), {str(node): float(after) for node, after in said["answered"].items()},
            tuple(map(str, said["failed"])), None if said["usual"] is None else float(said["usual"]),
            float(said.get("seconds", 0.0)),
        )  # fmt: skip

    @property
    def entry(self) -> dict[str, Any]:
        """What `parse` reads, as data for JSON."""
        return asdict(self)

    @property
    def missing(self) -> tuple[str, ...]:
        """The nodes that have not answered yet."""
        return tuple(node for node in self.asked if node not in self.answered)

    def late(self, seconds: float) -> tuple[str, ...]:
        """Return the nodes that take much longer than usual, when the phase has lasted so many seconds.

        Usual is what it took the time before, or, the first time, what half of the nodes needed.
        """
        usual = self.usual
        if usual is None and 0 < len(self.asked) <= 2 * len(self.answered):
            usual = statistics.median(self.answered.values())
        return () if usual is None or seconds < _TIMES_USUAL * usual + _MARGIN else self.missing

    @property
    def heading(self) -> str:
        """Which round it is, empty in an app without a strategy."""
        if self.round:
            return f"round {self.round}/{self.rounds}"
        return "before the first round" if self.rounds else ""

    def waits(self, seconds: float) -> bool:
        """Whether the strategy waits for nodes, if the phase has lasted so many seconds."""
        return self.phase is Phase.CHOOSING and seconds > _LONG_CHOICE

    def doing(self, seconds: float) -> str:
        """What the run does, if it has done so for so many seconds."""
        return "waiting for nodes" if self.waits(seconds) else self.phase

    @property
    def count(self) -> str:
        """How many nodes have answered, empty if none was asked."""
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"{len(self.answered)}/{len(self.asked)} answered{failed}" if self.asked else ""

    def waited_for(self, seconds: float, most: int = 5) -> str:
        """Name the first of the nodes that are late, or if none is, that have not answered; empty if all have."""
        late = self.late(seconds)
        nodes = late or self.missing
        if not nodes:
            return ""
        more = f" and {len(nodes) - most} more" if len(nodes) > most else ""
        return f"{'late: ' if late else 'waiting for '}{', '.join(nodes[:most])}{more}"

    def named(self, names: Mapping[str, str]) -> RoundState:
        """Return it with nodes named after their machines; `names` has the names by Flower's ids."""

        def name(node: str) -> str:
            return names.get(node, f"node {node}")

        return replace(
            self,
            asked=tuple(sorted(map(name, self.asked), key=lambda found: (len(found), found))),
            answered={name(node): after for node, after in self.answered.items()},
            failed=tuple(map(name, self.failed)),
        )
