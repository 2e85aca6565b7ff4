"""Before the first round the nodes are asked what data they have.

So that the server can make a model that fits all of them, and so that a node whose data cannot be trained on is named,
with the reason, before anything is trained.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord, Message, RecordDict

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.training.results import save_result

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flwr.serverapp import Grid

log = logging.getLogger("flwr")

_RECORD = "description"
_PROBLEM = "problem"
_TIMEOUT = 600.0
_FILE = "data.json"


@dataclass(frozen=True)
class Survey:
    """What each node said of its data, by node id."""

    nodes: Mapping[int, Mapping[str, Any]]

    def agreed(self, name: str) -> Any:
        """Return the value of `name` that all nodes have. Raises `OneflowerError` naming those that differ."""
        values: dict[str, list[int]] = {}
        for node, said in self.nodes.items():
            values.setdefault(repr(said[name]), []).append(node)
        if len(values) > 1:
            told = "; ".join(f"{value} on node {', '.join(map(str, nodes))}" for value, nodes in values.items())
            raise OneflowerError(
                f"The nodes' data do not fit together: {name} is {told}.",
                "Give every node data of the same kind.",
                ExitCode.INVALID_INPUT,
            )
        return next(iter(self.nodes.values()))[name]

    def union(self, name: str) -> list[str]:
        """Return all that appears in the lists called `name`, sorted."""
        return sorted({str(item) for said in self.nodes.values() for item in said[name]})

    def total(self, name: str) -> Any:
        """Return the sum of the numbers, or of the lists of numbers, called `name`."""
        values = [said[name] for said in self.nodes.values()]
        return [sum(column) for column in zip(*values, strict=True)] if isinstance(values[0], list) else sum(values)


def describe(message: Message, look: Callable[[], Mapping[str, Any]]) -> Message:
    """Return a node's answer: what `look` returns, or the sentence with which it fails."""
    try:
        said = dict(look())
    except OneflowerError as error:
        said = {_PROBLEM: error.sentence}
    return Message(RecordDict({_RECORD: ConfigRecord(said)}), reply_to=message)


def ask(grid: Grid, least: int, question: Mapping[str, Any] | None = None) -> Survey:
    """Ask every node that is online, at least `least`. Raises `OneflowerError` when fewer have usable data.

    What they say goes into the run's model card, but for names that begin with an underscore.
    """
    while len(nodes := list(grid.get_node_ids())) < least:
        log.info("Waiting for nodes: %d of %d are online.", len(nodes), least)
        time.sleep(1)
    content = RecordDict({"config": ConfigRecord(dict(question or {}))})
    messages = [Message(content, dst_node_id=node, message_type="query") for node in nodes]
    found: dict[int, Mapping[str, Any]] = {}
    problems: list[str] = []
    for reply in grid.send_and_receive(messages, timeout=_TIMEOUT):
        node = reply.metadata.src_node_id
        if reply.has_error():
            problems.append(f"node {node}: {str(reply.error.reason).strip().splitlines()[-1]}")
            continue
        said: dict[str, Any] = dict(reply.content.config_records[_RECORD])
        if _PROBLEM in said:
            problems.append(f"node {node}: {said[_PROBLEM]}")
            continue
        found[node] = said
        log.info("Node %d has %s examples: %s", node, said["examples"], said["source"])
    if len(found) < least:
        raise OneflowerError(
            f"{len(found)} of {len(nodes)} nodes have data to train on, and {least} are needed. " + " ".join(problems),
            "Fix the data on the nodes that are named.",
            ExitCode.INVALID_INPUT,
        )
    for problem in problems:
        log.error("%s", problem)
    told = {node: {name: value for name, value in said.items() if name[0] != "_"} for node, said in found.items()}
    save_result(grid, _FILE, json.dumps(told, indent=1) + "\n")
    return Survey(found)
