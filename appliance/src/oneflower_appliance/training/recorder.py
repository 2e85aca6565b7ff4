"""What a run writes into its folder, since Flower keeps neither metrics per round nor a model.

- metrics.jsonl: one JSON object per round: round, rounds, seconds; ended, in seconds since 1970; asked, nodes (that
  trained), failures (those that did not), train; evaluate_asked, evaluated, evaluate; server; columns: from which of
  these loss and accuracy are taken, the same in every round; faults: node, phase, kind and reason, for each node that
  failed, was left out or did not answer; across and worst_sites: the values on the worst site, and which one it is
  (`site_scores`); and evaluate_again, if a resumed run must evaluate this round again
- reports-*.jsonl: what each node did in each round (`node_reports`)
- model.npz: the arrays of the final global model, under their names
- best-*.npz: those of the models after the best rounds, if these are not the last one (`best_models`)
- result.json: rounds done, seconds, strategy, config, versions, metrics of the last round, sha256 of the model

Recording never makes a run fail: the run's log says what could not be written.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import math
import platform
import time
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.run_folder import METRICS, MODEL, NODES, RESULT
from oneflower_appliance.runs import RunRow, lines_of, readable, sources_of
from oneflower_appliance.training.npz import save_record
from oneflower_appliance.use_cases import FRAMEWORKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from flwr.app import ArrayRecord

    from oneflower_appliance.runs import Fault
    from oneflower_appliance.training.best_models import BestModels
    from oneflower_appliance.training.node_record import NodeRecord, Told
    from oneflower_appliance.training.traffic import Measure

log = logging.getLogger("flwr")

_REPORTS = "what the nodes did in the round"
_OF_FRAMEWORKS = [package for framework in FRAMEWORKS.values() for package in framework.packages]
_PACKAGES = dict.fromkeys(("flwr", "numpy", *_OF_FRAMEWORKS, "tensorflow", "xgboost"))


class RunRecord:
    """The folder of one run. `config` has its settings, `earlier` the lines of the run that it resumes.

    For a strategy that the app starts `later`, after another one, `earlier` has the lines of those before. `nodes` is
    the record of what each node did, and `best` has the models of the best rounds.
    """

    def __init__(
        self, folder: Path, rounds: int, strategy: str, config: Mapping[str, Any], earlier: list[str],
        nodes: NodeRecord, best: BestModels, *, later: bool = False,
    ) -> None:  # fmt: skip
        self._folder = folder
        self._nodes = nodes
        self._best = best
        self._after = json.loads(earlier[-1])["round"] if later else 0
        self._rounds = self._after + rounds
        self._strategy = _joined(_strategies(folder), strategy) if later else strategy
        self._config = config
        self._lines = earlier
        self._row: dict[str, Any] = {}
        self._sources: dict[str, str] = json.loads(earlier[-1]).get("columns", {}) if earlier else {}
        self._saved: ArrayRecord | None = None  # what is in model.npz
        self._model: dict[str, Any] | None = None
        self._unfit = ""
        self._begun = time.monotonic()
        self._round_begun = self._begun
        if earlier:
            self._save_rounds()

    def open_round(self, number: int, arrays: ArrayRecord, known: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Begin round `number` of the strategy (the first is 1) with a model. The round before is now complete.

        `known` is its row so far.
        """
        self.close_round(arrays)
        self._round_begun = time.monotonic() - known.get("seconds", 0)
        number += self._after
        self._row = {"round": number, "rounds": self._rounds, "nodes": 0, "failures": 0, "faults": [], **known}

    def note(self, **values: Any) -> None:
        """Add to the current round."""
        self._row.update(values)

    def blame(self, faults: Iterable[Fault]) -> None:
        """Add the faults of nodes to the current round."""
        self._row["faults"] += [fault.entry for fault in faults]

    def report(
        self, phase: str, told: Mapping[int, Told], faults: Iterable[Fault], measured: Mapping[int, Measure]
    ) -> None:
        """Add what each node did in a phase of the current round."""
        self._nodes.add(self._row["round"], phase, told, faults, measured)

    def save_reports(self) -> None:
        """Write what the nodes did so far in the current round, in case that it is lost before it ends."""
        with self._losing(_REPORTS):
            self._nodes.save(self._row["round"])

    def know(self, nodes: Iterable[int]) -> None:
        """Record which nodes the run has asked, so that a run that resumes it notices missing ones."""
        self._save(NODES, json.dumps(sorted(nodes)) + "\n")

    def foresee(self, **found: Mapping[str, Any]) -> None:
        """Learn from the evaluation before the first round which evaluations there will be."""
        self._sources = sources_of(found, self._sources)

    @property
    def round(self) -> tuple[int, int]:
        """The number of the current round, 0 before the first one, and of all rounds."""
        return self._row.get("round", self._after), self._rounds

    @property
    def row(self) -> dict[str, Any]:
        """The current round so far."""
        seconds = round(time.monotonic() - self._round_begun, 3)
        return self._row | {"seconds": seconds, "columns": sources_of(self._row, self._sources)}

    def close_round(self, arrays: ArrayRecord | None) -> None:
        """Write the current round, if there is one. It ended with the model `arrays`."""
        if not self._row:
            return
        row = self.row | {"ended": round(time.time(), 3)}
        self._sources = row["columns"]
        with self._losing(_REPORTS):
            self._nodes.close_round(row["round"])
        self._lines.append(json.dumps(row))
        self._save_rounds()
        self._row = {}
        if arrays is not None:
            self._best.offer(RunRow.parse(self._lines[-1]), arrays)

    def finish(self, arrays: ArrayRecord | None) -> None:
        """Write the model and the summary."""
        self.close_round(arrays)
        last = json.loads(self._lines[-1]) if self._lines else {}
        self._best.finish(last.get("round", 0))
        self._summarise(last, arrays)

    def trained(self, arrays: ArrayRecord, unfit: str = "") -> None:
        """Write model and summary before the last evaluation, so that the trained model is safe.

        `unfit` says why the run cannot be resumed from these two alone, empty if it can.
        """
        self._unfit = unfit
        self.save_reports()
        self._summarise(self.row, arrays)

    def _summarise(self, last: Mapping[str, Any], arrays: ArrayRecord | None) -> None:
        summary: dict[str, Any] = {
            "rounds": last.get("round", 0),
            "seconds": round(time.monotonic() - self._begun, 3),
            "strategy": self._strategy,
            "config": dict(self._config),
            "versions": _versions(),
            "last": last,
        }
        if self._unfit:
            summary["unfit"] = self._unfit
        if arrays and self._saved is not arrays:
            with self._losing(MODEL):
                self._model = {
                    "sha256": save_record(self._folder / MODEL, arrays),
                    "arrays": {name: list(array.shape) for name, array in arrays.items()},
                }
                self._saved = arrays
        self._save(RESULT, json.dumps(summary | {"model": self._model}, indent=1) + "\n")

    def _save_rounds(self) -> None:
        self._save(METRICS, "\n".join(self._lines) + "\n")

    def _save(self, name: str, content: str) -> None:
        with self._losing(name):
            write_atomic(self._folder / name, content, SHARED)

    @contextmanager
    def _losing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OneflowerError as error:
            log.error("%s The run continues; %s is lost.", error.sentence, name)  # noqa: TRY400


def _versions() -> dict[str, str]:
    """Return the releases of the packages that a model is trained with, if they are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _strategies(folder: Path) -> str:
    """Return the names of the strategies that have ended in this run."""
    try:
        return str(json.loads((folder / RESULT).read_text(encoding="utf-8"))["strategy"])
    except (OSError, ValueError, KeyError):
        return ""


def _joined(before: str, strategy: str) -> str:
    return ", ".join(dict.fromkeys([*filter(None, before.split(", ")), strategy]))


def earlier_rounds(folder: Path, last: float = math.inf) -> list[str]:
    """Return the lines of metrics.jsonl in the folder of a run that can be read, up to round `last`."""
    try:
        lines = lines_of(folder / METRICS)
    except OSError:
        return []
    return [line for line, row in readable(lines) if row.round <= last]
