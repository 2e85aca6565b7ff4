"""Plots how a run converged: loss and accuracy by round, and behind them what each node measured."""

from __future__ import annotations

import io
import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from oneflower.cloud.axis import limits
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.node_reports import EVALUATE, TRAIN
from oneflower_appliance.runs import metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from oneflower_appliance.node_reports import NodeReport
    from oneflower_appliance.runs import RunRow

    Points = Sequence[tuple[int, float]]  # rounds and values

_COLOURS = {"loss": "#b5472f", "accuracy": "#1f6f8b", "train_loss": "#b5472f"}
_TITLES = {"loss": "loss", "accuracy": "accuracy", "train_loss": "loss in training"}
_MOST_MARKERS = 50  # rounds
_MOST_LINES = 5_000  # points of nodes that are drawn as lines in an SVG, not as a picture in it


def plot_convergence(rows: Sequence[RunRow], title: str, paths: Iterable[Path], reports: Iterable[NodeReport]) -> None:
    """Write the plot of a run, in the format that the name of each path ends with: png or svg."""
    figure = draw(rows, title, reports)
    for path in paths:
        buffer = io.BytesIO()
        with rc_context({"svg.fonttype": "none"}):  # text stays text
            figure.savefig(buffer, format=path.suffix.removeprefix("."))
        write_atomic(path, buffer.getvalue(), SHARED)


def draw(rows: Sequence[RunRow], title: str, reports: Iterable[NodeReport]) -> Figure:
    """Return the plot, with a panel for each of loss and accuracy that the run has.

    If nobody has tested the model's loss, the panel has the loss on the nodes while they trained.
    """
    curves = {name: _points((row.round, getattr(row, name)) for row in rows) for name in _COLOURS}
    loss = "loss" if curves["loss"] else "train_loss"
    shown = [name for name in (loss, "accuracy") if curves[name]] or ["loss"]
    of_nodes = _of_nodes(reports, shown)
    figure = Figure(figsize=(7, 1 + 2.6 * len(shown)), dpi=130, layout="constrained")
    figure.suptitle(title, parse_math=False)
    panels = figure.subplots(len(shown), sharex=True, squeeze=False)[:, 0]
    for name, axes in zip(shown, panels, strict=True):
        _draw(axes, name, curves[name], of_nodes[name])
    panels[-1].set_xlabel("round")
    panels[-1].set_xlim(rows[0].round - 0.5, rows[-1].round + 0.5)
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def _draw(axes: Axes, name: str, points: Points, of_nodes: Mapping[str, Points]) -> None:
    axes.set_ylabel(_TITLES[name], color=_COLOURS[name])
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    many = sum(map(len, of_nodes.values())) > _MOST_LINES
    faint = max(0.06, min(0.4, 4 / (len(of_nodes) or 1)))
    style: dict[str, Any] = {"color": "#777777", "alpha": faint, "linewidth": 0.8, "rasterized": many, "zorder": 1.5}
    for curve in of_nodes.values():
        axes.plot(*zip(*curve, strict=True), **style, **_markers(curve, 2))
    values = [value for _, value in points if math.isfinite(value)]
    if not values:
        axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", va="center", color="#888888")
        axes.set_yticks([])
        return
    axes.plot(*zip(*points, strict=True), color=_COLOURS[name], **_markers(points, 5))
    measured = [value for curve in of_nodes.values() for _, value in curve if math.isfinite(value)]
    axes.set_ylim(*limits(name, values, measured))
    last = max(point for point in points if math.isfinite(point[1]))
    axes.annotate(
        f"{last[1]:.4g}", last, (6, 0), textcoords="offset points", va="center", fontsize="small",
        color=_COLOURS[name], annotation_clip=False,
    )  # fmt: skip
    if of_nodes:
        a_node, *_, model = axes.get_lines()
        shown = axes.legend([a_node, model], ["each node", "the model"], fontsize="small", frameon=False)
        for handle in filter(None, shown.legend_handles):
            handle.set_alpha(0.8)


def _markers(points: Points, size: float) -> dict[str, Any]:
    """Return how points are marked. One point alone has no line that could be seen."""
    return {"marker": "o", "markersize": size} if len(points) <= _MOST_MARKERS else {}


def _points(values: Iterable[tuple[int, float | None]]) -> Points:
    """Return the values that are known. One that is not finite leaves a gap in the line."""
    return [(number, value if math.isfinite(value) else math.nan) for number, value in values if value is not None]


def _of_nodes(reports: Iterable[NodeReport], shown: Sequence[str]) -> Mapping[str, Mapping[str, Points]]:
    """Return what each node measured, by panel and node: in its evaluation, or in training for the loss of that."""
    found: dict[str, dict[str, list[tuple[int, float | None]]]] = {name: defaultdict(list) for name in shown}
    for report in reports:
        for name in shown:
            phase, column = (TRAIN, "loss") if name == "train_loss" else (EVALUATE, name)
            if report.phase == phase:
                found[name][report.node].append((report.round, metric(report.metrics, column)))
    curves = {name: {node: _points(values) for node, values in nodes.items()} for name, nodes in found.items()}
    return {name: {node: points for node, points in nodes.items() if points} for name, nodes in curves.items()}
