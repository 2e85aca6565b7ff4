"""A run of a strategy of Flower's Message API, `flwr.serverapp.strategy`."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from flwr.app import Array, ArrayRecord

from oneflower_appliance.node_reports import EVALUATE
from oneflower_appliance.orders import LAST_ROUND
from oneflower_appliance.round_state import Phase
from oneflower_appliance.run_privacy import PRIVACY, RunPrivacy
from oneflower_appliance.training import trees
from oneflower_appliance.training.accounting import Accounting, keep_common_metrics
from oneflower_appliance.training.across import LONGEST, evaluation, is_due, messages_to
from oneflower_appliance.training.asked import Asked
from oneflower_appliance.training.guard import sift, update_of
from oneflower_appliance.training.initial_model import initial_arrays
from oneflower_appliance.training.node_record import Told, told_in
from oneflower_appliance.training.secure.strategy import faults_of, guard_of
from oneflower_appliance.training.supervised_run import SupervisedRun

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from flwr.app import ConfigRecord, Message, MetricRecord
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import Strategy

log = logging.getLogger("flwr")


class MessageRun(SupervisedRun):
    """One run of a strategy. Its methods are called in each round, and call those of the strategy."""

    def start(self, original: Callable[..., Any], given: dict[str, Any], chosen: Container[str]) -> Any:
        """Call Flower's `Strategy.start` with its arguments, or with the rounds that are left.

        The app has `chosen` some of them. If it chose no number of rounds or no timeout, that comes from the form.
        """
        if "num_rounds" not in chosen:
            given["num_rounds"] = self._usual_rounds()
        self._begin(given["num_rounds"])
        given["num_rounds"] = self._within_budget(given["num_rounds"])
        given["initial_arrays"] = initial_arrays(self._config, self._folder.parent, given["initial_arrays"])
        self._enter(given["initial_arrays"])
        if found := self._beginning.checkpoint:
            given["num_rounds"] -= self._beginning.done
            given["initial_arrays"] = ArrayRecord({name: Array(array) for name, array in found.arrays.items()})
        if "timeout" not in chosen:
            given["timeout"] = self._usual_timeout()
        self._timeout = given["timeout"]
        self._grid: Grid = given["grid"]
        self._evaluate_fn = given.get("evaluate_fn")
        if self._evaluate_fn is not None:
            given["evaluate_fn"] = self._evaluate_here
        given["self"] = _in_place_of(self._strategy, self)
        try:
            with self._quorum.kept(given["grid"]):
                result = original(**given)
        finally:
            self._checkpoints.wait()
        result.arrays = result.arrays or given["initial_arrays"]
        for metrics in ("train_metrics_clientapp", "evaluate_metrics_clientapp", "evaluate_metrics_serverapp"):
            rounds = {self._number(server_round): row for server_round, row in getattr(result, metrics).items()}
            setattr(result, metrics, rounds)
        self._finish(result.arrays)
        return result

    def _within_budget(self, rounds: int) -> int:
        """Open the account of this run, and return for how many rounds its privacy budget is enough."""
        self._accounting = Accounting(self._strategy, self._form_of_run(), self._rows_before())
        begun = self._beginning.done + bool(self._beginning.unevaluated)
        self._rounds = begun + self._accounting.rounds(rounds - begun)
        return self._rounds

    def _rows_before(self) -> list[str]:
        """Return the lines of the rounds that were trained before this run begins."""
        trained = [json.dumps(dict(self._beginning.unevaluated))] if self._beginning.unevaluated else []
        return [*(self._before or self._beginning.earlier), *trained]

    def _note_privacy(self, privacy: RunPrivacy) -> None:
        if privacy != RunPrivacy():
            self._record.note(**{PRIVACY: privacy.entry})

    def _number(self, server_round: int) -> int:
        """Return the number of a round; Flower counts from the first round after the checkpoint."""
        return server_round + self._beginning.done

    def configure_train(self, server_round: int, arrays: ArrayRecord, *args: Any, **kwargs: Any) -> Iterable[Message]:
        """Open a round, and return the messages that ask nodes to train."""
        number = self._number(server_round)
        self._open(number, arrays)
        if self._evaluate_only:
            return []
        online = self._online()
        with self._choosing("train"):
            messages = list(self._strategy.configure_train(number, arrays, *args, **kwargs))
        self._node_ids.forget()
        self._ask(self._asked_with("train", messages), online)
        lost = faults_of(self._strategy)
        self._asked.add(lost)
        self._record.note(asked=len(messages) + len(lost))
        return messages

    def _asked_with(self, phase: str, messages: list[Message]) -> Asked:
        sent = [message.metadata for message in messages]
        self._measure()
        return Asked(phase, [metadata.dst_node_id for metadata in sent], sent, self._timeout)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate the valid replies, and save the result."""
        number = self._number(server_round)
        if self._keep_evaluated_again(number):
            return self._arrays, None
        self._show(Phase.AGGREGATING)
        more = trees.guard_of(self._strategy, self._arrays) or guard_of(self._strategy, self._arrays)
        good = self._asked.sort(replies)
        sound, reasons = sift(map(update_of, good), self._arrays, more)
        for node, reason in reasons.items():
            self._asked.blame(node, "left out", reason)
        sound = self._enough(sound)
        keep_common_metrics(sound)
        arrays, metrics = self._strategy.aggregate_train(number, sound)
        lost = faults_of(self._strategy)
        self._asked.add(lost)
        count = len(sound) - len(lost)
        self._note_privacy(self._accounting.charge(0 if arrays is None else count, len(self._asked)))
        self._trained(number, count, arrays, _plain(metrics), self._told_in(good))
        return arrays, metrics

    def _enough(self, sound: list[Message]) -> list[Message]:
        """Return the replies, or none if they are fewer than the quorum, of too few sites, or over the budget."""
        if self._lacks_sites([reply.metadata.src_node_id for reply in sound]):
            return []
        needed = self._quorum.needed(len(self._asked))
        reason = f"its round changes nothing: {len(sound)} of the {needed} results that it needs (FL_ROUND_QUORUM)"
        if len(sound) >= needed:
            if self._accounting.allows(len(sound)):
                return sound
            reason = f"its round changes nothing: a model of {len(sound)} results is over FL_DP_MAX_EPSILON"
        for reply in sound:
            self._asked.blame(reply.metadata.src_node_id, "left out", reason)
        return []

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, *args: Any, **kwargs: Any
    ) -> Iterable[Message]:
        """Return the messages that ask nodes to evaluate."""
        number = self._number(server_round)
        self._available = online = self._online()
        if LAST_ROUND in config:  # a privacy budget may end the run before the round that the app expects to be last
            config[LAST_ROUND] = self._rounds
        with self._choosing("evaluate"):
            messages = list(self._strategy.configure_evaluate(number, arrays, config, *args, **kwargs))
        self._node_ids.forget()
        self._evaluation = messages[0].content if messages else evaluation(self._strategy, arrays, config, number)
        self._ask(self._asked_with("evaluate", messages), online)
        return messages

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Aggregate the nodes' evaluations."""
        number = self._number(server_round)
        self._show(Phase.AGGREGATING)
        received = list(replies)
        good = self._asked.sort(received)
        if self._lacks_sites([reply.metadata.src_node_id for reply in good]):
            received, good = [], []
        keep_common_metrics(good)
        metrics: MetricRecord | None = self._strategy.aggregate_evaluate(number, received)
        self._evaluated(number, len(good), _plain(metrics), self._told_in(good))
        if is_due(self._site_evaluation, number, self._rounds):
            self._evaluate_on_the_others(number)
        return metrics

    def _evaluate_on_the_others(self, number: int) -> None:
        """Have the nodes evaluate that the strategy left out. An app whose nodes do not evaluate has no table."""
        asked_none = not self._asked.nodes
        messages = messages_to(sorted(self._available - self._asked.nodes), self._evaluation)
        if not messages:
            return
        timeout = min(self._timeout or LONGEST, LONGEST)
        self._asked = self._asked_with(EVALUATE, messages)
        self._show(Phase.EVALUATING, sorted(self._asked.nodes))
        good = self._asked.sort(self._grid.send_and_receive(messages, timeout=timeout))
        if not good and asked_none:
            log.info("The model is not compared across sites: no node evaluates it.")
            return
        told = self._told_in(good)
        self._note_nodes(number, EVALUATE, told)
        self._compare_sites(told)

    def _told_in(self, replies: Iterable[Message]) -> dict[int, Told]:
        inner = getattr(self._strategy, "strategy", self._strategy)
        weights = str(getattr(inner, "weighted_by_key", "num-examples"))
        return {reply.metadata.src_node_id: told_in(reply.content, weights) for reply in replies}

    def _evaluate_here(self, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Evaluate in the ServerApp, before the first round and after each one."""
        self._show(Phase.EVALUATING)
        metrics: MetricRecord | None = self._evaluate_fn(self._number(server_round), arrays)  # type: ignore[misc]
        if server_round:
            self._record.note(server=_plain(metrics))
        else:
            self._record.foresee(server=_plain(metrics))
            self._restore()  # an unbroken run does not evaluate here
        return metrics


class _StandIn:
    """Stands in for the strategy in Flower's loop: a round's steps go to the run, everything else to the strategy."""

    def __init__(self, strategy: Strategy, run: MessageRun) -> None:
        self._strategy = strategy
        self.configure_train, self.aggregate_train = run.configure_train, run.aggregate_train
        self.configure_evaluate, self.aggregate_evaluate = run.configure_evaluate, run.aggregate_evaluate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strategy, name)


def _in_place_of(strategy: Strategy, run: MessageRun) -> Any:
    """Return a stand-in whose class has the name of the strategy's class, because Flower logs that name."""
    return type(type(strategy).__name__, (_StandIn,), {})(strategy, run)


def _plain(metrics: MetricRecord | None) -> dict[str, Any]:
    return {} if metrics is None else {str(name): value for name, value in metrics.items()}
