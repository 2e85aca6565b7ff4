"""Records every run of every app: metrics per round, and the final model.

Flower offers no API for metrics per round and stores no model. All strategies of its Message API run through
`Strategy.start`, so that one method is wrapped in the ServerApp's process; apps need no change. A run leaves in its
folder:

- metrics.jsonl: one JSON object a round: round, rounds, seconds, nodes, failures, train, evaluate, server, and, where
  nodes failed, their reasons
- model.npz: the arrays of the final global model, under their names
- result.json: app, rounds done, seconds, metrics of the last round, sha256 of the model

Recording never makes a run fail: what cannot be written is said in the run's log.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import io
import json
import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.serverapp.strategy import Strategy

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import SHARED, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from flwr.app import ArrayRecord, MetricRecord

log = logging.getLogger("flwr")

_LONGEST_REASON = 1000


class RunRecord:
    """The folder of one run."""

    def __init__(self, folder: Path, rounds: int) -> None:
        self._folder = folder
        self._rounds = rounds
        self._lines: list[str] = []
        self._row: dict[str, Any] = {}
        self._begun = time.monotonic()
        self._round_begun = self._begun

    def open_round(self, number: int) -> None:
        """Begin round `number`, 1 being the first; the one before is complete now."""
        self.close_round()
        self._round_begun = time.monotonic()
        self._row = {"round": number, "rounds": self._rounds, "nodes": 0, "failures": 0}

    def note(self, **values: Any) -> None:
        """Add to the current round."""
        self._row.update(values)

    def close_round(self) -> None:
        """Write the current round, if there is one."""
        if not self._row:
            return
        self._row["seconds"] = round(time.monotonic() - self._round_begun, 3)
        self._lines.append(json.dumps(self._row))
        self._save("metrics.jsonl", "\n".join(self._lines) + "\n")
        self._row = {}

    def finish(self, arrays: ArrayRecord | None) -> None:
        """Write the model and the summary."""
        self.close_round()
        last = json.loads(self._lines[-1]) if self._lines else {}
        summary: dict[str, Any] = {
            "rounds": last.get("round", 0),
            "seconds": round(time.monotonic() - self._begun, 3),
            "last": last,
            "model": None,
        }
        if arrays:
            buffer = io.BytesIO()
            np.savez(buffer, allow_pickle=False, **{name: array.numpy() for name, array in arrays.items()})
            self._save("model.npz", buffer.getvalue())
            summary["model"] = {
                "sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
                "arrays": {name: list(array.shape) for name, array in arrays.items()},
            }
        self._save("result.json", json.dumps(summary, indent=1) + "\n")

    def _save(self, name: str, content: str | bytes) -> None:
        try:
            write_atomic(self._folder / name, content, SHARED)
        except OneflowerError as error:
            log.error("%s The run goes on; %s is lost.", error.sentence, name)  # noqa: TRY400


def record_runs(runs: Path) -> None:
    """Have every strategy that is started in this process recorded under `runs`/<run id>."""
    original = Strategy.start

    @functools.wraps(original)
    def start(self: Strategy, grid: Any, *args: Any, **kwargs: Any) -> Any:
        bound = _bind(original, self, grid, args, kwargs)
        record = RunRecord(runs / str(grid.run.run_id), bound["num_rounds"])
        _watch(self, record)
        if bound.get("evaluate_fn") is not None:
            bound["evaluate_fn"] = _watch_server(bound["evaluate_fn"], record)
        result = original(**bound)
        record.finish(result.arrays)
        return result

    Strategy.start = start  # type: ignore[method-assign]


def _bind(function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    strategy, grid, args, kwargs = arguments
    bound = inspect.signature(function).bind(strategy, grid, *args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def _watch(strategy: Any, record: RunRecord) -> None:
    """Wrap the methods of this one strategy object that Flower calls in each round."""
    configure, aggregate, evaluate = (
        strategy.configure_train, strategy.aggregate_train, strategy.aggregate_evaluate,
    )  # fmt: skip

    def configure_train(server_round: int, *args: Any, **kwargs: Any) -> Any:
        record.open_round(server_round)
        return configure(server_round, *args, **kwargs)

    def aggregate_train(server_round: int, replies: Iterable[Any]) -> Any:
        received = list(replies)
        reasons = [str(reply.error.reason).strip() for reply in received if reply.has_error()]
        arrays, metrics = aggregate(server_round, received)
        record.note(nodes=len(received) - len(reasons), failures=len(reasons), train=_plain(metrics))
        if reasons:
            record.note(reasons=sorted({reason[-_LONGEST_REASON:] for reason in reasons}))
        return arrays, metrics

    def aggregate_evaluate(server_round: int, replies: Iterable[Any]) -> Any:
        metrics = evaluate(server_round, replies)
        record.note(evaluate=_plain(metrics))
        return metrics

    strategy.configure_train = configure_train
    strategy.aggregate_train = aggregate_train
    strategy.aggregate_evaluate = aggregate_evaluate


def _watch_server(evaluate: Callable[[int, Any], Any], record: RunRecord) -> Callable[[int, Any], Any]:
    def evaluate_fn(server_round: int, arrays: Any) -> Any:
        metrics = evaluate(server_round, arrays)
        if server_round:
            record.note(server=_plain(metrics))
        return metrics

    return evaluate_fn


def _plain(metrics: MetricRecord | None) -> dict[str, Any]:
    return {} if metrics is None else {str(name): value for name, value in metrics.items()}
