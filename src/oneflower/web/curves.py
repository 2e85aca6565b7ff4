"""What each node did in each round of a run, kept small: a list of numbers for each node and quantity."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oneflower_appliance.node_findings import FAILS, NEEDED, find
from oneflower_appliance.site_scores import scores_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oneflower.api import NodeReport
    from oneflower_appliance.node_findings import Finding
    from oneflower_appliance.site_scores import SiteScores

_OWN = ("seconds", "examples", "sent", "received")
_MOST = 40  # quantities

Values = list[float | None]


@dataclass(frozen=True)
class NodeLine:
    """One node in the table: `last` are its newest values by quantity, `seconds` the usual ones for its training.

    `remark` says what is noticeable about it, or what went wrong last. `trouble` is the kind of the fault or finding,
    and empty if there is none or the node has done its part again since.
    """

    name: str
    partition: str
    seconds: float | None
    last: dict[str, float | None]
    faults: int
    remark: str
    trouble: str


class Curves:
    """The values of all nodes by round. `rounds` is the last round that is known."""

    def __init__(self) -> None:
        self.rounds = 0
        self._values: dict[str, dict[str, Values]] = {}
        self._partitions: dict[str, str] = {}
        self._faults: dict[str, list[NodeReport]] = {}
        self._well: dict[str, int] = {}  # the last round in which a node did its part
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
                self._faults[node].append(report)
            else:
                self._well[node] = report.round
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

    @property
    def across(self) -> SiteScores:
        """How good the last model that nodes evaluated is on the data of each site."""
        return scores_in(self._recent)

    def lines(self) -> list[NodeLine]:
        """Return a line for each node, those with faults and slow ones first."""
        times = self._values.get("train: seconds", {})
        usual = {
            node: statistics.median(known) for node in times if (known := [v for v in times[node] if v is not None])
        }
        names = {report.node: _name(report) for report in self._recent}
        noticed = defaultdict(list)
        for finding in find(self._recent):
            noticed[names[finding.node]].append(finding)
        shown = [name for name in self._values if name.split(": ")[1] not in ("seconds", "sent", "received")][:4]
        lines = []
        for node in list(self._faults):
            last = {name: self._last(name, node) for name in shown}
            remark, trouble = self._remark(node, noticed[node])
            faults = len(self._faults[node])
            lines.append(NodeLine(node, self._partitions[node], usual.get(node), last, faults, remark, trouble))
        return sorted(lines, key=lambda line: (not line.trouble, not line.remark, len(line.name), line.name))

    def _remark(self, node: str, noticed: list[Finding]) -> tuple[str, str]:
        """Return what a person should know about a node, and the kind of its trouble if it has any now."""
        last = self._faults[node][-1] if self._faults[node] else None
        if noticed:
            fails = noticed[0].kind == FAILS and last is not None
            return "; ".join(one.text for one in noticed), last.fault if fails and last else noticed[0].kind
        if last is None:
            return "", ""
        what = f"round {last.round}: {last.fault} ({last.reason})"
        if (times := len({fault.round for fault in self._faults[node]})) > 1:
            what = f"did not do its part in {times} rounds. Last, {what}"
        if self._well.get(node, 0) > last.round:
            return f"{what}. Since round {last.round + 1} it takes part again.", ""
        return what, last.fault

    def _last(self, quantity: str, node: str) -> float | None:
        values = self._values[quantity].get(node) or [None]
        return values[-1]


def _name(report: NodeReport) -> str:
    return report.name or f"node {report.node}"
