"""A run of a strategy of Flower's legacy API, `flwr.server.strategy`.

Flower's legacy server and its workflows get a stand-in for the strategy. In a run that resumes another, they count all
rounds, and the stand-in skips those that are complete: it chooses no clients for them.
"""

from __future__ import annotations

import dataclasses
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.flower import internals
from oneflower_appliance.flower.legacy.arrays import to_parameters, to_record
from oneflower_appliance.flower.legacy.together import Together
from oneflower_appliance.round_state import Phase
from oneflower_appliance.training import trees
from oneflower_appliance.training.across import ROUND
from oneflower_appliance.training.asked import Asked
from oneflower_appliance.training.averages import average, plain
from oneflower_appliance.training.guard import Update, sift
from oneflower_appliance.training.node_record import Told, told_by
from oneflower_appliance.training.quorum import Quorum
from oneflower_appliance.training.supervised_run import SupervisedRun
from oneflower_appliance.training.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from flwr.app import ArrayRecord
    from flwr.serverapp import Grid

    Pairs = Sequence[tuple[Any, Any]]  # a client, and what is sent to it or comes from it


log = logging.getLogger("flwr")


class LegacyRun(SupervisedRun):
    """One run of a strategy. Its methods are called in each round, and call those of the strategy."""

    def __init__(self, strategy: Any, grid: Grid, runs: Path, checkpoints: Path, workflow: object = None) -> None:
        traffic = Traffic.of(grid)
        super().__init__(strategy, grid, runs, checkpoints, internals.legacy_strategies().Strategy)
        self._traffic = traffic
        self._workflow = workflow
        self._together = Together(grid)
        self._entered = False

    @contextmanager
    def supervised(self, config: Any) -> Iterator[tuple[Any, Any]]:
        """Supervise what is done with the strategy inside the context.

        Yields what to give to Flower instead of the strategy, and the configuration. What it does not set comes from
        the form.
        """
        form = self._form_of_run()
        if form.text("FL_PRIVACY") != "none" and form.real("FL_DP_MAX_EPSILON"):
            raise OneflowerError(
                "The budget of this run (FL_DP_MAX_EPSILON) cannot be kept: the legacy API has no known epsilon.",
                "Use an app of the Message API, or leave out FL_DP_MAX_EPSILON.",
                ExitCode.INVALID_INPUT,
            )
        given = config or internals.legacy_api().ServerConfig(num_rounds=self._usual_rounds())
        if self._quorum != Quorum():
            log.warning(
                "FL_ROUND_QUORUM does not apply to this run: Flower's legacy API ends a round by its time alone."
            )
        if self._site_evaluation == ROUND:
            log.warning(
                "FL_SITE_EVALUATION=round does not apply to this run: on Flower's legacy API only the nodes that the "
                "strategy asks evaluate."
            )
        timeout = self._usual_timeout() if given.round_timeout is None else given.round_timeout
        self._begin(given.num_rounds)
        try:
            yield _in_place_of(self._strategy, self), dataclasses.replace(given, round_timeout=timeout)
        finally:
            self._checkpoints.wait()
        if self._entered:
            self._finish(self._arrays)

    def initialize_parameters(self, client_manager: Any) -> Any:
        """Return the strategy's initial model, None if it has none, or the model that the run resumes with."""
        initial = self._strategy.initialize_parameters(client_manager=client_manager)
        self._watch()  # the strategy gives its initial model away, which is no change
        self._enter(to_record(initial) if initial is not None else None)
        self._entered = True
        found = self._beginning.checkpoint
        return to_parameters(found.arrays) if found else initial

    def _is_done(self, server_round: int) -> bool:
        return server_round <= self._beginning.done

    def evaluate(self, server_round: int, parameters: Any) -> Any:
        """Evaluate in the ServerApp, before the first round and after each one."""
        if self._beginning.checkpoint and self._is_done(server_round):
            return None
        if self._entered:
            self._show(Phase.EVALUATING)
        found = self._strategy.evaluate(server_round, parameters=parameters)
        metrics = _with_loss(*found) if found is not None else {}
        if self._entered and server_round:
            self._record.note(server=metrics)
        elif self._entered:
            self._record.foresee(server=metrics)
        return found

    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> Pairs:
        """Open a round, and return which clients train, and how."""
        if self._is_done(server_round):
            return []
        self._enter_without_a_model()
        self._open(server_round, to_record(parameters))
        if self._keep_evaluated_again(server_round):
            return []
        online = self._online()
        with self._choosing("train"):
            chosen: Pairs = self._strategy.configure_fit(
                server_round=server_round, parameters=parameters, client_manager=client_manager
            )
        self._ask(self._asked_with("train", chosen), online)
        self._record.note(asked=len(self._asked))
        return chosen

    def _enter_without_a_model(self) -> None:
        """Open the record of a server that does not ask its strategy for the initial model."""
        if self._entered:
            return
        if self._beginning.checkpoint:
            raise OneflowerError(
                "The run cannot be resumed: the app's own server makes the initial model itself.",
                "Train again, or have the server call the strategy's initialize_parameters.",
                ExitCode.INVALID_INPUT,
            )
        self._enter(None)
        self._entered = True

    def _asked_with(self, phase: str, chosen: Pairs | None) -> Asked:
        nodes = [int(proxy.cid) for proxy, _ in chosen or ()]
        self._measure()
        self._together.expect(len(nodes))
        return Asked(phase, nodes, self._exchange.sent, timeout=None)

    def _settle(self, results: Pairs, failures: Sequence[Any]) -> None:
        """Remember which nodes failed, and why."""
        self._show(Phase.AGGREGATING)
        self._node_ids.forget()
        self._together.expect(0)
        self._asked.sort(self._exchange.answers)
        for failure in failures:
            if isinstance(failure, tuple):
                proxy, result = failure
                self._asked.blame(int(proxy.cid), "failed", result.status.message or "no reason was given")
        lost = self._asked.nodes - self._asked.faulty - {int(proxy.cid) for proxy, _ in results}
        sent = {metadata.dst_node_id for metadata in self._exchange.sent}
        for node in lost:
            unfit = "its reply is not what this API expects"
            self._asked.blame(node, "failed", unfit if node in sent else "the SuperLink took no message for it")

    def aggregate_fit(self, server_round: int, results: Pairs, failures: Sequence[Any]) -> tuple[Any, Any]:
        """Aggregate the valid results, and save the model."""
        self._settle(results, failures)
        of_trees = trees.guard_of(self._strategy, self._arrays)
        sound, reasons = sift((_update(proxy, result) for proxy, result in results), self._arrays, of_trees)
        for node, reason in reasons.items():
            self._asked.blame(node, "left out", reason)
        if self._lacks_sites([int(proxy.cid) for proxy, _ in sound]):
            sound, reasons = [], {int(proxy.cid): "" for proxy, _ in results}
        left_out = [(proxy, result) for proxy, result in results if int(proxy.cid) in reasons]
        parameters, metrics = self._strategy.aggregate_fit(server_round, sound, [*failures, *left_out])
        aggregated = to_record(parameters) if parameters else None
        found = plain(metrics) or average([(result.num_examples, result.metrics) for _, result in sound])
        self._trained(server_round, len(sound), aggregated, found, _told(results))
        self._arrays = aggregated or self._arrays
        return parameters, metrics

    def configure_evaluate(self, server_round: int, parameters: Any, client_manager: Any) -> Pairs:
        """Return which clients evaluate, and how."""
        if self._is_done(server_round):
            return []
        online = self._online()
        with self._choosing("evaluate"):
            chosen: Pairs = self._strategy.configure_evaluate(
                server_round=server_round, parameters=parameters, client_manager=client_manager
            )
        self._ask(self._asked_with("evaluate", chosen), online)
        return chosen

    def aggregate_evaluate(self, server_round: int, results: Pairs, failures: Sequence[Any]) -> tuple[Any, Any]:
        """Aggregate the nodes' evaluations."""
        self._settle(results, failures)
        if self._lacks_sites([int(proxy.cid) for proxy, _ in results]):
            results = []
        loss, metrics = self._strategy.aggregate_evaluate(server_round, results, failures)
        found = plain(metrics) or average([(result.num_examples, result.metrics) for _, result in results])
        self._evaluated(server_round, len(results), _with_loss(loss, found), _told(results))
        return loss, metrics


