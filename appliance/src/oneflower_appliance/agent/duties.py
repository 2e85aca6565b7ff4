"""What a SuperLink's agent does while Flower runs: it takes care of nodes, runs and certificates."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from oneflower_appliance import attributes
from oneflower_appliance.agent.backoff import Backoff, Patience
from oneflower_appliance.agent.diagnosis import HungError
from oneflower_appliance.agent.onegate import OneGateError
from oneflower_appliance.agent.partition import Partitions
from oneflower_appliance.agent.shortfalls import Shortfalls
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.roles import NODES
from oneflower_appliance.sites import FILE as SITES_FILE
from oneflower_appliance.sites import Sites

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from oneflower_appliance.agent.admission import Admission
    from oneflower_appliance.agent.expiry import Expiry
    from oneflower_appliance.agent.machine import Machine
    from oneflower_appliance.agent.onegate import OneGate
    from oneflower_appliance.agent.retention import Retention
    from oneflower_appliance.agent.run_keeper import RunKeeper
    from oneflower_appliance.run_state import RunState

log = logging.getLogger(__name__)

_SILENCE = 45.0  # how long Flower may not answer
_CLOSE_LOOK = 1.0  # at runs, while there are any: requests to this machine's own Flower are cheap


class Duties:
    """The duties of one SuperLink on `machine`. It does not have those that are None."""

    def __init__(
        self,
        machine: Machine,
        keeper: RunKeeper,
        *,
        retention: Retention | None = None,
        admission: Admission | None = None,
        expiry: Expiry | None = None,
        partitions: Partitions | None = None,
    ) -> None:
        self._machine = machine
        self._keeper = keeper
        self._retention = retention
        self._admission = admission
        self._expiry = expiry
        self._partitions = partitions or Partitions()
        self._shortfalls = Shortfalls(machine)
        self._identity: Mapping[str, str] = {}
        self._published: dict[str, str] = {}
        self._nodes: Sequence[int] = ()
        self._silence = Patience(_SILENCE)
        self._due = 0.0
        self._delays: Iterator[float] = iter(())
        self._look_often()

    @property
    def runs(self) -> Sequence[RunState]:
        """All runs, oldest first, as they were at the last look."""
        return self._keeper.runs

    @property
    def expected(self) -> int | None:
        """How many SuperNodes the service had at the last look, or None outside OpenNebula."""
        return len(self._nodes) if self._machine.onegate else None

    @property
    def refused(self) -> int:
        """How many machines of the service may not join."""
        return len(self._admission.refusals.of) if self._admission else 0

    def begin(self, identity: Mapping[str, str] | None = None) -> dict[str, str]:
        """Begin, now that Flower answers. Returns the attributes to publish.

        `identity` is what the SuperLink publishes about itself, to be proven together with what changes.
        """
        self._look_at_certificates()
        self._identity = identity or {}
        self._published = self._statement()
        self._silence = Patience(_SILENCE)
        self._look_often()
        return self._published

    def look(self) -> float:
        """Admit new nodes, assign partition ids, take care of runs and certificates.

        Returns the seconds until the next look. Raises `HungError` when Flower has not answered for a while.
        """
        onegate = self._machine.onegate
        silent = False
        due = not self._keeper.following or time.monotonic() >= self._due
        self._look_at_certificates()
        self._shortfalls.look()
        try:
            if onegate and due:
                self._nodes = self._look_at_nodes(onegate)
            if (news := self._keeper.look(onegate, self._nodes)) and onegate:
                self._publish_news(onegate, news)
            if self._retention:
                self._retention.look(self._keeper.runs)
        except OneGateError as error:
            log.debug("%s", error.sentence)
        except OSError as error:
            silent = True
            log.debug("The SuperLink does not answer: %s", error)
        except ValueError as error:
            log.warning("The SuperLink refuses: %s", error)
        if self._silence.is_over(wrong=silent):
            raise HungError("The SuperLink no longer answers, although its Flower runs.")
        if due:
            self._due = time.monotonic() + next(self._delays)
        pause = min(max(0.0, self._due - time.monotonic()), self._keeper.pause)
        return min(pause, _CLOSE_LOOK) if self._keeper.following else pause

    def _look_at_certificates(self) -> None:
        if self._expiry and self._expiry.look():
            self._machine.journal.remark(self._expiry.remarks, "certificates")

    def _look_at_nodes(self, onegate: OneGate) -> Sequence[int]:
        role = onegate.service().get(NODES)
        nodes = role.nodes if role else ()
        self._partitions = self._partitions.after(nodes)
        if self._admission:
            self._admission.look(onegate, nodes)
        changes = {key: value for key, value in self._statement().items() if self._published.get(key) != value}
        if changes:
            onegate.publish(changes)
            log.info("%s", ", ".join(f"{key}={value}" for key, value in changes.items()))
            self._published |= changes
            self._look_often()
        return nodes

    def _statement(self) -> dict[str, str]:
        """Return all that the SuperLink publishes beside its runs, with the proof for what is proven of it."""
        values, onegate = {**self._identity, **self._tables()}, self._machine.onegate
        return onegate.prove(values) if onegate and self._identity else values

    def _tables(self) -> dict[str, str]:
        """Return what SuperNodes look for, their partitions and their admission, and until when they can connect.

        Beside that, which features are off.
        """
        tables = {attributes.PARTITIONS.name: str(self._partitions)} | self._shortfalls.look()
        if self._expiry:
            tables |= self._expiry.attributes
        if self._admission:
            tables[attributes.NODES.name] = str(self._admission.roster)
            tables[attributes.REFUSED.name] = str(self._admission.refusals)
        if sites := self._sites():
            tables[attributes.SITES.name] = sites
        return tables

    def _sites(self) -> str:
        """Return the nodes of other sites; empty if none was ever invited."""
        home = self._machine.home
        if not (home / SITES_FILE).exists():
            return ""
        try:
            return str(Sites.load(home))
        except OneflowerError as error:
            log.warning("%s", error.sentence)
            return ""

    def _publish_news(self, onegate: OneGate, news: dict[str, str]) -> None:
        try:
            onegate.publish(news)
        except OneGateError:
            self._keeper.report_again()
            raise

    def _look_often(self) -> None:
        self._due = 0.0
        self._delays = Backoff(first=0.1, cap=5, factor=1.25, jitter=0.1).delays()
