"""Which nodes are slow, fail, or have worse metrics than the others: plain rules over the last rounds of a run.

A finding says what the record of the nodes shows, never why. docs/see-it.md gives the rules to people.

- fails: a node did not do its part in more than half of what it was asked for
- slow: in more than half of the rounds it needed more than `_SLOW` times the median of the others to train, and more
  than `_SECONDS` longer
- worse: in more than half of the rounds its loss or accuracy was worse than the median of the nodes by more than
  `_MADS` median absolute deviations (MAD) and by more than `_SHARE`; with at least `_NODES` nodes
- drifts: its loss or accuracy became worse than in the rounds before by more than `_MADS` MADs of its own and by more
  than `_SHARE`, and the median of the others did not, by more than `_OTHERS` of that; with at least `_FEWEST` nodes

The metrics are those of the evaluation on the nodes, or of the training if nodes do not evaluate.
"""

from __future__ import annotations

import math
from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from oneflower_appliance.node_reports import EVALUATE, TRAIN, lines_after, read_line
from oneflower_appliance.runs import COLUMNS, metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from oneflower_appliance.node_reports import NodeReport

WINDOW = 5  # rounds
NEEDED = 2 * WINDOW  # rounds that findings are based on at most
_LEAST = 2  # rounds
_SLOW = 2.0
_SECONDS = 1.0
_MADS = 5.0
_SHARE = 0.1
_LONGEST = 300
_NODES = 4
_FEWEST = 3
_OTHERS = 0.1
FAILS, SLOW, WORSE, DRIFTS = KINDS = ("fails", "slow", "worse", "drifts")

_Values = dict[int, dict[str, float]]  # by round and node


@dataclass(frozen=True)
class Finding:
    """What is noticeable about a node: `kind` is one of `KINDS`, `text` gives the numbers.

    `node` is Flower's id, `name` the name of its machine if it is known.
    """

    node: str
    kind: str
    text: str
    name: str = ""

    @property
    def sentence(self) -> str:
        """The node and what is noticeable."""
        return f"{self.name or f'node {self.node}'} {self.text}"

    @property
    def entry(self) -> dict[str, str]:
        """What `parse` reads, and the sentence."""
        return asdict(self) | {"sentence": self.sentence}

    @classmethod
    def parse(cls, said: Mapping[str, Any], names: Mapping[str, str]) -> Finding:
        """Read what `entry` wrote; `names` are machines, by node. Raises `KeyError` or `ValueError`."""
        node, kind = str(said["node"]), str(said["kind"])
        if kind not in KINDS:
            raise ValueError(f"not a kind of finding: {kind!r}")
        return cls(node, kind, str(said["text"])[:_LONGEST], names.get(node, ""))


def findings_in(folder: Path, last: int) -> list[Finding]:
    """Return what is noticeable after round `last` of the run in a folder. What cannot be read is left out."""
    reports: list[NodeReport] = []
    for line in lines_after(folder, last - NEEDED):
        with suppress(ValueError):
            reports += read_line(line)
    return find(reports)


def find(reports: Iterable[NodeReport]) -> list[Finding]:
    """Return what is noticeable in the last rounds of some reports, by node."""
    known = [report for report in reports if report.round]
    if not known:
        return []
    last = max(report.round for report in known)
    recent = [report for report in known if report.round > last - WINDOW]
    before = [report for report in known if last - NEEDED < report.round <= last - WINDOW]
    found = [*_failing(recent), *_slow(recent)]
    phase = EVALUATE if any(report.metrics for report in recent if report.phase == EVALUATE) else TRAIN
    for column in COLUMNS:
        now, then = _values(recent, phase, column), _values(before, phase, column)
        for more in (*_worse(now, column), *_drifting(now, then, column)):
            if (more.node, more.kind) not in {(one.node, one.kind) for one in found}:
                found.append(more)
    return sorted(found, key=lambda one: (one.node, KINDS.index(one.kind)))


