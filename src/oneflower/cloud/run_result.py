"""A finished run, as a person or a notebook gets it: its rounds, its files, what its nodes did."""

from __future__ import annotations

import base64
import html
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oneflower.cloud import reports
from oneflower.cloud.best_model import best_round
from oneflower.cloud.rowtext import as_html, as_text
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.run_privacy import RunPrivacy
from oneflower_appliance.runs import ACROSS, SOURCES, RunRow
from oneflower_appliance.site_scores import NO_SCORES, SiteScores

if TYPE_CHECKING:
    from pathlib import Path

    from oneflower_appliance.best_round import Best
    from oneflower_appliance.node_findings import Finding
    from oneflower_appliance.node_reports import NodeReport
    from oneflower_appliance.run_folder import Messages

_IN_RECORDS = ("round", "rounds", "seconds", "nodes", "asked", "failures", "loss", "accuracy", "train_loss")


@dataclass(frozen=True)
class RunResult:
    """A finished run: its rounds and its files; None for a file that it did not write.

    `plot` is a PNG and `plot_svg` the same as an SVG. `card` tells in Markdown what the model was trained on and how;
    `reports` has what each node did in each round, a line of JSON each (`node_reports` reads it); `more` are files that
    the app itself left, in its working folder for instance, and `not_saved` those that were too large or too many to be
    fetched. `messages` are those of an app that trained without a strategy, None if it sent none. `findings` say which
    nodes were slow, failed, drifted or had worse metrics at its end. `best` is the best round by the usual
    metric. The model is that of `round`.
    `damage` says that rounds in the record cannot be read, if so.
    """

    id: str
    app: str
    rows: tuple[RunRow, ...]
    seconds: float
    model: Path | None = None
    metrics: Path | None = None
    plot: Path | None = None
    plot_svg: Path | None = None
    card: Path | None = None
    reports: Path | None = None
    more: tuple[Path, ...] = ()
    not_saved: tuple[str, ...] = ()
    messages: Messages | None = None
    findings: tuple[Finding, ...] = ()
    best: Best | None = None
    round: int = 0
    across: SiteScores = NO_SCORES
    damage: str = ""

    @property
    def privacy(self) -> RunPrivacy:
        """What the run has spent."""
        return RunPrivacy.in_row(self.rows[-1].metrics) if self.rows else RunPrivacy()

    @property
    def records(self) -> list[dict[str, Any]]:
        """One flat dict for each round, as pandas and csv take them: what the run has, and all metrics by name."""
        return [
            {name: getattr(row, name) for name in _IN_RECORDS}
            | {
                f"{source}.{name}": value
                for source in ("train", *SOURCES, ACROSS)
                for name, value in (row.metrics.get(source) or {}).items()
            }
            for row in self.rows
        ]

    def best_by(self, metric: str) -> Best:
        """Return the best round by a metric of the evaluation. Raises `OneflowerError` if the run does not have it."""
        return best_round(self.id, self.rows, metric)

    @property
    def node_reports(self) -> list[NodeReport]:
        """What each node did in each phase of each round, read from the file `reports`. Raises `OneflowerError`."""
        if self.reports is None:
            return []
        try:
            return reports.load(self.reports)
        except (OSError, KeyError, ValueError) as error:
            raise OneflowerError(
                f"{self.reports} cannot be read: {error!r}.",
                "Fetch it again with `oneflower model`.",
                ExitCode.NOT_FOUND,
            ) from error

    def to_pandas(self) -> Any:
        """Return the records as a pandas.DataFrame, by round. Raises `OneflowerError` without pandas."""
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            raise OneflowerError(
                "pandas is not installed here.", "Install it (`pip install pandas`), or use `records`."
            ) from error
        return pandas.DataFrame.from_records(self.records, index="round" if self.rows else None)

    def __str__(self) -> str:
        named = "".join(f"\n  {path}" for path in self._files)
        return f"{self.app}, run {self.id}\n{as_text(self.rows)}{named}"

    @property
    def _files(self) -> list[Path]:
        found = (self.model, self.metrics, self.plot, self.plot_svg, self.card, self.reports, *self.more)
        return [path for path in found if path is not None]

    def _repr_html_(self) -> str:
        """Show the table, the plot and the files in a notebook."""
        plot = ""
        if self.plot is not None and self.plot.is_file():
            encoded = base64.b64encode(self.plot.read_bytes()).decode()
            plot = f'<img alt="convergence" style="max-width: 40em" src="data:image/png;base64,{encoded}">'
        files = "".join(f"<li>{html.escape(str(path))}</li>" for path in self._files)
        return (
            f"<div>{html.escape(self.app)}, run {html.escape(self.id)}</div>{as_html(self.rows)}{plot}<ul>{files}</ul>"
        )
