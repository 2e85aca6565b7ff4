"""Has every node evaluate the model, also those that the strategy left out (FL_SITE_EVALUATION).

No node is asked twice, so a round in which the strategy has all nodes evaluate costs nothing more. The metrics of the
others count in the record of nodes and in the table of sites, and not in what the strategy aggregates.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.node_reports import EVALUATE
from oneflower_appliance.parameters import SITE_EVALUATION
from oneflower_appliance.site_scores import Measured, row_entry, score_sites
from oneflower_appliance.sites import Sites

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from flwr.serverapp.strategy import Strategy

    from oneflower_appliance.training.node_record import Told

log = logging.getLogger("flwr")

_END, ROUND, _ = SITE_EVALUATION
LONGEST = 600.0  # seconds: the round is over, and a node that hangs must not hold up the end of the run


def is_due(when: str, number: int, rounds: int) -> bool:
    """Whether the nodes that were left out evaluate the model of round `number` of `rounds`."""
    return when == ROUND or (when == _END and number == rounds)


def evaluation(strategy: Strategy, arrays: ArrayRecord, config: ConfigRecord | None, number: int) -> RecordDict:
    """Return what a strategy of the Message API sends to a node that evaluates, if it asks none by itself."""
    inner = getattr(strategy, "strategy", strategy)
    said = ConfigRecord({**(config or {}), "server-round": number})
    keys = (str(getattr(inner, "arrayrecord_key", "arrays")), str(getattr(inner, "configrecord_key", "config")))
    return RecordDict(dict(zip(keys, (arrays, said), strict=True)))


def messages_to(nodes: Iterable[int], content: RecordDict) -> list[Message]:
    """Return messages that ask nodes to evaluate."""
    return [Message(content, dst_node_id=node, message_type=EVALUATE) for node in nodes]


def compared(told: Mapping[int, Told], home: Path) -> dict[str, Any]:
    """Return what a round's row says of the sites, given what nodes told and the state folder of the SuperLink."""
    try:
        sites = {node.node: site.name for site, node in Sites.load(home).nodes()}
    except OneflowerError as error:
        log.error("%s The run continues; its sites are not compared in this round.", error.sentence)  # noqa: TRY400
        return {}
    measured = (
        Measured(sites.get(str(node), ""), str(node), said.examples, said.metrics) for node, said in told.items()
    )
    return row_entry(score_sites(measured))
