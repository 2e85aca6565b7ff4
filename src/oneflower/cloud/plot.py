"""Plots how a run converged."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from oneflower_appliance.files import SHARED, write_atomic

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from oneflower_appliance.runs import RunRow

_COLOURS = {"loss": "#b5472f", "accuracy": "#1f6f8b"}


def plot_convergence(rows: Sequence[RunRow], title: str, path: Path) -> None:
    """Write a PNG with the loss and the accuracy of each round, if the run has them."""
    figure = Figure(figsize=(7, 4), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_xlabel("round")
    axes.set_xticks([row.round for row in rows] if len(rows) <= 20 else [])
    for name, axis in (("loss", axes), ("accuracy", axes.twinx())):
        points = [(row.round, value) for row in rows if (value := getattr(row, name)) is not None]
        axis.set_ylabel(name, color=_COLOURS[name])
        if points:
            axis.plot(*zip(*points, strict=True), marker="o", color=_COLOURS[name], label=name)
        else:
            axis.set_yticks([])
            axis.set_ylabel("")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue(), SHARED)
