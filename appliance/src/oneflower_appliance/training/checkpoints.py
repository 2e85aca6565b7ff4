"""Checkpoints of a run: the global model after a round, and what the strategy must remember to go on from there.

In the run's folder there are, for each round that is kept,

- round-00005.npz: the arrays of the global model, under their names
- round-00005.state.npz: arrays that the strategy keeps from round to round (moments of FedAdam), where there are any
- round-00005.json: round, rounds, run, strategy, metrics, time, arrays, scalars of the strategy, sha256 of the others

and `latest`, which names the newest. Each is written whole or not at all, the JSON last, so a round without it does not
count; one whose files do not have the hashes that it says is passed over for the one before.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import SHARED, replacing, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from flwr.app import Array, ArrayRecord
    from flwr.serverapp.strategy import Strategy
    from numpy.typing import NDArray

log = logging.getLogger("flwr")

_ARRAYS = ("m_t", "v_t", "momentum_vector")
_SCALARS = ("clipping_norm",)
_LATEST = "latest"


@dataclass(frozen=True)
class State:
    """What a strategy keeps from one round to the next; keys are `attribute` or `attribute/name`."""

    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, strategy: Strategy) -> State:
        """Return the state of a strategy, and of the one that it wraps."""
        arrays: dict[str, NDArray[Any]] = {}
        scalars: dict[str, float] = {}
        for found in _layers(strategy):
            for name in _ARRAYS:
                kept = getattr(found, name, None)
                if isinstance(kept, dict):
                    arrays |= {f"{name}/{key}": array for key, array in kept.items()}
                elif isinstance(kept, list):
                    arrays |= {f"{name}/{number}": array for number, array in enumerate(kept)}
            scalars |= {name: float(getattr(found, name)) for name in _SCALARS if hasattr(found, name)}
        return cls(arrays, scalars)

    def restore(self, strategy: Strategy) -> None:
        """Put the state back into a strategy of the same kind."""
        for found in _layers(strategy):
            for name in _ARRAYS:
                kept = {key.removeprefix(f"{name}/"): array for key, array in self.arrays.items()
                        if key.startswith(f"{name}/")}  # fmt: skip
                if kept and hasattr(found, name):
                    setattr(found, name, list(kept.values()) if name == "momentum_vector" else kept)
            for name, value in self.scalars.items():
                if hasattr(found, name):
                    setattr(found, name, value)


def _layers(strategy: Strategy) -> Iterable[Strategy]:
    yield strategy
    if (inner := getattr(strategy, "strategy", None)) is not None:
        yield from _layers(inner)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found whole."""

    round: int
    arrays: Mapping[str, NDArray[Any]]
    state: State
    strategy: str
    row: Mapping[str, Any]

    def check_fits(self, arrays: ArrayRecord, strategy: str) -> None:
        """Raise `OneflowerError` unless this is of the model `arrays`, trained with the same strategy."""
        theirs = {name: tuple(array.shape) for name, array in arrays.items()}
        if theirs != {name: array.shape for name, array in self.arrays.items()}:
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


class Checkpoints:
    """The checkpoints of one run in `folder`, the newest `keep` of them. They are written beside the run, in order."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = keep
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._last: Future[None] | None = None

    def save(self, number: int, arrays: ArrayRecord, state: State, facts: Mapping[str, Any]) -> None:
        """Begin to write the checkpoint of a round. What cannot be written is said in the log; the run goes on."""
        self.wait()
        self._last = self._writer.submit(self._write, number, arrays, state, dict(facts))

    def wait(self) -> None:
        """Wait until what was begun is written."""
        if self._last is not None:
            self._last.result()

    def _write(self, number: int, arrays: ArrayRecord, state: State, facts: dict[str, Any]) -> None:
        name = f"round-{number:05d}"
        try:
            hashes = {f"{name}.npz": _save(self._folder / f"{name}.npz", {k: _npy(a) for k, a in arrays.items()})}
            if state.arrays:
                kept = {key: _packed(array) for key, array in state.arrays.items()}
                hashes[f"{name}.state.npz"] = _save(self._folder / f"{name}.state.npz", kept)
            content = {
                "round": number,
                **facts,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "arrays": {key: list(array.shape) for key, array in arrays.items()},
                "scalars": dict(state.scalars),
                "sha256": hashes,
            }
            write_atomic(self._folder / f"{name}.json", json.dumps(content, indent=1) + "\n", SHARED)
            write_atomic(self._folder / _LATEST, f"{name}\n", SHARED)
            for old in self._names()[self._keep :]:
                for path in self._folder.glob(f"{old}.*"):
                    path.unlink(missing_ok=True)
        except (OneflowerError, OSError) as error:
            sentence = error.sentence if isinstance(error, OneflowerError) else str(error)
            log.error("%s The run goes on; the checkpoint of round %d is lost.", sentence, number)  # noqa: TRY400

    def _names(self) -> list[str]:
        """Return the rounds that there are, newest first."""
        return sorted((path.stem for path in self._folder.glob("round-*.json")), reverse=True)

    def latest(self) -> Checkpoint | None:
        """Return the newest checkpoint that is whole, None where there is none."""
        for name in self._names():
            try:
                return self._read(name)
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                log.warning("The checkpoint %s is damaged (%s); using the one before.", self._folder / name, error)
        return None

    def _read(self, name: str) -> Checkpoint:
        facts = json.loads((self._folder / f"{name}.json").read_text(encoding="utf-8"))
        found: dict[str, dict[str, NDArray[Any]]] = {}
        for file, expected in facts["sha256"].items():
            content = (self._folder / file).read_bytes()
            if hashlib.sha256(content).hexdigest() != expected:
                raise ValueError(f"{file} does not have the hash that was noted")
            with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
                found[file] = dict(loaded)
        arrays = found.pop(f"{name}.npz")
        if list(arrays) != list(facts["arrays"]):
            raise ValueError(f"{name}.npz does not have the arrays that were noted")
        state = State(next(iter(found.values()), {}), facts["scalars"])
        return Checkpoint(facts["round"], arrays, state, facts["strategy"], facts["row"])


def of_trained_model(folder: Path) -> Checkpoint | None:
    """Return what the folder of a run has after its last training, None where it did not come as far or is damaged."""
    try:
        summary = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        content = (folder / "model.npz").read_bytes()
        if hashlib.sha256(content).hexdigest() != summary["model"]["sha256"]:
            return None
        with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
            return Checkpoint(summary["rounds"], dict(loaded), State(), summary["strategy"], summary["last"])
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None


class _Hashing(io.RawIOBase):
    """A file that is hashed as it is written; zipfile writes it front to back, since it cannot be wound back."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self._stream.write(data)


def _save(path: Path, entries: Mapping[str, bytes]) -> str:
    """Write an .npz of arrays that are in .npy format already, and return its sha256."""
    with replacing(path, SHARED) as stream:
        hashing = _Hashing(stream)
        with zipfile.ZipFile(hashing, "w", zipfile.ZIP_STORED) as archive:
            for name, data in entries.items():
                archive.writestr(f"{name}.npy", data)
    return hashing.digest.hexdigest()


def _npy(array: Array) -> bytes:
    """Return an array in .npy format, which is how Flower carries arrays of NumPy."""
    return bytes(array.data) if array.stype == "numpy.ndarray" else _packed(array.numpy())


def _packed(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def save_model(path: Path, arrays: ArrayRecord) -> str:
    """Write the arrays of a model as .npz and return its sha256. Raises `OneflowerError`."""
    return _save(path, {name: _npy(array) for name, array in arrays.items()})
