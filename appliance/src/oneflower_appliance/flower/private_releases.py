"""What may leave of a reply: its update, clipped and with noise, and what the policy of the site names.

A new reply is made. It has the arrays of the message to which it replies, and no others. Arrays of whole numbers go
back as they came. Names and order are those of the message and of the policy.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.flower.gaussian_mechanism import NotFiniteError, factor_for, norm_of, release
from oneflower_appliance.flower.reply_objects import Reply
from oneflower_appliance.run_privacy import RECORD, NodeSpent
from oneflower_appliance.site_policy import PolicyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from oneflower_appliance.flower.reply_objects import Records
    from oneflower_appliance.privacy_ledger import PrivacyLedger
    from oneflower_appliance.site_privacy import SitePrivacy

log = logging.getLogger("flwr")

_METRICS = "metrics"  # the record of metrics in a reply
_EXAMPLES = "num-examples"  # the metric by which strategies weigh replies
_TRAIN = "train"  # how the types of messages begin that ask for an update
_FLOATS = ("float16", "float32", "float64")


class Releases:
    """What leaves, as `privacy` wants it. What it costs is charged to `ledger`."""

    def __init__(self, privacy: SitePrivacy, ledger: PrivacyLedger) -> None:
        self._privacy = privacy
        self._ledger = ledger

    def check_budget(self, metadata: Any) -> None:
        """Raise `PolicyError` if a message asks for an update for which the budget is not enough."""
        if not metadata.message_type.startswith(_TRAIN):
            return
        try:
            total = self._ledger.total()
        except OneflowerError as error:
            raise PolicyError(error.sentence) from error
        if not self._privacy.allows(total + self._privacy.cost):
            raise PolicyError(
                f"The privacy budget of this site is used up: epsilon {self._privacy.epsilon(total):.3g} of "
                f"{self._privacy.max_epsilon:g} at delta {self._privacy.delta:g} is spent, and one more update is too "
                "much. Only the site's operator can raise it."
            )

    def made_of(self, run: str, came: Records, told: Records) -> Reply:
        """Return what may leave of the reply `told` to the message `came`, and charge it. Raises `PolicyError`."""
        from flwr.app import MetricRecord  # noqa: PLC0415 - slow to import

        pairs = self._pairs(came, told)
        try:
            norm = norm_of(self._floats(came, told, pairs))
        except NotFiniteError as error:
            raise PolicyError("This site does not let out the reply: a value is not a finite number.") from error
        factor, noised = factor_for(norm, self._privacy.clip), 0
        deviation = self._privacy.noise * self._privacy.clip
        made = Reply()

        def arrays(record: str, keys: list[str]) -> Iterator[tuple[str, NDArray[Any], str]]:
            nonlocal noised
            for key in keys:
                before, wire = came.array(record, key)
                after, _ = told.array(record, key)
                came.forget(record, key)
                told.forget(record, key)
                if str(before.dtype) in _FLOATS:
                    noised += 1
                    yield key, release(before, after, factor, deviation), wire
                else:
                    yield key, before, wire

        for record, keys in pairs.items():
            made.add_arrays(record, arrays(record, keys))
        self._add_what_is_named(made, told)
        if noised:
            made.content[RECORD] = MetricRecord(dict(self._charge(run).numbers))
        return made

    def _pairs(self, came: Records, told: Records) -> dict[str, list[str]]:
        """Return the names of the arrays of each record of a reply, in the order of the message."""
        for record, arrays in told.arrays.items():
            if set(arrays) != set(came.arrays.get(record, ())):
                raise PolicyError(
                    "This site does not let out the reply: it must have the arrays of the message, by the same names, "
                    "and no others."
                )
        return {record: list(arrays) for record, arrays in came.arrays.items() if record in told.arrays}

    def _floats(self, came: Records, told: Records, pairs: dict[str, list[str]]) -> Iterator[tuple[Any, Any]]:
        for record, keys in pairs.items():
            for key in keys:
                before, _ = came.array(record, key)
                after, _ = told.array(record, key)
                if (before.dtype, before.shape) != (after.dtype, after.shape):
                    raise PolicyError(
                        "This site does not let out the reply: an array has another type or shape than in the message."
                    )
                if str(before.dtype) not in _FLOATS:
                    continue
                yield before, after

    def _add_what_is_named(self, made: Reply, told: Records) -> None:
        from flwr.app import MetricRecord  # noqa: PLC0415 - slow to import

        said = {name: value for record in told.metrics.values() for name, value in record.items()}
        found = {name: said[name] for name in self._privacy.metrics if _is_number(said.get(name))}
        if told.metrics:
            # Strategies need it. 1 is no fact about the data: the site then counts as any other that says so.
            made.content[_METRICS] = MetricRecord({_EXAMPLES: 1} | found)
        for name in self._privacy.records:
            if name in told.configs:
                made.content[name] = told.configs[name]
        left = [*sorted(said.keys() - found.keys() - {_EXAMPLES}), *sorted(told.configs.keys() - made.content.keys())]
        if left:
            log.info("Left out of a reply, because the policy of this site does not name it: %s", left)
        if told.configs and not made.content:
            raise PolicyError(
                "This site does not let out what this app answers. Its operator can name it among the `records` of the "
                "policy; the log of its node has the name."
            )

    def _charge(self, run: str) -> NodeSpent:
        privacy, ledger = self._privacy, self._ledger
        total = ledger.total() + privacy.cost
        if not privacy.allows(total):
            raise PolicyError(
                f"The privacy budget of this site is used up: this reply would spend epsilon "
                f"{privacy.epsilon(total):.3g} of {privacy.max_epsilon:g} at delta {privacy.delta:g}."
            )
        ledger.charge(run, privacy.cost)
        spent = NodeSpent(
            privacy.clip, privacy.noise, privacy.delta, privacy.epsilon(ledger.of(run)), privacy.epsilon(total),
            privacy.max_epsilon,
        )  # fmt: skip
        log.info("Privacy: run %s has spent epsilon %.3g, all runs %s.", run, spent.epsilon, spent.budget)
        return spent


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
