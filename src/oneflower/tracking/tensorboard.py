"""TensorBoard: a folder of event files for each run, with one for the whole model and one for each node."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oneflower.tracking.values import node_name, of_node, of_round, path
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from oneflower.cloud import RunResult
    from oneflower_appliance.runs import RunRow

LOCAL = Path("oneflower-results") / "tensorboard"
_ALL = "all"


class TensorboardTracker:
    """A run in the folder `folder`, in a folder of its own.

    Curves of nodes have the same names as those of the model, so that TensorBoard shows them in one chart. Raises
    `OneflowerError` when TensorBoard's library is missing.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.summary import Writer  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise OneflowerError(
                f"TensorBoard's library is not installed here: {error}.",
                "Install it: pip install 'oneflower[tensorboard]'. In a checkout: "
                "scripts/uv sync --inexact --extra tensorboard",
                ExitCode.ENVIRONMENT,
            ) from error
        self._writer = Writer
        self._folder = folder.absolute()
        self._run = self._folder
        self._open: dict[str, Any] = {}

    def begin(self, federation: str, run: str) -> None:
        """Begin a run; what was written of it before is removed."""
        self._run = self._folder / path(f"{federation}-{run}")
        shutil.rmtree(self._run, ignore_errors=True)

    def add(self, row: RunRow) -> None:
        """Write a round."""
        for name, value in of_round(row).items():
            self._write(_ALL, name, value, row.round)
        self._open[_ALL].flush()

    def finish(self, result: RunResult, outcome: str) -> str:  # noqa: ARG002 - which it has no place for
        """Write what the nodes did."""
        for report in result.node_reports:
            for name, value in of_node(report).items():
                self._write(node_name(report), name, value, report.round)
        self._close()
        return f"tensorboard --logdir {self._folder}"

    def fail(self) -> None:
        """Close the files."""
        self._close()

    def _write(self, who: str, name: str, value: float, step: int) -> None:
        if who not in self._open:
            self._open[who] = self._writer(str(self._run / who))
        self._open[who].add_scalar(name, value, step)

    def _close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()
