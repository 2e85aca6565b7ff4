"""One run of a strategy: recorded, guarded, saved, and resumed where the run before it ended.

Replies that would ruin the model are left out, and checkpoints are written. A run that resumes a lost one begins at its
last checkpoint.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flwr.app import Array, ArrayRecord

from oneflower_appliance.run_folder import NODES, Origin
from oneflower_appliance.settings import run_config_keys, uncounted
from oneflower_appliance.training.abandoned import Abandoned
from oneflower_appliance.training.asked import Asked
from oneflower_appliance.training.beginning import EVALUATE_AGAIN, Beginning
from oneflower_appliance.training.checkpoints import Checkpoints, Progress
from oneflower_appliance.training.guard import sift
from oneflower_appliance.training.memory import Memory, Watched
from oneflower_appliance.training.recorder import RunRecord
from oneflower_appliance.training.strategies import read_form, variables_of

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping

    from flwr.app import Message, MetricRecord
    from flwr.serverapp.strategy import Strategy

log = logging.getLogger("flwr")


class Run(Protocol):
    """The used part of Flower's description of a run, `Grid.run`."""

    @property
    def run_id(self) -> int:
        """Its number."""

    @property
    def override_config(self) -> Mapping[str, str | int | float | bool]:
        """The run config that `flwr run` got, which overrides the app's own."""