def _failing(reports: Sequence[NodeReport]) -> Iterable[Finding]:
    asked: dict[str, list[NodeReport]] = defaultdict(list)
    for report in reports:
        asked[report.node].append(report)
    for node, parts in asked.items():
        faults = [part for part in parts if part.fault]
        if len({part.round for part in parts}) >= _LEAST and _most(len(faults), len(parts)):
            times = f"{len(faults)} of {len(parts)} times in {_rounds({part.round for part in parts})}"
            yield Finding(node, FAILS, f"did not do its part {times}; last: {faults[-1].fault}, {faults[-1].reason}")


def _slow(reports: Sequence[NodeReport]) -> Iterable[Finding]:
    seconds: _Values = defaultdict(dict)
    for report in reports:
        if report.phase == TRAIN and report.seconds is not None:
            seconds[report.round][report.node] = report.seconds
    for node, rounds in _by_node(seconds).items():
        pairs = [(seconds[number][node], _of_others(seconds[number], node)) for number in rounds]
        known = [(own, other) for own, other in pairs if other is not None]
        slow = [own > _SLOW * other and own > other + _SECONDS for own, other in known]
        if len(known) >= _LEAST and _most(sum(slow), len(known)):
            own, others = median(own for own, _ in known), median(other for _, other in known)
            yield Finding(node, SLOW, f"is slow: {own:.1f} s for training, the median of the others is {others:.1f} s")


def _worse(values: _Values, column: str) -> Iterable[Finding]:
    for node, rounds in _by_node(values).items():
        fit = [number for number in rounds if len(values[number]) >= _NODES]
        worse = [number for number in fit if _is_off(values[number][node], list(values[number].values()), column)]
        if len(fit) >= _LEAST and _most(len(worse), len(fit)):
            own = median(values[number][node] for number in fit)
            usual = median(median(values[number].values()) for number in fit)
            times = f"in {len(worse)} of {_rounds(set(fit))}"
            yield Finding(
                node, WORSE, f"has a worse {column}: {own:.4g}, the median of the nodes is {usual:.4g}, {times}"
            )


def _drifting(now: _Values, then: _Values, column: str) -> Iterable[Finding]:
    if len(now) < WINDOW or len(then) < WINDOW or min(map(len, (*now.values(), *then.values()))) < _FEWEST:
        return
    for node, rounds in _by_node(then).items():
        before = [then[number][node] for number in rounds]
        after = [nodes[node] for nodes in now.values() if node in nodes]
        if len(before) != WINDOW or len(after) != WINDOW or not _is_off(median(after), before, column):
            continue
        others = [median(other for nodes in part.values() if (other := _of_others(nodes, node)) is not None)
                  for part in (now, then)]  # fmt: skip
        if _gap(others[0], others[1], column) <= _OTHERS * _gap(median(after), median(before), column):
            change = f"{median(before):.4g} before, {median(after):.4g} in the last {WINDOW} rounds"
            yield Finding(node, DRIFTS, f"drifts: its {column} became worse, {change}")


def _is_off(value: float, values: Sequence[float], column: str) -> bool:
    """Whether a value is much worse than the median of some values."""
    usual = median(values)
    deviation = median(abs(one - usual) for one in values)
    return _gap(value, usual, column) > max(_MADS * deviation, _SHARE * abs(usual))


def _gap(value: float, usual: float, column: str) -> float:
    """Return by how much a value is worse: a higher loss, a lower accuracy."""
    return value - usual if column == "loss" else usual - value


def _values(reports: Iterable[NodeReport], phase: str, column: str) -> _Values:
    """Return the values of a metric. One that is not finite counts as the worst."""
    found: _Values = defaultdict(dict)
    for report in reports:
        value = metric(report.metrics, column) if report.phase == phase else None
        if value is not None:
            worst = math.inf if column == "loss" else -math.inf
            found[report.round][report.node] = value if math.isfinite(value) else worst
    return found


def _by_node(values: _Values) -> dict[str, list[int]]:
    """Return the rounds of each node."""
    found: dict[str, list[int]] = defaultdict(list)
    for number, nodes in values.items():
        for node in nodes:
            found[node].append(number)
    return found


def _of_others(values: Mapping[str, float], node: str) -> float | None:
    others = [value for other, value in values.items() if other != node]
    return median(others) if others else None


def _most(some: int, of: int) -> bool:
    return 2 * some > of


def _rounds(numbers: set[int]) -> str:
    return f"the last {len(numbers)} rounds"
