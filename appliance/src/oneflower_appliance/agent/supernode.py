"""How a SuperNode comes up: it finds its SuperLink, trusts its CA or stays out, and takes its share of the data."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from oneflower_appliance import __version__, attributes
from oneflower_appliance.agent import edge, gpu, packages
from oneflower_appliance.agent import flower_process as flower
from oneflower_appliance.agent.approvals import Approvals
from oneflower_appliance.agent.backoff import Patience
from oneflower_appliance.agent.confined import confinement
from oneflower_appliance.agent.diagnosis import HungError, RefusedError
from oneflower_appliance.agent.discovery import Discovery
from oneflower_appliance.agent.drain import drain
from oneflower_appliance.agent.joining import Joining
from oneflower_appliance.agent.journal import Step
from oneflower_appliance.agent.key_renewal import KeyRenewal, obey
from oneflower_appliance.agent.link import Probe
from oneflower_appliance.agent.load import Load
from oneflower_appliance.agent.membership import Membership
from oneflower_appliance.agent.node_config import NodeConfig
from oneflower_appliance.agent.onegate import OneGateError
from oneflower_appliance.agent.reporting import readiness, withdraw_ready
from oneflower_appliance.agent.self_check import SelfCheck
from oneflower_appliance.agent.shortfalls import Shortfalls
from oneflower_appliance.agent.site_policy_file import site_policy
from oneflower_appliance.agent.spending import Spending
from oneflower_appliance.agent.systemd import alive
from oneflower_appliance.agent.trust import Trust
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.features_off import FOLDER_VARIABLE
from oneflower_appliance.files import write_atomic
from oneflower_appliance.invitation import Invitation
from oneflower_appliance.log_lines import about
from oneflower_appliance.orders import (
    FRAMEWORK_VARIABLE,
    NodeReport,
    SuperNodeOrders,
)
from oneflower_appliance.parameter import Level
from oneflower_appliance.parameters import SUPERNODE_PORT
from oneflower_appliance.process import Child
from oneflower_appliance.proxy import Proxy
from oneflower_appliance.roles import NODES
from oneflower_appliance.site_policy import ASK

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from oneflower_appliance.agent.discovery import Found
    from oneflower_appliance.agent.machine import Machine
    from oneflower_appliance.metrics import Measure
    from oneflower_appliance.site_policy import SitePolicy

log = logging.getLogger(__name__)

LEVELS = (Level.SERVICE, Level.SUPERNODE)
_ASKING = 2.0  # seconds between two looks for what waits for an approval, and for approvals
_HEARING, _SILENCE = 10.0, 45.0  # how often it is asked whether this node is heard, and how long it may not be
_GRACE = 8.0  # seconds that Flower may take to stop
_UNHURRIED = 86400  # seconds that a task may take to end before a key is changed: nothing forces that
_FAR = 180  # seconds: more than a cut of a minute, the time since the heartbeat before and that until the next


class SuperNode:
    """One training node of a federation on `machine`. `superlink` is its SuperLink, where that is known already."""

    name = NODES

    def __init__(
        self, machine: Machine, superlink: Found | None = None, probe: Callable[[Path | None], Probe] | None = None
    ) -> None:
        self._machine = machine
        self._found = superlink
        given = machine.settings.text("FL_PROXY")
        self._make_probe = probe or partial(Probe, proxy=Proxy.parse(given) if given else None)
        self._trust = Trust(machine, self._make_probe)
        self._membership = Membership(machine)
        self._renewal = KeyRenewal(machine.settings)
        invitation = machine.settings.text("FL_INVITATION")
        self._joining = Joining(machine, Invitation.parse(invitation)) if invitation else None
        self._shortfalls = Shortfalls(machine)
        self._self_check = SelfCheck(machine)
        self._node_config = NodeConfig(machine)
        self._policy: SitePolicy | None = None
        self._approvals = Approvals(machine)
        self._spending = Spending(machine)
        self._load = Load(machine, lambda: self.child)
        self._node_id = ""
        self._silence = Patience(_SILENCE)
        self._questions = edge.Questions(machine.settings)
        self._is_heard = False
        self.child: Child | None = None

    def steps(self) -> list[Step]:
        """Return the whole boot."""
        return [
            *packages.steps(self._machine),
            Step("policy", self._read_policy),
            self._prepare,
            self._introduction,
            Step("discover", self._discover),
            Step("trust", lambda: self._trust.settle(self._superlink)),
            *([self._admittance] if self._joining else ()),
            Step("partition", self._partition),
            Step("data", self._node_config.data),
            Step("check", self._check),
            *(() if self._joining else [self._admittance]),
            *self._run_flower,
        ]

    def restart_steps(self) -> list[Step]:
        """Return the steps to repeat after Flower ended."""
        if self._joining:
            return [self._admittance, self._prepare, *self._run_flower]
        again = [self._introduction, self._admittance] if self._membership.is_lost else []
        return [self._prepare, *again, *self._run_flower]

    @property
    def _introduction(self) -> Step:
        return Step("introduce", self._membership.introduce)

    @property
    def _admittance(self) -> Step:
        return Step("admission", self._join if self._joining else lambda: self._membership.wait(self._superlink))

    def _join(self) -> str:
        key = self._membership.key
        assert self._joining is not None  # noqa: S101 - this is a step only if it was invited
        assert key is not None  # noqa: S101 - introduced before; an invitation needs FL_SUPERNODE_AUTH
        return self._joining.wait(self._superlink.endpoint, key, self._probe)

    @property
    def _run_flower(self) -> list[Step]:
        return [Step("start", self._start), Step("online", self._online), Step("ready", self._ready)]

    def tick(self) -> float:
        """Check that the SuperLink hears from this node. Returns the seconds until the next tick.

        It is asked only if the node's own process cannot tell: when no heartbeat of it was acknowledged lately, and
        while it works and the SuperLink does not look by itself whether it is stuck. Raises `HungError` when it has not
        heard for a while, and when a ClientApp still works on a message that its round no longer waits for: Flower is
        then started again, so that this node takes part in the next round. A SuperLink that does not answer is no
        reason.
        """
        endpoint, stuck = self._superlink.endpoint, False
        self._shortfalls.publish_news()
        follows = self._trust.follow(endpoint)
        self._spending.publish_news(self._policy)
        if asks := self._policy is not None and self._policy.apps == ASK:
            self._approvals.look()
        report = NodeReport.read(self._report_file)
        self._load.publish_news(report)
        try:
            heard = bool(report and (report.stuck or report.shows_online)) or self._questions.ask(
                lambda: self._probe.lists_online(endpoint, self._node_id)
            )
            stuck = bool(report and report.stuck) or (not heard and self._probe.knows_stuck(endpoint, self._node_id))
            self._is_heard = heard
        except OSError:
            heard, self._is_heard = True, False
        if stuck and not self._approvals.holds:
            raise HungError("The ClientApp of this SuperNode did not answer in the time that its round had.")
        if self._silence.is_over(wrong=not heard):
            raise HungError("The SuperLink does not hear from this SuperNode any more, though its Flower runs.")
        if heard and not self._approvals.holds:
            self._renew_key(NodeReport.read(self._report_file))  # it may have begun a task meanwhile
        return max(0.1, min(_ASKING if asks else _HEARING, follows))

    def _renew_key(self, report: NodeReport | None) -> None:
        """Make another key, if that is due. Without OneGate nobody could admit it, so the node keeps the one it has."""
        onegate, key = self._machine.onegate, self._membership.renewable
        if onegate is None or key is None or report is None or not self._renewal.is_due(key, report):
            return
        try:
            withdraw_ready(onegate)
        except OneGateError as error:
            log.debug("%s", error.sentence)
            return
        assert self.child is not None  # noqa: S101 - Flower runs
        log.info("The key of this node is due (FL_NODE_KEY_LIFETIME, or `oneflower rotate`): it makes another one.")
        drain(self._machine, self.child, self._report_file, alive, _UNHURRIED)
        self.child.stop(_GRACE)
        self._session_file.unlink(missing_ok=True)
        obey(key, report)
        self._membership.retire()
        self._machine.journal.run(self.restart_steps())

    def leave(self) -> None:
        """End what this node has begun, before its machine goes down."""
        if self.child and self._is_heard and not self._approvals.holds:
            drain(self._machine, self.child, self._report_file)

    def measures(self) -> tuple[Measure, ...]:
        """Return what measures this SuperNode."""
        from oneflower_appliance.agent.metrics.supernode import supernode_measures  # noqa: PLC0415 - with metrics only

        return supernode_measures(self._machine.settings, lambda: self._is_heard)

    def diagnose(self, cause: OneflowerError) -> OneflowerError:
        """Return why Flower ended, and correct it if possible: a refused key is dropped."""
        if self._joining and isinstance(cause, RefusedError):
            return OneflowerError(
                "The SuperLink no longer takes what this SuperNode sends.",
                "The SuperNode asks it why.",
                ExitCode.ENVIRONMENT,
            )
        return self._membership.diagnose(cause, self._superlink.endpoint, self._probe)

    @property
    def _superlink(self) -> Found:
        assert self._found is not None  # noqa: S101 - a step found it
        return self._found

    @property
    def _probe(self) -> Probe:
        return self._make_probe(self._trust.path)

    def _read_policy(self) -> str:
        self._policy = site_policy(self._machine.settings)
        return self._policy.summary if self._policy else "this site has none"

    def _discover(self) -> str:
        self._found = Discovery(self._machine).find()
        where = "as given" if self._found.vm is None else f"VM {self._found.vm}"
        return f"SuperLink at {self._found.endpoint}, {where}"

    @property
    def _prepare(self) -> Step:
        return Step("prepare", self._prepare_flower)

    def _prepare_flower(self) -> str:
        machine = self._machine
        self._node_id = ""
        self._is_heard = False
        about(node="")
        self._silence = Patience(_SILENCE)
        self._report_file.unlink(missing_ok=True)
        self._approvals.forget()
        flower.install_helpers(machine.home)
        environment = flower.environment(machine.home, machine.settings) | gpu.environment(machine.settings)
        environment |= edge.environment(machine.settings)
        environment[FOLDER_VARIABLE] = str(self._shortfalls.forget())
        environment[FRAMEWORK_VARIABLE] = machine.settings.text("ML_FRAMEWORK")
        if self._policy and self._policy.task:
            environment |= confinement(machine, self._policy.task, environment)
        self.child = Child(flower.prepare(self.name), environment, flower.FlowerLog())
        return f"Flower in process {self.child.pid}"

    def _partition(self) -> str:
        return self._node_config.partition(self._superlink, self._joining.node_config if self._joining else {})

    def _check(self) -> str:
        """Look at what would make this node a burden for the others. A node that can train is ready all the same."""
        endpoint, check = self._superlink.endpoint, self._self_check
        said = check.look(endpoint, self._probe, self._trust.path, self._node_config.folder)
        if self._joining:
            self._joining.tell(endpoint, self._probe, check.topics)
        return said

    @property
    def _session_file(self) -> Path:
        return self._machine.home / "node.id"

    @property
    def _report_file(self) -> Path:
        return self._machine.home / "supernode.json"

    def _offline_after(self) -> int:
        """Return after how many seconds of silence this node is offline, 0 for Flower's own limit."""
        settings = self._machine.settings
        is_far = self._superlink.vm is None or bool(settings.text("FL_PROXY"))
        return settings.integer("FL_OFFLINE_AFTER") or (_FAR if is_far else 0)

    def _start(self) -> str:
        machine, settings, key = self._machine, self._machine.settings, self._membership.key
        assert self.child is not None  # noqa: S101 - prepared
        orders = SuperNodeOrders(
            superlink=self._superlink.endpoint,
            ca=self._trust.path,
            node_config=self._node_config.values,
            listen=(machine.loopback, SUPERNODE_PORT),
            key=key.path if key else None,
            report=self._report_file,
            asks=self._approvals.folder,
            previous_id=self._session_file.read_text(encoding="ascii") if self._session_file.exists() else "",
            max_retries=settings.integer("FL_MAX_RETRIES"),
            max_wait_time=settings.integer("FL_MAX_WAIT_TIME"),
            policy=self._policy.text if self._policy else "",
            ledger=self._spending.path,
            proxy=settings.text("FL_PROXY"),
            offline_after=self._offline_after(),
        )
        self.child.tell(orders.line())
        return "flower-supernode" + (", with a key" if key else "")

    def _online(self) -> str:
        probe, endpoint = self._probe, self._superlink.endpoint

        def online() -> bool:
            if not self._node_id and (report := NodeReport.read(self._report_file)):
                self._node_id = report.node_id
            return bool(self._node_id) and probe.lists_online(endpoint, self._node_id)

        try:
            flower.wait_for(self.child, online, "The SuperLink did not list this SuperNode as online")
        except RefusedError as error:
            raise self.diagnose(error) from error
        self._is_heard = True
        about(node=self._node_id)
        write_atomic(self._session_file, self._node_id)
        return f"node {self._node_id}"

    def _ready(self) -> str:
        settings = self._machine.settings
        values = {
            attributes.ROLE.name: self.name,
            attributes.VERSION.name: settings.text("FLOWER_VERSION"),
            attributes.RELEASE.name: __version__,
            attributes.NODE_ID.name: self._node_id,
            attributes.USE_CASE.name: settings.text("FL_USE_CASE"),
            attributes.POLICY.name: attributes.POLICY.write(self._policy.summary if self._policy else ""),
            attributes.FRAMEWORK.name: settings.text("ML_FRAMEWORK"),
            **packages.published(self._machine.home, settings),
            **self._node_config.published,
            **self._self_check.published,
            **self._shortfalls.look(),
            **self._approvals.said,
            **self._spending.said(self._policy),
            **self._load.said(NodeReport.read(self._report_file)),
        }
        return self._machine.publish(values | readiness())
