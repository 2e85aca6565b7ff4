"""Shows a run: its rounds as they end, and the files that it left."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from oneflower.cli.living import LivingLine
from oneflower.cli.screen import note, say, show, show_table, warn
from oneflower.events import Note
from oneflower_appliance.orders import FINE_TUNED
from oneflower_appliance.runs import list_faults

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oneflower.cloud import RunProgress, RunResult, RunRow
    from oneflower.cloud.rowtext import Column
    from oneflower_appliance.site_scores import SiteScores


class RunTable:
    """Prints a run's rounds as they end."""

    def __init__(self) -> None:
        self.living = LivingLine()
        self._rows: list[RunRow] = []
        self._columns: Sequence[Column] = ()

    def add(self, row: RunRow) -> None:
        """Print one more round."""
        from oneflower.cloud import rowtext  # noqa: PLC0415 - costs time that --help need not spend

        if not self._rows:
            self._columns = rowtext.columns(row)
            say(rowtext.heading(self._columns))
        self._rows.append(row)
        self.living.end_round(row)
        say(rowtext.line(self._columns, row))
        for sentence in list_faults(row.faults):
            warn(f"           {sentence}")

    def curve(self) -> str:
        """Return the accuracy of the rounds as a line of bars, or an empty text if it is not known."""
        points = [row.accuracy for row in self._rows if row.accuracy is not None and math.isfinite(row.accuracy)]
        if not points:
            return ""
        from oneflower.cloud.axis import limits  # noqa: PLC0415 - as above

        bars = "▁▂▃▄▅▆▇█"
        low, high = limits("accuracy", points, ())
        scale = (len(bars) - 1) / (high - low)
        return f"accuracy {points[0]:.3f} {''.join(bars[round((p - low) * scale)] for p in points)} {points[-1]:.3f}"


def show_sites(scores: SiteScores) -> None:
    """Show how good a model is on the data of each site, if any node is of a site or has a model of its own."""
    if not scores.has_sites and not any(name.startswith(FINE_TUNED) for name in scores.names):
        return
    head, *lines = scores.table
    show(f"Round {scores.round} on the data of each {head[0]}:")
    show_table(head, lines)
    for worst in scores.worst:
        show(worst.sentence)


def show_files(result: RunResult) -> None:
    """Show how good the model is on each site, and name the files that a run left."""
    show_sites(result.across)
    if not result.rows and result.model is None:
        counted = result.messages.sentence if result.messages else "it sent no messages"
        show(f"{'model':8} none: no round of a strategy was recorded; {counted}")
    privacy = result.privacy
    if privacy.sentence:
        show(f"{'privacy':8} {privacy.sentence}")
    if privacy.nodes:
        show(
            f"{'privacy':8} {len(privacy.nodes)} nodes of sites add noise themselves; the card has what each has spent"
        )
    for name in ("model", "metrics", "plot", "card", "reports"):
        if path := getattr(result, name):
            show(f"{name:8} {path}")
    for path in result.more:
        show(f"{'more':8} {path}")
    if (best := result.best) and best.round != result.round:
        note(
            f"round {best.round} was the best by {best.metric} ({best.value:.4g}); "
            f"this model is of round {result.round}. `oneflower model --best` fetches the other."
        )
    for finding in result.findings:
        note(finding.sentence)
    if lost := result.not_saved:
        names = ", ".join(lost[:5]) + (" ..." if len(lost) > 5 else "")
        warn(str(Note(f"{len(lost)} files of the app are too large or too many and stay on the SuperLink: {names}")))


def progress_line(found: RunProgress) -> str:
    """Return how far a run is and, in a second line, the last fault of a node."""
    line = f"run {found.id} of {found.app}: {found.status}"
    if found.row is not None:
        values = {"loss": found.row.loss, "accuracy": found.row.accuracy}
        known = "".join(f", {name} {value:.4f}" for name, value in values.items() if value is not None)
        line += f", round {found.round} of {found.rounds}{known}"
    line += f": {found.error}" if found.error else ""
    line += f"\n  {found.waiting}" if found.waiting and not found.finished else ""
    return line + (f"\n  In round {found.fault_round}, {found.fault.sentence}" if found.fault else "")
