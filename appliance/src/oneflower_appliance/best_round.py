"""Which round of a run is the best one by a metric, and whether lower or higher values of a metric are better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oneflower_appliance.runs import ACROSS, COLUMNS, SOURCES, numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from oneflower_appliance.runs import RunRow

MOST = 6  # metrics for whose best rounds the models are kept
WORST = "worst_site_"  # how the names of metrics begin that are those on the worst site
_ALL = (*SOURCES, ACROSS)
_LOWER = frozenset({"loss", "error", "mse", "rmse", "mae", "perplexity"})


@dataclass(frozen=True)
class Best:
    """The best round by a metric, and its value there."""

    metric: str
    round: int
    value: float


def lower_is_better(name: str) -> bool:
    """Whether lower values of a metric are better, judged by the last word of its name; otherwise higher ones are."""
    return name.lower().replace("-", "_").replace(".", "_").split("_")[-1] in _LOWER


def metrics_of(rows: Iterable[RunRow]) -> list[str]:
    """Return the metrics that a round can be chosen by, the usual ones first.

    These are loss and accuracy, and those on the worst site. The others are by name.
    """
    known = list(rows)
    found = {name for row in known for source in _ALL for name in numbers(row.metrics.get(source))}
    columns = [name for name in COLUMNS if any(value_of(row, name) is not None for row in known)]
    columns += [name for column in COLUMNS if (name := f"{WORST}{column}") in found]
    return [*columns, *sorted(found - {*COLUMNS, *columns})]


def value_of(row: RunRow, name: str) -> float | None:
    """Return a metric of the evaluation in a round; loss and accuracy are those of the table. None: not finite."""
    column = {"loss": row.loss, "accuracy": row.accuracy}
    given = [numbers(row.metrics.get(source)).get(name) for source in _ALL]
    value = column[name] if name in column else next((value for value in given if value is not None), None)
    return value if value is not None and math.isfinite(value) else None


def is_better(name: str, value: float, before: float) -> bool:
    """Whether a value is at least as good as one before: of two equal ones, the later is taken."""
    return value <= before if lower_is_better(name) else value >= before


def best_of(rows: Sequence[RunRow], name: str) -> Best | None:
    """Return the best round by a metric, or None if no round has it."""
    found: Best | None = None
    for row in rows:
        value = value_of(row, name)
        if value is not None and (found is None or is_better(name, value, found.value)):
            found = Best(name, row.round, value)
    return found


def usual_best(rows: Sequence[RunRow]) -> Best | None:
    """Return the best round by the usual metric: the loss, else the accuracy, else the first by name."""
    return next((found for name in metrics_of(rows) if (found := best_of(rows, name))), None)
