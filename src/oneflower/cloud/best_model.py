"""Which file of a run has the model of its best round by a metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower_appliance.best_round import best_of, metrics_of, usual_best
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.run_folder import MODEL, best_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oneflower_appliance.best_round import Best
    from oneflower_appliance.runs import RunRow

_LAST = "Fetch its last model, without `--best`."


def best_round(number: str, rows: Sequence[RunRow], metric: str = "") -> Best:
    """Return the best round of a run by a metric, or by the usual one. Raises `OneflowerError` if there is none."""
    found = best_of(rows, metric) if metric else usual_best(rows)
    if found is None:
        known = ", ".join(metrics_of(rows))
        what = (
            f"No evaluation of run {number} has a metric {metric!r}." if known else f"Run {number} was not evaluated."
        )
        raise OneflowerError(what, f"It has: {known}." if known else _LAST, ExitCode.NOT_FOUND)
    return found


def best_model_file(number: str, rows: Sequence[RunRow], files: Sequence[str], metric: str) -> tuple[str, Best]:
    """Return which of the files of a run has the model of its best round by a metric, and that round.

    Raises `OneflowerError` if that model was not kept.
    """
    found = best_round(number, rows, metric)
    name = _file(found, rows)
    if name in files:
        return name, found
    kept = [other for other in metrics_of(rows) if (best := best_of(rows, other)) and _file(best, rows) in files]
    raise OneflowerError(
        f"Run {number} has not kept the model of round {found.round}, the best by {found.metric}.",
        f"It has kept the best by {', '.join(kept)}: name one with `--metric`." if kept else _LAST,
        ExitCode.NOT_FOUND,
    )


def _file(best: Best, rows: Sequence[RunRow]) -> str:
    return MODEL if best.round == rows[-1].round else best_model(best.round)
