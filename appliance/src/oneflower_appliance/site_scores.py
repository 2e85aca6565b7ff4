"""How good a model is on the data of each site: all sites in a table, and the one on which it is worst.

The nodes of a site count together, weighted by their examples. A node without a site stands for itself. Every number
comes from what nodes reported when they evaluated the model of one round, so a table costs nothing by itself.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from oneflower_appliance.best_round import WORST, lower_is_better
from oneflower_appliance.node_reports import EVALUATE
from oneflower_appliance.runs import ACROSS, COLUMNS, GARBAGE, metric
from oneflower_appliance.sites import site_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from oneflower_appliance.node_reports import NodeReport
    from oneflower_appliance.runs import RunRow

_SITES = "worst_sites"  # in the row of a round
_LONGEST = 64
_FEWEST = 2  # sites, of which one can be the worst


@dataclass(frozen=True)
class Measured:
    """What one node reported when it evaluated: its examples (None: unknown) and its metrics.

    `node` is how it is called, `site` its site, empty if it has none.
    """

    site: str
    node: str
    examples: float | None
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class SiteScore:
    """The metrics of a model on the data of one site, or of a node without a site, which `is_node` says."""

    site: str
    nodes: int
    examples: float | None
    metrics: Mapping[str, float]
    is_node: bool = False


@dataclass(frozen=True)
class Worst:
    """The site with the worst value of a metric; `mean` is that of all sites, weighted by examples."""

    metric: str
    site: str
    value: float
    mean: float

    @property
    def sentence(self) -> str:
        """All three, and how far they are apart."""
        gap = f"{self.value - self.mean:+.4f}"
        return f"{self.metric} {self.mean:.4f} on all together; worst on {self.site}: {self.value:.4f} ({gap})"


@dataclass(frozen=True)
class SiteScores:
    """The model of one round on the data of all sites. Without a report there are no `scores`."""

    round: int = 0
    scores: tuple[SiteScore, ...] = ()
    mean: Mapping[str, float] = field(default_factory=dict)
    worst: tuple[Worst, ...] = ()

    @property
    def names(self) -> list[str]:
        """The metrics that any site has, in the order in which they were reported."""
        return list(dict.fromkeys(name for score in self.scores for name in score.metrics))

    @property
    def has_sites(self) -> bool:
        """Whether any of it is of a site: otherwise all are nodes of one service."""
        return not all(score.is_node for score in self.scores)

    @property
    def table(self) -> list[list[str]]:
        """The table as text: its head, a line for each site, and one for all together."""
        names = self.names
        everything = SiteScore("all", sum(s.nodes for s in self.scores), _total(self.scores), self.mean)
        return [
            ["site" if self.has_sites else "node", "nodes", "examples", *names],
            *(_line(score, names) for score in (*self.scores, everything)),
        ]


NO_SCORES = SiteScores()


def score_sites(measured: Iterable[Measured], number: int = 0) -> SiteScores:
    """Return how good the model of round `number` is on each site."""
    of: dict[tuple[bool, str], list[Measured]] = defaultdict(list)
    for one in measured:
        if one.metrics:
            of[not one.site, one.site or one.node].append(one)
    scores = tuple(
        SiteScore(name, len(own), _total(own), _weighted(own), is_node) for (is_node, name), own in sorted(of.items())
    )
    mean = _weighted(scores)
    return SiteScores(number, scores, mean, tuple(_worst(scores, mean)) if len(scores) >= _FEWEST else ())


def scores_in(reports: Sequence[NodeReport], number: int | None = None) -> SiteScores:
    """Return how good the model of a round is on each site: of round `number`, or of the last that was evaluated."""
    known = [one for one in reports if one.phase == EVALUATE and not one.fault and one.metrics]
    if number is None:
        number = max((one.round for one in known), default=0)
    wanted = (one for one in known if one.round == number)
    return score_sites(
        (Measured(site_of(one.name), one.name or f"node {one.node}", one.examples, one.metrics) for one in wanted),
        number,
    )


def row_entry(scores: SiteScores) -> dict[str, Any]:
    """Return what the row of a round says of its sites, empty if there is nothing to compare.

    Under `ACROSS` are the values on the worst site, which are metrics by which a round can be the best one. Of sites,
    not of nodes without a site, the names are there, too.
    """
    if not scores.worst:
        return {}
    values = {ACROSS: {f"{WORST}{one.metric}": one.value for one in scores.worst}}
    return values | ({_SITES: [asdict(one) for one in scores.worst]} if scores.has_sites else {})


def worst_in(row: RunRow) -> tuple[Worst, ...]:
    """Return what `row_entry` said of sites in a round. What cannot be read is left out."""
    try:
        return read_worst(row.metrics[_SITES])
    except GARBAGE:
        return ()


def read_worst(said: Iterable[Mapping[str, Any]]) -> tuple[Worst, ...]:
    """Read a list of `asdict`. Raises any of what reading garbage raises."""
    return tuple(
        Worst(str(one["metric"])[:_LONGEST], str(one["site"])[:_LONGEST], float(one["value"]), float(one["mean"]))
        for one in said
    )


def _worst(scores: Sequence[SiteScore], mean: Mapping[str, float]) -> Iterable[Worst]:
    for column in COLUMNS:
        found = [(score.site, value) for score in scores if (value := metric(score.metrics, column)) is not None]
        overall = metric(mean, column)
        if len(found) < _FEWEST or overall is None:
            continue
        bad = 1 if lower_is_better(column) else -1
        site, value = max(found, key=lambda one: bad * one[1] if math.isfinite(one[1]) else math.inf)
        yield Worst(column, site, value, overall)


def _weighted(parts: Sequence[Any]) -> dict[str, float]:
    """Return the means of the metrics that all parts have, weighted by examples if all say how many they have."""
    weights = [part.examples for part in parts]
    if None in weights or not sum(weights):
        weights = [1] * len(parts)
    names = [name for name in (parts[0].metrics if parts else ()) if all(name in part.metrics for part in parts)]
    total = sum(weights)
    return {
        name: sum(weight * part.metrics[name] for weight, part in zip(weights, parts, strict=True)) / total
        for name in names
    }


def _total(parts: Sequence[Any]) -> float | None:
    numbers = [part.examples for part in parts]
    return None if None in numbers else sum(numbers)


def _line(score: SiteScore, names: Iterable[str]) -> list[str]:
    values = [f"{score.metrics[name]:.4f}" if name in score.metrics else "-" for name in names]
    return [score.site, str(score.nodes), "-" if score.examples is None else f"{score.examples:g}", *values]