class _StandIn:
    """Stands in for the strategy: a round's steps go to the run, everything else to the strategy.

    An app's own server may set attributes of its strategy, and ask of which class it is.
    """

    def __init__(self, strategy: Any, run: LegacyRun) -> None:
        steps = {name: getattr(run, name) for name in _STEPS}
        vars(self).update(steps, _strategy=strategy)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._strategy)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_strategy"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._strategy, name, value)

    def __repr__(self) -> str:
        return repr(self._strategy)


_STEPS = (
    "initialize_parameters", "evaluate", "configure_fit", "aggregate_fit", "configure_evaluate", "aggregate_evaluate",
)  # fmt: skip


def _in_place_of(strategy: Any, run: LegacyRun) -> Any:
    return _StandIn(strategy, run)


def _update(proxy: Any, result: Any) -> Update[tuple[Any, Any]]:
    arrays: ArrayRecord = to_record(result.parameters)
    return Update(int(proxy.cid), list(arrays.items()), result.num_examples == 0, (proxy, result))


def _told(results: Pairs) -> dict[int, Told]:
    """Return what each node reported. The loss of an evaluation is apart from its metrics."""
    return {
        int(proxy.cid): told_by(result.num_examples, _with_loss(getattr(result, "loss", None), result.metrics))
        for proxy, result in results
    }


def _with_loss(loss: float | None, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return metrics with the loss, which this API keeps apart."""
    return plain(metrics) | plain({"loss": loss})
