"""What each node did in each round of a run, kept small: a list of numbers for each node and quantity."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oneflower_appliance.node_findings import NEEDED, find

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oneflower.api import NodeReport

_OWN = ("seconds", "examples", "sent", "received")
_MOST = 40  # quantities

Values = list[float | None]


@dataclass(frozen=True)
class NodeLine:
    """One node in the table: `last` are its newest values by quantity, `seconds` the usual ones for its training.

    `remark` says what is noticeable about it, or what went wrong last.
    """

    name: str
    partition: str
    seconds: float | None
    last: dict[str, float | None]
    faults: int
    remark: str


class Curves:
    """The values of all nodes by round. `rounds` is the last round that is known."""

    def __init__(self) -> None:
        self.rounds = 0
        self._values: dict[str, dict[str, Values]] = {}
        self._partitions: dict[str, str] = {}
        self._faults: dict[str, list[str]] = {}
        self._recent: list[NodeReport] = []

    def add(self, reports: Iterable[NodeReport]) -> None:
        """Keep what nodes did in some rounds."""
        last = self.rounds
        for report in reports:
            node = _name(report)
            self._recent.append(report)
            self._partitions[node] = report.partition
            self._faults.setdefault(node, [])
            if report.fault:
                self._faults[node].append(f"round {report.round}: {report.fault} ({report.reason})")
            own = {name: getattr(report, name) for name in _OWN}
            for name, value in {**own, **report.metrics}.items():
                if value is not None:
                    self._keep(f"{report.phase}: {name}", node, report.round, float(value))
            last = max(last, report.round)
        self.rounds = last
        self._recent = [report for report in self._recent if report.round > last - NEEDED]

    def _keep(self, quantity: str, node: str, number: int, value: float) -> None:
        if quantity not in self._values and len(self._values) >= _MOST:
            return
        values = self._values.setdefault(quantity, {}).setdefault(node, [])
        values.extend([None] * (number - len(values)))
        values[number - 1] = value if math.isfinite(value) else None

    @property
    def quantities(self) -> list[str]:
        """What is known of nodes: the phase and the name of each quantity."""
        return list(self._values)

    def of(self, quantity: str, after: int = 0) -> dict[str, Any]:
        """Return the values of one quantity after round `after`, as data for JSON."""
        nodes = dict(self._values.get(quantity, {}))
        return {
            "after": after,
            "rounds": self.rounds,
            "nodes": {node: list(values[after:]) for node, values in nodes.items()},
        }

    def lines(self) -> list[NodeLine]:
        """Return a line for each node, those with faults and slow ones first."""
        times = self._values.get("train: seconds", {})
        usual = {
            node: statistics.median(known) for node in times if (known := [v for v in times[node] if v is not None])
        }
        names = {report.node: _name(report) for report in self._recent}
        noticed = defaultdict(list)
        for finding in find(self._recent):
            noticed[names[finding.node]].append(finding.text)
        shown = [name for name in self._values if name.split(": ")[1] not in ("seconds", "sent", "received")][:4]
        lines = []
        for node in list(self._faults):
            last = {name: self._last(name, node) for name in shown}
            faults = self._faults[node]
            remark = "; ".join(noticed[node] or faults[-1:])
            lines.append(NodeLine(node, self._partitions[node], usual.get(node), last, len(faults), remark))
        return sorted(lines, key=lambda line: (not line.remark, line.name))

    def _last(self, quantity: str, node: str) -> float | None:
        values = self._values[quantity].get(node) or [None]
        return values[-1]


def _name(report: NodeReport) -> str:
    return report.name or f"node {report.node}"
