"""Keeps the models of the best rounds of a run, so that a run that became worse has not lost them.

The best rounds are those by loss, by accuracy and by other metrics of the evaluation, `MOST` in all. When the run has
ended, their models are in its folder. That of the last round is the run's model. Small models are written at the
end, so that rounds cost nothing. Large ones are written as soon as a later round is not better, and not held in memory.
So is every model of a run with checkpoints, because the run that resumes it must have them, too.
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from flwr.app import Array, ArrayRecord

from oneflower_appliance.best_round import MOST, Best, is_better, metrics_of, value_of
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.run_folder import best_model
from oneflower_appliance.training.npz import save_record
from oneflower_appliance.training.traffic import bytes_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from oneflower_appliance.runs import RunRow
    from oneflower_appliance.training.checkpoints import Checkpoint

log = logging.getLogger("flwr")

_HELD_BYTES = 8 << 20  # of models that are held in memory until the run ends


class BestModels:
    """The models of the best rounds of one run, in its folder. With `at_once`, each is written as soon as possible."""

    def __init__(self, folder: Path, *, at_once: bool) -> None:
        self._folder = folder
        self._at_once = at_once
        self._best: dict[str, Best] = {}
        self._held: dict[int, ArrayRecord] = {}
        self._written: set[int] = set()
        self._writer = ThreadPoolExecutor(1, "best-model")
        self._last: Future[None] | None = None

    def resume(self, rows: Sequence[RunRow], before: Iterable[Path], checkpoint: Checkpoint) -> None:
        """Continue from the rounds of the runs in the folders `before`, which this run resumes from a checkpoint."""
        for row in rows:
            self._compare(row)
        folders = list(before)
        for number in self._wanted:
            if number == checkpoint.round:
                arrays = {name: Array(array) for name, array in checkpoint.arrays.items()}
                self._held[number] = ArrayRecord(arrays)
                continue
            self._folder.mkdir(parents=True, exist_ok=True)
            for folder in folders:
                with suppress(OSError):  # the next folder may have it
                    os.link(folder / best_model(number), self._folder / best_model(number))
                    self._written.add(number)
                    break

    def offer(self, row: RunRow, arrays: ArrayRecord) -> None:
        """Keep the model of a round that has ended if it is one of the best, and forget those that no longer are."""
        self._compare(row)
        wanted = self._wanted
        if row.round in wanted:
            self._held[row.round] = arrays
        self._held = {number: held for number, held in self._held.items() if number in wanted}
        for number in self._written - wanted:
            self.wait()
            (self._folder / best_model(number)).unlink(missing_ok=True)
        self._written &= wanted
        for number in [number for number in self._held if number != row.round]:
            held = sum(bytes_in(arrays.values()) for other, arrays in self._held.items() if other != row.round)
            if self._at_once or held > _HELD_BYTES:
                self.wait()
                self._last = self._writer.submit(self._write, number, self._held.pop(number))

    def finish(self, last: int) -> None:
        """Write what is held, except for the model of the round `last`, which is the run's model."""
        self.wait()
        for number in [number for number in self._held if number != last]:
            self._write(number, self._held.pop(number))
        self._writer.shutdown()

    @property
    def _wanted(self) -> set[int]:
        return {found.round for found in self._best.values()}

    def _compare(self, row: RunRow) -> None:
        for name in metrics_of([row]):
            value, best = value_of(row, name), self._best.get(name)
            if value is None or (best is None and len(self._best) >= MOST):
                continue
            if best is None or is_better(name, value, best.value):
                self._best[name] = Best(name, row.round, value)

    def _write(self, number: int, arrays: ArrayRecord) -> None:
        try:
            save_record(self._folder / best_model(number), arrays)
            self._written.add(number)
        except OneflowerError as error:
            log.error("%s The run continues; the model of round %d is lost.", error.sentence, number)  # noqa: TRY400

    def wait(self) -> None:
        """Wait until what is being written is there."""
        if self._last is not None:
            self._last.result()
            self._last = None
