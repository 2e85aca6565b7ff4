"""How a SuperLink comes up."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance import __version__, attributes
from oneflower_appliance.agent import flower_process as flower
from oneflower_appliance.agent import packages, tls
from oneflower_appliance.agent.admission import Admission
from oneflower_appliance.agent.authority import TLS_FOLDER, Lifetimes
from oneflower_appliance.agent.data_folder import data_folder
from oneflower_appliance.agent.duties import Duties
from oneflower_appliance.agent.expiry import Expiry
from oneflower_appliance.agent.host_keys import host_keys
from oneflower_appliance.agent.journal import Step
from oneflower_appliance.agent.link import Probe, SuperLinkApi
from oneflower_appliance.agent.partition import Partitions
from oneflower_appliance.agent.reporting import readiness
from oneflower_appliance.agent.retention import Retention
from oneflower_appliance.agent.run_keeper import RunKeeper
from oneflower_appliance.agent.shortfalls import Shortfalls
from oneflower_appliance.agent.state_release import MEMBERS, StateRelease
from oneflower_appliance.attributes import NOTHING
from oneflower_appliance.features_off import FOLDER_VARIABLE
from oneflower_appliance.files import private_directory
from oneflower_appliance.formats import join_address, split_address, split_names
from oneflower_appliance.orders import FORM_VARIABLE, SERVER_DATA_VARIABLE, SuperLinkOrders
from oneflower_appliance.parameter import Kind, Level
from oneflower_appliance.parameters import CONTROL_PORT, FLEET_PORT, of_level
from oneflower_appliance.process import Child
from oneflower_appliance.roles import COORDINATOR
from oneflower_appliance.run_folder import CHECKPOINTS, RUNS
from oneflower_appliance.sites import FILE as SITES

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from oneflower_appliance.agent.machine import Machine
    from oneflower_appliance.errors import OneflowerError
    from oneflower_appliance.metrics import Measure
    from oneflower_appliance.orders import CertificateFiles

log = logging.getLogger(__name__)

LEVELS = (Level.SERVICE, Level.SUPERLINK)
_OWN_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class SuperLink:
    """The coordinator of a federation on `machine`."""

    name = COORDINATOR

    def __init__(self, machine: Machine, clock: Callable[[], datetime] = tls.current_time) -> None:
        self._machine = machine
        self._clock = clock
        self._certificates: CertificateFiles | None = None
        self._expiry: Expiry | None = None
        self._duties: Duties | None = None
        self.child: Child | None = None

    def steps(self) -> list[Step]:
        """Return the whole boot."""
        before = [Step("certificate", self._certificate), Step("recall", self._recall)]
        return [*packages.steps(self._machine), self._prepare, *before, *self._run_flower]

    def restart_steps(self) -> list[Step]:
        """Return the steps to repeat after Flower ended."""
        return [self._prepare, *self._run_flower]

    @property
    def _run_flower(self) -> list[Step]:
        return [Step("start", self._start), Step("answer", self._answer), Step("ready", self._ready)]

    def tick(self) -> float:
        """Do what is due while Flower runs. Returns the seconds until the next tick.

        Raises `HungError` when Flower has not answered for a while.
        """
        assert self._duties is not None  # noqa: S101 - a step made them
        return self._duties.look()

    def leave(self) -> None:
        """Do nothing: its runs continue when its machine is there again."""

    def measures(self) -> tuple[Measure, ...]:
        """Return what measures this SuperLink."""
        from oneflower_appliance.agent.metrics.superlink import SuperLinkMetrics  # noqa: PLC0415 - with metrics only

        def api(patience: float) -> SuperLinkApi | None:
            up = self.child is not None and not self.child.ended.is_set() and self._duties is not None
            return SuperLinkApi(self._ca, join_address(self._control), patience) if up else None

        runs = self._machine.home / RUNS
        return SuperLinkMetrics(api, lambda: self._duties, lambda: self._expiry, runs).measures

    def diagnose(self, cause: OneflowerError) -> OneflowerError:
        """Return why Flower ended."""
        return cause

    @property
    def _fleet(self) -> tuple[str, int]:
        text = self._machine.settings.text("FL_FLEET_API_ADDRESS")
        return split_address(text) if text else (self._machine.address, FLEET_PORT)

    @property
    def _endpoint(self) -> str:
        host, port = self._fleet
        return f"{self._machine.address if host in ('0.0.0.0', '::') else host}:{port}"  # noqa: S104 - a comparison

    @property
    def _control(self) -> tuple[str, int]:
        text = self._machine.settings.text("FL_CONTROL_API_ADDRESS")
        return split_address(text) if text else (self._machine.loopback, CONTROL_PORT)

    def _certificate(self) -> str:
        machine, settings = self._machine, self._machine.settings
        if not settings.flag("FL_TLS_ENABLED"):
            return "TLS is switched off (FL_TLS_ENABLED=NO)"
        folder = private_directory(machine.home / TLS_FOLDER)
        given = [settings[f"FL_SSL_{part}"] for part in ("CA_CERTFILE", "CERTFILE", "KEYFILE")]
        if all(given):
            self._certificates = tls.use_certificates(folder, *given)
            self._expiry = Expiry(self._certificates, (), self._clock)
            return "the given certificate, its chain checked"
        names = {("IP", machine.address), ("IP", machine.loopback), ("IP", "127.0.0.1"), ("DNS", "localhost")}
        names |= set(split_names(settings.text("FL_CERT_EXTRA_SAN")))
        if self._authenticates and not self._members.exists() and not (machine.home / SITES).exists():
            tls.forget_ca_of_later(folder, self._clock())
        lifetimes = Lifetimes.of(settings)
        self._certificates = tls.make_certificates(folder, sorted(names), self._clock(), lifetimes)
        self._expiry = Expiry(self._certificates, sorted(names), self._clock, lifetimes)
        return "for " + ", ".join(name for _, name in sorted(names))

    def _recall(self) -> str:
        machine = self._machine
        api = SuperLinkApi(self._ca, join_address(self._control))
        runs = machine.home / RUNS
        checkpoints = Path(machine.settings.text("FL_CHECKPOINT_PATH") or machine.home / CHECKPOINTS)
        partitions = self._partitions_before() if machine.onegate else Partitions()
        admits = machine.onegate is not None and self._authenticates and self._ca is not None
        keeper = RunKeeper(api, machine.settings, runs, self._clock)
        keep = machine.settings.integer("FL_KEEP_RUNS")
        self._duties = Duties(
            machine,
            keeper,
            retention=Retention(api, keep, runs, checkpoints, lambda: keeper.kept),
            admission=Admission(api, self._members) if admits else None,
            expiry=self._expiry,
            partitions=partitions,
        )
        if machine.onegate is None:
            return "not inside OpenNebula: SuperNodes are registered by hand and take FL_NODE_CONFIG"
        return f"{len(partitions.ids)} partitions assigned so far"

    def _partitions_before(self) -> Partitions:
        published = self._machine.insist(lambda onegate: onegate.attributes())
        try:
            return Partitions.parse(attributes.PARTITIONS.read(published) or str(Partitions()))
        except ValueError:
            log.warning("FL_PARTITIONS cannot be read; assigning partition ids again.")
            return Partitions()

    @property
    def _members(self) -> Path:
        return self._machine.home / MEMBERS

    @property
    def _authenticates(self) -> bool:
        return self._machine.settings.flag("FL_SUPERNODE_AUTH")

    @property
    def _prepare(self) -> Step:
        return Step("prepare", self._prepare_flower)

    def _prepare_flower(self) -> str:
        machine = self._machine
        flower.install_helpers(machine.home)
        form = {p.name: machine.settings[p.name] for p in of_level(Level.SUPERLINK) if p.kind is not Kind.PEM}
        environment = flower.environment(machine.home, machine.settings) | {FORM_VARIABLE: json.dumps(form)}
        variable = "FL_SERVER_DATA_PATH"
        if data := data_folder(variable, machine.settings.text(variable), machine.home):
            environment[SERVER_DATA_VARIABLE] = str(data)
        environment[FOLDER_VARIABLE] = str(Shortfalls(machine).forget())
        self.child = Child(flower.prepare(self.name), environment, flower.FlowerLog())
        return f"Flower in process {self.child.pid}"

    def _start(self) -> str:
        machine = self._machine
        assert self.child is not None  # noqa: S101 - prepared
        database = machine.home / machine.settings.text("FL_DATABASE")
        private_directory(database.parent)
        kept = StateRelease(machine.home, database).prepare(machine.settings.text("FLOWER_VERSION"))
        orders = SuperLinkOrders(
            fleet=self._fleet,
            control=self._control,
            database=database,
            runs=private_directory(machine.home / RUNS),
            certificates=self._certificates,
            authenticate=self._authenticates,
            object_memory=machine.settings.integer("FL_OBJECT_MEMORY"),
            count_bytes=machine.settings.flag("FL_METRICS_ENABLED"),
        )
        self.child.tell(orders.line())
        who = ", only registered SuperNodes may join" if self._authenticates else ""
        return f"flower-superlink{who}{f'; {kept}' if kept else ''}"

    def _answer(self) -> str:
        probe = Probe(self._ca)
        control = join_address(self._control)
        flower.wait_for(
            self.child,
            lambda: probe.fleet_answers(self._endpoint) and probe.control_answers(control),
            "The SuperLink did not answer",
        )
        return f"Fleet API on {self._endpoint}, Control API on {control}"

    @property
    def _ca(self) -> Path | None:
        return self._certificates.ca if self._certificates else None

    def _ready(self) -> str:
        machine = self._machine
        assert self._duties is not None  # noqa: S101 - a step made them
        # A value that does not exist is published as empty, because an old value must not stay next to the new proof.
        ca = self._ca.read_text(encoding="ascii") if self._ca else ""
        keys = host_keys() if self._control[0] in _OWN_LOOPBACK else ""
        identity = {
            attributes.CA_CERT.name: attributes.CA_CERT.write(ca),
            attributes.SSH_HOST_KEYS.name: attributes.SSH_HOST_KEYS.write(keys),
            attributes.CERT_EXPIRES.name: NOTHING,
            attributes.CERT_RENEWED.name: NOTHING,
            attributes.ROLE.name: self.name,
            attributes.ENDPOINT.name: self._endpoint,
            attributes.CONTROL_ENDPOINT.name: join_address(self._control),
            attributes.TLS.name: attributes.TLS.flag(value=bool(self._certificates)),
            attributes.VERSION.name: machine.settings.text("FLOWER_VERSION"),
            **packages.published(machine.home, machine.settings),
        }
        release = {attributes.RELEASE.name: __version__}
        return machine.publish(self._duties.begin(identity) | release | readiness())