class SupervisedRun:
    """One run of a strategy. Its methods are called in each round, and call those of the strategy."""

    def __init__(self, strategy: Strategy, run: Run, runs: Path, checkpoints: Path) -> None:
        self._strategy = strategy
        self._name = type(getattr(strategy, "strategy", strategy)).__name__
        self._watched = Watched(strategy)
        self._folder = runs / str(run.run_id)
        self._abandoned = Abandoned.beside(runs)
        self._form = read_form({})
        self._config = dict(run.override_config)
        self._origin = Origin.of(self._folder)
        self._nodes = _nodes_of(Origin.line(self._folder))  # that were sent anything so far
        path = self._form.text("FL_CHECKPOINT_PATH")
        folder = (Path(path) if path else checkpoints) / self._origin.first
        self._checkpoints = Checkpoints(folder, self._form.integer("FL_CHECKPOINT_KEEP"))
        self._beginning = Beginning()
        self._evaluate_only = False  # the current round was trained before the run was lost
        self._saved: Memory | None = None  # in the checkpoint of the current round
        self._arrays = ArrayRecord()

    def start(self, original: Callable[..., Any], given: dict[str, Any], chosen: Container[str]) -> Any:
        """Call Flower's `Strategy.start` with its arguments, or with the rounds that are left.

        The app has `chosen` some of them. If it chose no number of rounds or no timeout, that comes from the form.
        """
        if "num_rounds" not in chosen:
            given["num_rounds"] = read_form(self._config).integer("FL_NUM_ROUNDS")
        self._rounds = given["num_rounds"]
        if line := uncounted(self._form, self._used()):
            log.warning("%s", line)
        self._beginning = Beginning.of(self._folder, self._checkpoints)
        self._beginning.check(given["initial_arrays"], self._name, self._rounds)
        if found := self._beginning.checkpoint:
            log.info("Resuming from the checkpoint of round %d of run %s.", found.round, self._origin.resumes)
            given["num_rounds"] -= self._beginning.done
            given["initial_arrays"] = ArrayRecord({name: Array(array) for name, array in found.arrays.items()})
            self._evaluate_only = bool(self._beginning.unevaluated)
            self._restore()
        if "timeout" not in chosen:
            given["timeout"] = float(self._form.integer("FL_ROUND_TIMEOUT"))
        self._timeout = given["timeout"]
        self._grid = given["grid"]
        self._evaluate_fn = given.get("evaluate_fn")
        if self._evaluate_fn is not None:
            given["evaluate_fn"] = self._evaluate_here
        self._record = RunRecord(self._folder, self._rounds, self._name, self._config, self._beginning.earlier)
        given["self"] = _in_place_of(self._strategy, self)
        try:
            result = original(**given)
        finally:
            self._checkpoints.wait()
        return self._finish(result, given["initial_arrays"])

    def _used(self) -> dict[str, str]:
        """Return the variables that apply to this run, with their values. Its own run config needs no line."""
        given = {name: self._form[name] for name in run_config_keys(self._form, self._config)}
        return {**variables_of(self._strategy), "FL_NUM_ROUNDS": str(self._rounds), **given}

    def _finish(self, result: Any, initial: ArrayRecord) -> Any:
        result.arrays = result.arrays or initial
        for metrics in ("train_metrics_clientapp", "evaluate_metrics_clientapp", "evaluate_metrics_serverapp"):
            rounds = {self._number(server_round): row for server_round, row in getattr(result, metrics).items()}
            setattr(result, metrics, rounds)
        self._note_what_evaluation_changed()
        self._record.finish(result.arrays)
        return result

    def _restore(self) -> None:
        if self._beginning.checkpoint:
            self._beginning.checkpoint.memory.restore(self._strategy)

    def _number(self, server_round: int) -> int:
        """Return the number of a round; Flower counts from the first round after the checkpoint."""
        return server_round + self._beginning.done

    def configure_train(self, server_round: int, arrays: ArrayRecord, *args: Any, **kwargs: Any) -> Iterable[Message]:
        """Open a round, and return the messages that ask nodes to train."""
        number = self._number(server_round)
        self._arrays = arrays
        self._note_what_evaluation_changed()
        self._record.open_round(number, self._beginning.unevaluated if self._evaluate_only else {})
        if self._evaluate_only:
            return []
        online = self._online()
        messages = list(self._strategy.configure_train(number, arrays, *args, **kwargs))
        self._ask("train", messages, online)
        self._record.note(asked=len(messages))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate the valid replies, and save the result."""
        number = self._number(server_round)
        if self._evaluate_only and self._beginning.checkpoint:
            self._evaluate_only = False
            self._saved = self._beginning.checkpoint.memory
            self._keep(number, self._arrays, self._saved)
            return self._arrays, None
        sound, reasons = sift(self._asked.sort(replies), self._arrays)
        for node, reason in reasons.items():
            self._asked.blame(node, "left out", reason)
        arrays, metrics = self._strategy.aggregate_train(number, sound)
        self._record.note(nodes=len(sound), failures=len(self._asked.faults), train=_plain(metrics))
        self._note_faults(number)
        self._save(number, arrays, _plain(metrics))
        return arrays, metrics

    def configure_evaluate(self, server_round: int, *args: Any, **kwargs: Any) -> Iterable[Message]:
        """Return the messages that ask nodes to evaluate."""
        online = self._online()
        messages = list(self._strategy.configure_evaluate(self._number(server_round), *args, **kwargs))
        self._ask("evaluate", messages, online)
        return messages

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Aggregate the nodes' evaluations."""
        number = self._number(server_round)
        received = list(replies)
        good = self._asked.sort(received)
        metrics = self._strategy.aggregate_evaluate(number, received)
        self._record.note(evaluate_asked=len(self._asked), evaluated=len(good), evaluate=_plain(metrics))
        self._note_faults(number)
        return metrics

    def _evaluate_here(self, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Evaluate in the ServerApp, before the first round and after each one."""
        metrics: MetricRecord | None = self._evaluate_fn(self._number(server_round), arrays)  # type: ignore[misc]
        if server_round:
            self._record.note(server=_plain(metrics))
        else:
            self._record.foresee(server=_plain(metrics))
            self._restore()  # an unbroken run does not evaluate here
        return metrics

    def _online(self) -> set[int]:
        return set(self._grid.get_node_ids()) if self._nodes else set()

    def _ask(self, phase: str, messages: list[Message], online: set[int]) -> None:
        """Record which nodes a phase asks; `online` are the nodes that were online before the strategy chose.

        A strategy may leave out a node that it could have asked. A node that was away, even if only while it chose, is
        missing.
        """
        self._asked = Asked(phase, messages, self._timeout)
        if unasked := self._nodes - self._asked.nodes:
            for node in unasked - (online & self._online()):
                self._asked.blame(node, "away", "it was offline when the nodes were asked")
        if self._asked.nodes - self._nodes:
            self._nodes |= self._asked.nodes
            self._record.know(self._nodes)

    def _note_faults(self, number: int) -> None:
        for fault in self._asked.faults:
            log.warning("Round %d: %s", number, fault.sentence)
        self._record.blame(self._asked.faults)
        self._abandoned.note({node: message for node, message in self._asked.silent.items() if message})

    def _note_what_evaluation_changed(self) -> None:
        """Mark the last round to be evaluated again when resumed, if its checkpoint is older than the state now."""
        if self._saved is not None and not self._saved.same(self._watched.look()):
            self._record.note(**{EVALUATE_AGAIN: True})
        self._saved = None

    def _save(self, number: int, arrays: ArrayRecord | None, metrics: dict[str, Any]) -> None:
        """Write the checkpoint of a round if one is due, and the model after the last round."""
        last = number == self._rounds
        interval = self._form.integer("FL_CHECKPOINT_INTERVAL")
        wanted = self._form.flag("FL_CHECKPOINT_ENABLED") and arrays is not None and (last or number % interval == 0)
        if not wanted and not last:
            return
        memory = self._watched.look().copy
        model = arrays or self._arrays
        if wanted or memory.used:  # a model alone is not enough to resume a strategy that has a state
            self._saved = memory
            progress = Progress(self._rounds, self._folder.name, self._name, metrics, self._record.row)
            self._checkpoints.save(number, model, memory, progress)
            if memory.unfit:
                log.warning("A run that is lost after round %d cannot be resumed. %s", number, memory.unfit)
        self._keep(number, model, memory)

    def _keep(self, number: int, arrays: ArrayRecord, memory: Memory) -> None:
        """Save the trained model before the last evaluation, in which the run may be lost."""
        if number != self._rounds:
            return
        if memory.used:
            self._checkpoints.wait()
        self._record.trained(arrays, unfit=memory.unfit_without)


def _nodes_of(folders: Iterable[Path]) -> set[int]:
    """Return the nodes that the runs in some folders have asked."""
    known = (Origin.said(folder, NODES) for folder in folders)
    return {node for text in known if text for node in json.loads(text)}


class _StandIn:
    """Stands in for the strategy in Flower's loop: a round's steps go to the run, everything else to the strategy."""

    def __init__(self, strategy: Strategy, run: SupervisedRun) -> None:
        self._strategy = strategy
        self.configure_train, self.aggregate_train = run.configure_train, run.aggregate_train
        self.configure_evaluate, self.aggregate_evaluate = run.configure_evaluate, run.aggregate_evaluate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strategy, name)


def _in_place_of(strategy: Strategy, run: SupervisedRun) -> Any:
    """Return a stand-in whose class has the name of the strategy's class, because Flower logs that name."""
    return type(type(strategy).__name__, (_StandIn,), {})(strategy, run)


def _plain(metrics: MetricRecord | None) -> dict[str, Any]:
    return {} if metrics is None else {str(name): value for name, value in metrics.items()}
