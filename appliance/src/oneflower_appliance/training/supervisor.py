"""What oneflower adds to every run of every app, without the app knowing.

All strategies of Flower's Message API run through `Strategy.start`, so that one method is wrapped in the ServerApp's
process: the run is recorded, replies that would ruin the model are left out, checkpoints are written, and a run that
takes the place of one that was lost begins where the last checkpoint of that one ended.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
from typing import TYPE_CHECKING, Any

from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import Strategy

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.training.abandoned import Abandoned
from oneflower_appliance.training.asked import Asked
from oneflower_appliance.training.checkpoints import Checkpoint, Checkpoints, State, of_trained_model
from oneflower_appliance.training.guard import sift
from oneflower_appliance.training.origin import Origin
from oneflower_appliance.training.recorder import RunRecord, earlier_rounds
from oneflower_appliance.training.strategies import read_form

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from flwr.app import MetricRecord
    from flwr.supercore.run import Run

log = logging.getLogger("flwr")


def supervise(runs: Path, checkpoints: Path) -> None:
    """Have every strategy that is started in this process supervised.

    A run leaves its record in `runs`/<run id> and its checkpoints in `checkpoints`/<id of the first run>.
    """
    original = Strategy.start

    @functools.wraps(original)
    def start(self: Strategy, grid: Any, *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(original).bind(self, grid, *args, **kwargs)
        timed = "timeout" in given.arguments
        given.apply_defaults()
        return _Run(self, grid.run, runs, checkpoints).start(original, dict(given.arguments), timed=timed)

    Strategy.start = start  # type: ignore[method-assign]


class _Run:
    """One run of a strategy."""

    def __init__(self, strategy: Strategy, run: Run, runs: Path, checkpoints: Path) -> None:
        self._strategy = strategy
        self._name = type(getattr(strategy, "strategy", strategy)).__name__
        self._folder = runs / str(run.run_id)
        self._abandoned = Abandoned.beside(runs)
        self._form = read_form({})
        self._config = dict(run.override_config)
        self._origin = Origin.of(self._folder)
        path = self._form.text("FL_CHECKPOINT_PATH")
        folder = (type(checkpoints)(path) if path else checkpoints) / self._origin.first
        self._checkpoints = Checkpoints(folder, self._form.integer("FL_CHECKPOINT_KEEP"))
        self._done = 0
        self._rounds = 0
        self._unevaluated: dict[str, Any] = {}  # the row of a round that is begun again with its evaluation
        self._arrays = ArrayRecord()

    def start(self, original: Callable[..., Any], bound: dict[str, Any], *, timed: bool) -> Any:
        """Call Flower's `Strategy.start` with what it was given, or with what is left to do of it."""
        self._rounds = bound["num_rounds"]
        earlier: list[str] = []
        before = Origin.line(self._folder)[1:]
        trained = (of_trained_model(folder) for folder in before)
        if before and (found := self._checkpoints.latest() or next(filter(None, trained), None)):
            # Of those that it goes on from, the nearest may have died before it could note anything.
            earlier = next(filter(None, (earlier_rounds(folder, found.round) for folder in before)), [])
            if not any(json.loads(line)["round"] == found.round for line in earlier):
                self._unevaluated = dict(found.row)  # it died after the training of that round
            self._resume(found, bound)
        if not timed:
            bound["timeout"] = float(self._form.integer("FL_ROUND_TIMEOUT"))
        self._timeout = bound["timeout"]
        self._record = RunRecord(self._folder, self._rounds, self._name, self._config, earlier)
        self._watch()
        if bound.get("evaluate_fn") is not None:
            bound["evaluate_fn"] = self._evaluating(bound["evaluate_fn"])
        try:
            result = original(**bound)
        finally:
            self._checkpoints.wait()
        result.arrays = result.arrays or bound["initial_arrays"]
        for metrics in ("train_metrics_clientapp", "evaluate_metrics_clientapp", "evaluate_metrics_serverapp"):
            setattr(result, metrics, {number + self._done: row for number, row in getattr(result, metrics).items()})
        self._record.finish(result.arrays)
        return result

    def _resume(self, found: Checkpoint, bound: dict[str, Any]) -> None:
        found.check_fits(bound["initial_arrays"], self._name)
        if found.round > self._rounds:
            raise OneflowerError(
                f"The checkpoint is of round {found.round}, and the run is to have {self._rounds}.",
                "Ask for more rounds.",
                ExitCode.INVALID_INPUT,
            )
        log.info("Going on from the checkpoint of round %d of run %s.", found.round, self._origin.resumes)
        self._done = found.round - bool(self._unevaluated)
        bound["num_rounds"] -= self._done
        bound["initial_arrays"] = ArrayRecord({name: Array(array) for name, array in found.arrays.items()})
        found.state.restore(self._strategy)

    def _watch(self) -> None:
        """Wrap the methods of this one strategy object that Flower calls in each round."""
        strategy: Any = self._strategy
        configure_train, configure_evaluate = strategy.configure_train, strategy.configure_evaluate
        aggregate_train, aggregate_evaluate = strategy.aggregate_train, strategy.aggregate_evaluate

        def configuring_train(server_round: int, arrays: ArrayRecord, *args: Any, **kwargs: Any) -> Any:
            self._arrays = arrays
            self._record.open_round(server_round + self._done, self._unevaluated)
            if self._unevaluated:
                return []
            messages = list(configure_train(server_round + self._done, arrays, *args, **kwargs))
            self._asked = Asked("train", messages, self._timeout)
            self._record.note(asked=len(messages))
            return messages

        def aggregating_train(server_round: int, replies: Iterable[Any]) -> Any:
            number = server_round + self._done
            if self._unevaluated:
                self._unevaluated = {}
                self._keep(number, self._arrays)
                return self._arrays, None
            sound, reasons = sift(self._asked.sort(replies), self._arrays)
            for node, reason in reasons.items():
                self._asked.blame(node, "left out", reason)
            arrays, metrics = aggregate_train(number, sound)
            self._record.note(nodes=len(sound), failures=len(self._asked.faults), train=_plain(metrics))
            self._note_faults(number)
            if arrays is not None:
                self._checkpoint(number, arrays, _plain(metrics))
            self._keep(number, arrays or self._arrays)
            return arrays, metrics

        def configuring_evaluate(server_round: int, *args: Any, **kwargs: Any) -> Any:
            messages = list(configure_evaluate(server_round + self._done, *args, **kwargs))
            self._asked = Asked("evaluate", messages, self._timeout)
            return messages

        def aggregating_evaluate(server_round: int, replies: Iterable[Any]) -> Any:
            number = server_round + self._done
            received = list(replies)
            good = self._asked.sort(received)
            metrics = aggregate_evaluate(number, received)
            self._record.note(evaluate_asked=len(self._asked), evaluated=len(good), evaluate=_plain(metrics))
            self._note_faults(number)
            return metrics

        strategy.configure_train, strategy.configure_evaluate = configuring_train, configuring_evaluate
        strategy.aggregate_train, strategy.aggregate_evaluate = aggregating_train, aggregating_evaluate

    def _note_faults(self, number: int) -> None:
        for fault in self._asked.faults:
            log.warning("Round %d: %s", number, fault.sentence)
        self._record.blame(self._asked.faults)
        self._abandoned.note({node: message for node, message in self._asked.silent.items() if message})

    def _keep(self, number: int, arrays: ArrayRecord) -> None:
        """Have what was trained be safe before the last evaluation, in which the run may be lost."""
        if number == self._rounds:
            self._record.trained(arrays)

    def _checkpoint(self, number: int, arrays: ArrayRecord, metrics: dict[str, Any]) -> None:
        if not self._form.flag("FL_CHECKPOINT_ENABLED"):
            return
        if number % self._form.integer("FL_CHECKPOINT_INTERVAL") and number != self._rounds:
            return
        facts = {
            "rounds": self._rounds,
            "run": self._folder.name,
            "strategy": self._name,
            "metrics": metrics,
            "row": self._record.row,
        }
        self._checkpoints.save(number, arrays, State.of(self._strategy), facts)

    def _evaluating(self, evaluate: Callable[[int, Any], Any]) -> Callable[[int, Any], Any]:
        def evaluate_fn(server_round: int, arrays: Any) -> Any:
            metrics = evaluate(server_round + self._done, arrays)
            if server_round:
                self._record.note(server=_plain(metrics))
            else:
                self._record.foresee(server=_plain(metrics))
            return metrics

        return evaluate_fn


def _plain(metrics: MetricRecord | None) -> dict[str, Any]:
    return {} if metrics is None else {str(name): value for name, value in metrics.items()}
