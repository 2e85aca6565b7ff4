"""A round of a run, as the recorder noted it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class RunRow:
    """One round. `loss` and `accuracy` are the server's own test if there is one, else the nodes' mean, else None."""

    round: int
    rounds: int
    seconds: float
    nodes: int
    failures: int
    loss: float | None
    accuracy: float | None
    metrics: Mapping[str, Any]

    @classmethod
    def parse(cls, line: str) -> RunRow:
        """Read a line of metrics.jsonl."""
        row = json.loads(line)
        sources = [row.get(name) or {} for name in ("server", "evaluate", "train")]
        return cls(
            row["round"], row["rounds"], row["seconds"], row["nodes"], row["failures"],
            _metric(sources, "loss"), _metric(sources, "accuracy", "acc"), row,
        )  # fmt: skip


def _metric(sources: list[dict[str, Any]], *endings: str) -> float | None:
    for source in sources:
        for name, value in source.items():
            if isinstance(value, int | float) and name.lower().replace("-", "_").split("_")[-1] in endings:
                return float(value)
    return None
