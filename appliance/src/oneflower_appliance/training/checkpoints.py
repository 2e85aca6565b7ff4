"""Checkpoints of a run: the global model after a round, and the state of its strategy.

The run's folder has, for each round that is kept,

- round-00005.npz: the arrays of the global model, under their names
- round-00005.state.npz: the arrays in the strategy's state (moments of FedAdam), if there are any
- round-00005.json: round, rounds, run, strategy, metrics, row, time, arrays; memory: the strategy's state, by
attribute; unfit: why the strategy cannot be resumed, if it cannot; sha256 of the other files

and `latest`, which names the newest. Each file is written completely or not at all, the JSON last, so a round without
it does not count. If the files do not have the hashes in the JSON, the checkpoint before it is used.
"""

from __future__ import annotations

import json
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.run_folder import MODEL, RESULT
from oneflower_appliance.training import npz
from oneflower_appliance.training.memory import Memory
from oneflower_appliance.training.packing import Packed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from flwr.app import ArrayRecord
    from numpy.typing import NDArray

log = logging.getLogger("flwr")

_LATEST = "latest"


@dataclass(frozen=True)
class Progress:
    """The progress of a run: `row` is the row of its round so far, `metrics` are those of the training."""

    rounds: int
    run: str
    strategy: str
    metrics: Mapping[str, Any]
    row: Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and is not damaged."""

    round: int
    arrays: Mapping[str, NDArray[Any]]
    memory: Memory
    strategy: str
    row: Mapping[str, Any]

    def check_fits(self, arrays: ArrayRecord | None, strategy: str) -> None:
        """Raise `OneflowerError` unless this is of the model `arrays`, and the same strategy can be resumed from it."""
        theirs = {name: tuple(array.shape) for name, array in (arrays or {}).items()}
        if arrays is not None and theirs != {name: array.shape for name, array in self.arrays.items()}:
            raise OneflowerError(
                f"The checkpoint of round {self.round} is of another model: its arrays differ from the app's.",
                "Resume it with the app and the settings that it was trained with.",
                ExitCode.INVALID_INPUT,
            )
        if strategy != self.strategy:
            raise OneflowerError(
                f"The checkpoint of round {self.round} was trained with {self.strategy}, not {strategy}.",
                f"Resume it with FL_STRATEGY={self.strategy}.",
                ExitCode.INVALID_INPUT,
            )
        if self.memory.unfit:
            raise OneflowerError(
                f"The run cannot be resumed from round {self.round}. {self.memory.unfit}",
                "Train again, or have the strategy keep numbers, text, arrays of NumPy, and lists and dicts of these.",
                ExitCode.INVALID_INPUT,
            )


class Checkpoints:
    """The newest `keep` checkpoints of one run, in `folder`. They are written in the background, in order."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = keep
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._last: Future[None] | None = None

    def save(self, number: int, arrays: ArrayRecord, memory: Memory, progress: Progress) -> None:
        """Start writing the checkpoint of a round. If a file cannot be written, the log says so and the run continues.

        The arrays of `memory` must not change any more.
        """
        self.wait()
        self._last = self._writer.submit(self._write, number, arrays, memory, progress)

    def wait(self) -> None:
        """Wait until all checkpoints are written."""
        if self._last is not None:
            self._last.result()

    def _write(self, number: int, arrays: ArrayRecord, memory: Memory, progress: Progress) -> None:
        name = f"round-{number:05d}"
        try:
            hashes = {f"{name}.npz": npz.save_record(self._folder / f"{name}.npz", arrays)}
            kept = {key: array for packed in memory.attributes.values() for key, array in packed.arrays.items()}
            if kept:
                hashes[f"{name}.state.npz"] = npz.save_arrays(self._folder / f"{name}.state.npz", kept)
            content = {
                "round": number,
                **asdict(progress),
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "arrays": {key: list(array.shape) for key, array in arrays.items()},
                "memory": {
                    path: {"value": packed.text, "arrays": list(packed.arrays)}
                    for path, packed in memory.attributes.items()
                },
                "unfit": memory.unfit,
                "sha256": hashes,
            }
            write_atomic(self._folder / f"{name}.json", json.dumps(content, indent=1) + "\n", SHARED)
            write_atomic(self._folder / _LATEST, f"{name}\n", SHARED)
            self._remove_old()
        except (OneflowerError, OSError) as error:
            sentence = error.sentence if isinstance(error, OneflowerError) else str(error)
            log.error("%s The run continues; the checkpoint of round %d is lost.", sentence, number)  # noqa: TRY400

    def _remove_old(self) -> None:
        for old in self._names()[self._keep :]:
            for path in self._folder.glob(f"{old}.*"):
                path.unlink(missing_ok=True)

    def _names(self) -> list[str]:
        """Return the rounds with a checkpoint, newest first."""
        return sorted((path.stem for path in self._folder.glob("round-*.json")), reverse=True)

    def latest(self) -> Checkpoint | None:
        """Return the newest checkpoint that is not damaged, or None."""
        for name in self._names():
            try:
                return self._read(name)
            except npz.DAMAGE as error:
                log.warning("The checkpoint %s is damaged (%s); using the one before.", self._folder / name, error)
        return None

    def _read(self, name: str) -> Checkpoint:
        content = json.loads((self._folder / f"{name}.json").read_text(encoding="utf-8"))
        found = {file: npz.load(self._folder / file, sha256) for file, sha256 in content["sha256"].items()}
        arrays, kept = found[f"{name}.npz"], found.get(f"{name}.state.npz", {})
        if list(arrays) != list(content["arrays"]):
            raise ValueError(f"{name}.npz does not have the arrays that the JSON names")
        memory = {
            path: Packed(entry["value"], {key: kept[key] for key in entry["arrays"]})
            for path, entry in content["memory"].items()
        }
        return Checkpoint(
            content["round"], arrays, Memory(memory, content["unfit"]), content["strategy"], content["row"]
        )


def of_trained_model(folder: Path) -> Checkpoint | None:
    """Return what a run saved after its last training, or None if it did not get there or a file is damaged."""
    try:
        summary = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        arrays = npz.load(folder / MODEL, summary["model"]["sha256"])
        memory = Memory({}, summary.get("unfit", ""))
        return Checkpoint(summary["rounds"], arrays, memory, summary["strategy"], summary["last"])
    except npz.DAMAGE:
        return None
