"""Asks the nodes, before the first round, what data they have.

From the answers a server can make a model that fits all nodes. Nodes whose data cannot be used are named, with the
reason, before anything is trained.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord, Message, RecordDict

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.run_folder import DATA
from oneflower_appliance.training.data import divide
from oneflower_appliance.training.description import Description
from oneflower_appliance.training.node_ids import names_of
from oneflower_appliance.training.results import save_result

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flwr.serverapp import Grid

log = logging.getLogger("flwr")

_TIMEOUT = 600.0


@dataclass(frozen=True)
class Survey:
    """How each node described its data, by node id. `names` are those of the nodes that have one."""

    nodes: Mapping[int, Mapping[str, Any]]
    names: Mapping[int, str] = field(default_factory=dict)
    settings: Mapping[str, list[str]] = field(default_factory=dict)  # to be sent in each round: `data.divide`

    def agreed(self, name: str) -> Any:
        """Return the value of `name` that all nodes have. Raises `OneflowerError` naming those that differ."""
        values: dict[str, list[str]] = {}
        for node, said in self.nodes.items():
            values.setdefault(repr(said[name]), []).append(_who(node, self.names))
        if len(values) > 1:
            told = "; ".join(f"{value} on {', '.join(nodes)}" for value, nodes in values.items())
            raise OneflowerError(
                f"The nodes' data do not fit together: {name} is {told}.",
                "Give every node data of the same kind.",
                ExitCode.INVALID_INPUT,
            )
        return next(iter(self.nodes.values()))[name]

    def union(self, name: str) -> list[str]:
        """Return everything in the lists called `name`, sorted."""
        return sorted({str(item) for said in self.nodes.values() for item in said[name]})

    def total(self, name: str) -> Any:
        """Return the sum of the numbers, or of the lists of numbers, called `name`."""
        values = [said[name] for said in self.nodes.values()]
        return [sum(column) for column in zip(*values, strict=True)] if isinstance(values[0], list) else sum(values)


def ask(grid: Grid, least: int, question: Mapping[str, Any] | None = None) -> Survey:
    """Ask every online node, at least `least`. Raises `OneflowerError` if fewer have usable data.

    The answers go into the run's model card, except for names that begin with an underscore.
    """
    while len(nodes := list(grid.get_node_ids())) < least:
        log.info("Waiting for nodes: %d of %d are online.", len(nodes), least)
        time.sleep(1)
    names = names_of(grid)
    settings = divide(nodes, names)
    content = RecordDict({"config": ConfigRecord({**(question or {}), **settings})})
    messages = [Message(content, dst_node_id=node, message_type="query") for node in nodes]
    found, problems = _read(grid.send_and_receive(messages, timeout=_TIMEOUT), names)
    if len(found) < least:
        raise OneflowerError(
            f"{len(found)} of {len(nodes)} nodes have data to train on, and {least} are needed. " + " ".join(problems),
            "Fix it at the named nodes: their data, or what their site allows.",
            ExitCode.INVALID_INPUT,
        )
    for problem in problems:
        log.error("%s", problem)
    public = {node: {name: value for name, value in facts.items() if name[0] != "_"} for node, facts in found.items()}
    save_result(grid, DATA, json.dumps(public, indent=1) + "\n")
    return Survey(found, names, settings)


def _who(node: int, names: Mapping[int, str]) -> str:
    return names.get(node, f"node {node}")


def _read(replies: Iterable[Message], names: Mapping[int, str]) -> tuple[dict[int, Mapping[str, Any]], list[str]]:
    """Return the answers, by node, and the problems of the other nodes."""
    found: dict[int, Mapping[str, Any]] = {}
    problems: list[str] = []
    for reply in replies:
        node = reply.metadata.src_node_id
        who = _who(node, names)
        if reply.has_error():
            problems.append(f"{who}: {str(reply.error.reason).strip().splitlines()[-1]}")
            continue
        description = Description.read(reply)
        if description.problem:
            problems.append(f"{who}: {description.problem}")
            continue
        found[node] = description.facts
        log.info(
            "%s has %s examples: %s",
            names.get(node, f"Node {node}"),
            description.facts["examples"],
            description.facts["source"],
        )
    return found, problems
