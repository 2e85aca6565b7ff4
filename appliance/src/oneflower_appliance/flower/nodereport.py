"""What a SuperNode's process reports to its agent: its id, and whether the SuperLink hears from it.

Without the second, the agent has to ask the SuperLink every few seconds, over a connection of its own. With many nodes
that was half of what an idle SuperLink did. The node knows the answer: the SuperLink lists it as online for a minute
after each heartbeat that it acknowledges. Whether the node is stuck in a round that has ended is known to the SuperLink
alone. It says so in its answer to a request that waits while the node works; without one, the agent asks.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.flower import internals, places
from oneflower_appliance.flower.features import Feature
from oneflower_appliance.orders import NodeReport

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger("flwr")


class Reporter:
    """Writes the report of this process's SuperNode to `path` whenever there is something new."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._report = NodeReport("")

    def start(self) -> None:
        """Report from now on, as far as the Flower installed here allows it."""
        self._report_id()
        if places.have(Feature.HEARTBEAT_REPORT):
            self._report_heartbeats()
            self._report_work()

    def note_heard(self, sent: float) -> None:
        """Report a request that the SuperLink recorded as a heartbeat: when it was sent, by the monotonic clock."""
        self._tell(heard=sent)

    def note_watched(self, *, watched: bool) -> None:
        """Report whether the SuperLink looks for this node whether its round has ended."""
        self._tell(watched=watched)

    def note_stuck(self) -> None:
        """Report that the round of the node's message has ended."""
        self._tell(stuck=True)

    def note_key_order(self, name: str, ago: float) -> None:
        """Report that the SuperLink ordered another key, so many seconds ago."""
        if name != self._report.key_order:
            self._tell(key_order=name, key_order_given=time.time() - ago)

    def _tell(self, **news: Any) -> None:
        """Write what has changed. An error is logged: the agent then asks the SuperLink."""
        with self._lock:
            told, self._report = self._report, replace(self._report, **news)
            if told == self._report or not self._report.node_id:
                return
            try:
                self._report.write(self._path)
            except OneflowerError as error:
                log.debug("%s", error.sentence)

    def _report_id(self) -> None:
        """Report the id that the SuperLink gives this node, when Flower stores it."""
        states: Any = type(internals.node_state())
        stock = states.set_node_id

        @functools.wraps(stock)
        def set_node_id(state: Any, node_id: int | None) -> None:
            stock(state, node_id)
            with self._lock:
                self._report = replace(self._report, node_id=str(node_id))
                self._report.write(self._path)

        states.set_node_id = set_node_id

    def _report_heartbeats(self) -> None:
        client: Any = internals.fleet_client()
        stock = client.SendNodeHeartbeat

        @functools.wraps(stock)
        def send_heartbeat(fleet: Any, request: Any) -> Any:
            sent, heard = time.monotonic(), None
            try:
                answer = stock(fleet, request)
                heard = sent if answer.success else None
            finally:
                self._tell(heard=heard)
            return answer

        client.SendNodeHeartbeat = send_heartbeat

    def _report_work(self) -> None:
        client: Any = internals.fleet_client()
        stock = client.PullMessages

        @functools.wraps(stock)
        def pull_messages(fleet: Any, request: Any) -> Any:
            self._tell(working_since=None, stuck=False, **self._done())
            try:
                answer = stock(fleet, request)
            except BaseException:
                self._tell(heard=None)
                raise
            if messages := answer.messages_list:
                trains = any(_trains(message) for message in messages)
                self._tell(working_since=time.monotonic(), trains=trains)
            return answer

        client.PullMessages = pull_messages

    def _done(self) -> dict[str, float]:
        """Return what changes in the report when the node has finished its task: it asks for the next message."""
        if (since := self._report.working_since) is None:
            return {}
        took = time.monotonic() - since
        done = {"worked": self._report.worked + took}
        return done | {"trained": took} if self._report.trains else done


def _trains(message: Any) -> bool:
    """Whether a message asks for training, as `train` and `train.head`. One that does not tell counts as such."""
    kind = getattr(getattr(message, "metadata", None), "message_type", "train")
    return str(kind).partition(".")[0] == "train"
