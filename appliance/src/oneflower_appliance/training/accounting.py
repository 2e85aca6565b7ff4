"""Keeps account of what the noise of a run spends, and ends the run when its budget is used up (FL_DP_MAX_EPSILON).

It counts as `gaussian_privacy` does. With dp-central the noise is made for the number of nodes that are asked. If fewer
answer, each of them moves the mean more, and the round costs more. Metrics are not counted.
"""

from __future__ import annotations

import json
import logging
from bisect import bisect_left
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flwr.app import Message, RecordDict
from flwr.serverapp import strategy as flower

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.gaussian_privacy import cost_of, epsilon_of
from oneflower_appliance.run_privacy import CENTRAL, LOCAL, RECORD, NodeSpent, RunPrivacy, not_counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flwr.app import ArrayRecord, MetricRecord
    from flwr.serverapp.strategy import Strategy

    from oneflower_appliance.values import Settings

log = logging.getLogger("flwr")

_OWN = "Epsilon is not known: it is counted for FL_PRIVACY, and the app's strategy has privacy of its own."
_NO_NOISE = "There is no epsilon: the app does not use make_strategy, so nobody adds the noise of FL_PRIVACY."
_SPENT: dict[int, NodeSpent] = {}  # by node: what it told last


class EvenClipping(flower.DifferentialPrivacyServerSideFixedClipping):
    """Flower's fixed clipping, with a mean to which every node contributes as much as any other.

    Weighted by examples, one node could move the mean by more than the noise was made for.
    """

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate replies that all have the same weight."""
        key = str(getattr(self.strategy, "weighted_by_key", "num-examples"))
        replies = list(replies)
        for reply in replies:
            for metrics in reply.content.metric_records.values() if reply.has_content() else ():
                if key in metrics:
                    metrics[key] = 1
        return super().aggregate_train(server_round, replies)


class EvenNoise(flower.DifferentialPrivacyClientSideFixedClipping):
    """Flower's noise for the mean of updates that the nodes have clipped. Secure aggregation gives it the mean alone.

    It is made for a number of nodes, and Flower would expect that many results.
    """

    def __init__(self, strategy: Strategy, noise: float, clip: float, nodes: int) -> None:
        super().__init__(strategy, noise / nodes, clip, 1)
        self.noise = noise
        self.nodes = nodes


def take_spent(message: Message) -> Message:
    """Note what a node says of its budget, and take it out of the message: strategies expect one record of metrics."""
    if message.has_content() and RECORD in message.content:
        content = message.content
        said = content[RECORD]
        message.content = RecordDict({name: record for name, record in content.items() if name != RECORD})
        try:
            _SPENT[message.metadata.src_node_id] = NodeSpent.of(dict(said))
        except (KeyError, TypeError, ValueError) as error:
            log.warning("Node %d tells something else of its privacy: %r", message.metadata.src_node_id, error)
    return message


def keep_common_metrics(replies: Sequence[Message]) -> None:
    """Leave only the metrics that all replies have, if a site with `[privacy]` is among them.

    Its node lets out only some, under one name, and strategies refuse replies that differ.
    """
    private = [reply for reply in replies if reply.metadata.src_node_id in _SPENT]
    records = [record for reply in replies for record in reply.content.metric_records.values()]
    if not private or any(len(reply.content.metric_records) != 1 for reply in replies):
        return
    common = set.intersection(*(set(record) for record in records))
    name = next((name for reply in replies if reply not in private for name in reply.content.metric_records), "")
    for reply, record in zip(replies, records, strict=True):
        for other in set(record) - common:
            del record[other]
        if reply in private and name:
            content = {key: one for key, one in reply.content.items() if one is not record}
            reply.content = RecordDict({**content, name: record})


class Accounting:
    """What a run has spent. `earlier` are the lines of the rounds before."""

    def __init__(self, strategy: Any, form: Settings, earlier: Sequence[str]) -> None:
        _SPENT.clear()
        before = RunPrivacy.in_row(json.loads(earlier[-1])) if earlier else RunPrivacy()
        self.privacy = replace(_begun(strategy, form), cost=before.cost, nodes=before.nodes)
        inner = getattr(strategy, "strategy", None)
        self._asked = inner.nodes if isinstance(inner, EvenNoise) else getattr(strategy, "num_sampled_clients", 0)
        most = self.privacy.max_epsilon
        if most and self.privacy.unknown:
            raise OneflowerError(
                f"The budget of this run (FL_DP_MAX_EPSILON) cannot be kept. {self.privacy.unknown}",
                "Choose another strategy or other privacy, or leave out FL_DP_MAX_EPSILON.",
                ExitCode.INVALID_INPUT,
            )

    def rounds(self, left: int) -> int:
        """Return for how many of the rounds that are left the budget is enough. Raises `OneflowerError` if for none."""
        each, most = self._cost(self._asked, self._asked or 1), self.privacy.max_epsilon
        if not most or not each or not left:
            return left
        rounds = range(1, left + 1)
        enough = bisect_left(rounds, True, key=lambda number: not self._fits(self.privacy.cost + number * each))
        if not enough:
            spent = epsilon_of(self.privacy.cost + each, self.privacy.delta)
            raise OneflowerError(
                f"The budget of this run (FL_DP_MAX_EPSILON={most:g}) is not enough for one more round, after which "
                f"epsilon is {spent:.3g}.",
                "Raise FL_DP_MAX_EPSILON or the noise (FL_DP_NOISE).",
                ExitCode.INVALID_INPUT,
            )
        if enough < left:
            ended = f"The budget (FL_DP_MAX_EPSILON) ends the run {left - enough} rounds before its time."
            log.warning("%s", ended)
            self.privacy = replace(self.privacy, ended=ended)
        return enough

    def allows(self, replies: int) -> bool:
        """Whether the budget is enough for a model made of a number of replies."""
        if not self.privacy.max_epsilon or self.privacy.mechanism == LOCAL:  # then they have left their nodes already
            return True
        return self._fits(self.privacy.cost + self._cost(replies, replies))

    def charge(self, aggregated: int, asked: int) -> RunPrivacy:
        """Add what a round costs whose model is made of some replies of the nodes asked; return what is spent now."""
        nodes = {**self.privacy.nodes, **{str(node): one for node, one in _SPENT.items()}}
        self.privacy = replace(self.privacy, cost=self.privacy.cost + self._cost(aggregated, asked), nodes=nodes)
        return self.privacy

    def _fits(self, cost: float) -> bool:
        return epsilon_of(cost, self.privacy.delta) <= self.privacy.max_epsilon

    def _cost(self, aggregated: int, asked: int) -> float:
        if not self.privacy.mechanism or self.privacy.unknown:
            return 0.0
        if self.privacy.mechanism == LOCAL:
            return cost_of(self.privacy.noise) if asked else 0.0
        return cost_of(self.privacy.noise * aggregated / self._asked) if aggregated else 0.0


def _begun(strategy: Any, form: Settings) -> RunPrivacy:
    said = form.text("FL_PRIVACY")
    known: Mapping[str, Any] = {
        "delta": form.real("FL_DP_DELTA"), "max_epsilon": form.real("FL_DP_MAX_EPSILON"),
    }  # fmt: skip
    if isinstance(strategy, EvenClipping):
        why = not_counted(CENTRAL, "fixed", type(strategy.strategy).__name__)
        return RunPrivacy(CENTRAL, strategy.clipping_norm, strategy.noise_multiplier, unknown=why, **known)
    if isinstance(inner := getattr(strategy, "strategy", None), EvenNoise):
        why = not_counted(CENTRAL, "fixed", type(inner.strategy).__name__)
        return RunPrivacy(CENTRAL, inner.clipping_norm, inner.noise, unknown=why, **known)
    if said == LOCAL:
        return RunPrivacy(LOCAL, form.real("FL_DP_CLIP"), form.real("FL_DP_NOISE"), **known)
    own = any(kind.__name__.startswith("DifferentialPrivacy") for kind in type(strategy).__mro__)
    if said == CENTRAL or own:
        why = not_counted(said, form.text("FL_DP_CLIPPING"), form.text("FL_STRATEGY")) if own else _NO_NOISE
        return RunPrivacy(said if said == CENTRAL else "own", unknown=why or _OWN, **known)
    return RunPrivacy()
