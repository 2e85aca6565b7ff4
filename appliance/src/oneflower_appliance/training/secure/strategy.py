"""Secure aggregation around a strategy that takes the mean of the nodes' updates, such as FedAvg or FedAdam.

    strategy = SecAgg(FedAvg())

The strategy chooses the nodes and gets one result: the mean. It cannot see what a single node trained.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.parameters import MEAN_STRATEGIES
from oneflower_appliance.runs import Fault
from oneflower_appliance.training.secure.aggregation import Choices, SecureRound, TooFewError, fault_of
from oneflower_appliance.training.secure.wire import RECORD

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flwr.serverapp import Grid

    from oneflower_appliance.training.guard import FaultOf

log = logging.getLogger("flwr")

# Flower's classes whose result depends on the nodes' weighted mean alone.
_OF_THE_MEAN = (*(getattr(flower, name) for name in MEAN_STRATEGIES), flower.FedAvgM)


class SecAgg(Strategy):
    """A strategy with secure aggregation. Raises `OneflowerError` if it needs the updates of single nodes."""

    def __init__(self, strategy: Strategy, choices: Choices | None = None) -> None:
        super().__init__()
        inner: Any = strategy
        self._clip = 0.0
        if isinstance(strategy, flower.DifferentialPrivacyClientSideFixedClipping):  # it adds noise to the mean
            inner, self._clip = strategy.strategy, float(strategy.clipping_norm)
        [owner, *_] = [kind for kind in type(inner).__mro__ if "aggregate_train" in vars(kind)]
        if owner not in _OF_THE_MEAN:
            raise OneflowerError(
                f"{type(inner).__name__} needs the update of each node, which secure aggregation hides.",
                f"Use one of {', '.join(kind.__name__ for kind in _OF_THE_MEAN)}, or no secure aggregation.",
            )
        self.strategy: Any = strategy
        self._inner = inner
        self._choices = choices or Choices()
        self._round: tuple[SecureRound, ArrayRecord] | None = None
        self._faults: list[Fault] = []

    def summary(self) -> None:
        """Log what is configured."""
        log.info("\t├──> Secure aggregation: %s of the nodes must stay until the end", self._choices.threshold)
        self.strategy.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the chosen nodes exchange keys, and return the messages that ask those to train that did."""
        messages = list(self.strategy.configure_train(server_round, arrays, config, grid))
        self._faults, self._round = [], None
        if not messages:
            return []
        current = SecureRound(grid, messages, self._inner.weighted_by_key, self._choices, self._clip)
        try:
            ready = set(current.prepare())
        except TooFewError as error:
            self._give_up(server_round, current, error)
            return []
        self._faults, current.faults = current.faults, []
        self._round = current, arrays
        contents: dict[int, RecordDict] = {}  # the same content stays the same object in all messages
        chosen = [message for message in messages if message.metadata.dst_node_id in ready]
        for message in chosen:
            before = message.content
            if id(before) not in contents:
                contents[id(before)] = RecordDict(dict(before.items()))
                contents[id(before)][RECORD] = current.collect
            message.content = contents[id(before)]
        return chosen

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Unmask the sum of the updates, and give its mean to the strategy."""
        if self._round is None:
            return None, None
        (current, arrays), self._round = self._round, None
        sound = [reply for reply in replies if not reply.has_error()]
        if not sound:
            return None, None
        before = {name: array.numpy() for name, array in arrays.items()}
        try:
            total = current.total(sound, before)
        except TooFewError as error:
            self._give_up(server_round, current, error)
            return None, None
        self._faults = [fault for fault in current.faults if int(fault.node) not in total.nodes]
        for fault in current.faults:
            if int(fault.node) in total.nodes:
                log.warning("Round %d: %s. Its update is in the sum.", server_round, fault.sentence)
        content: dict[str, Any] = {
            self._inner.arrayrecord_key: ArrayRecord({name: Array(array) for name, array in total.mean.arrays.items()}),
            "metrics": MetricRecord({**total.metrics, self._inner.weighted_by_key: total.mean.examples}),
        }
        mean = Message(RecordDict(content), 0, "train")
        log.info("Secure aggregation: the one result is the mean of %d nodes", len(total.nodes))
        result: tuple[ArrayRecord | None, MetricRecord | None] = self.strategy.aggregate_train(server_round, [mean])
        return result

    def _give_up(self, server_round: int, current: SecureRound, error: TooFewError) -> None:
        log.error("Round %d changes nothing: %s.", server_round, error)
        failed = {fault.node: fault for fault in current.faults}
        rest = {str(node): Fault(str(node), "train", "left out", f"its round changes nothing: {error}")
                for node in current.left}  # fmt: skip
        self._faults = list((rest | failed).values())

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return what the strategy asks."""
        found: Iterable[Message] = self.strategy.configure_evaluate(server_round, arrays, config, grid)
        return found

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return what the strategy makes of the evaluations. They are not masked."""
        found: MetricRecord | None = self.strategy.aggregate_evaluate(server_round, replies)
        return found

    def take_faults(self) -> list[Fault]:
        """Return what happened to nodes that are not in the sum, and forget it."""
        found, self._faults = self._faults, []
        return found

    def fault_of(self, arrays: ArrayRecord) -> FaultOf | None:
        """Return what checks the arrays of a masked update, None if there is no round."""
        if self._round is None:
            return None
        size = sum(math.prod(array.shape) for array in arrays.values())
        return lambda found: fault_of(found, size)


def faults_of(strategy: object) -> list[Fault]:
    """Return the nodes that a strategy with secure aggregation lost since it was asked last, none for others."""
    return strategy.take_faults() if isinstance(strategy, SecAgg) else []


def guard_of(strategy: object, model: ArrayRecord) -> FaultOf | None:
    """Return what finds faults in masked updates of a model, None if the strategy has no secure aggregation."""
    return strategy.fault_of(model) if isinstance(strategy, SecAgg) else None
