"""How a SuperLink comes up, and what its agent does while it runs."""

from __future__ import annotations

import base64
import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance.agent import flower_process as flower
from oneflower_appliance.agent import tls
from oneflower_appliance.agent.admission import Registrar
from oneflower_appliance.agent.backoff import Backoff, Patience
from oneflower_appliance.agent.expiry import Expiry
from oneflower_appliance.agent.journal import NOTHING, Step
from oneflower_appliance.agent.onegate import OneGateError
from oneflower_appliance.agent.partition import Partitions
from oneflower_appliance.agent.retention import Retention
from oneflower_appliance.agent.run_keeper import Trainer
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.expiry import ATTRIBUTE as CERTIFICATES_END
from oneflower_appliance.files import private_directory
from oneflower_appliance.formats import split_address, split_names
from oneflower_appliance.orders import FORM_VARIABLE, SuperLinkOrders
from oneflower_appliance.parameters import Kind, Level, of_level
from oneflower_appliance.process import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from oneflower_appliance.agent.journal import Machine
    from oneflower_appliance.agent.onegate import OneGate
    from oneflower_appliance.orders import CertificateFiles

log = logging.getLogger(__name__)

LEVELS = (Level.SERVICE, Level.SUPERLINK)
NODES_ROLE = "supernode"
_START_LIMIT = 180.0
_SILENCE = 45.0  # how long Flower may not answer
_PULSE = 0.05
_CLOSE_LOOK = 1.0  # at runs, while there are any: asking this machine's own Flower costs little
_SSH_FOLDER = Path("/etc/ssh")
_OWN_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class SuperLink:
    """The coordinator of a federation on `machine`."""

    name = "superlink"

    def __init__(self, machine: Machine, clock: Callable[[], datetime] = tls.current_time) -> None:
        self._machine = machine
        self._clock = clock
        self._certificates: CertificateFiles | None = None
        self._expiry: Expiry | None = None
        self._partitions = Partitions()
        self._registrar: Registrar | None = None
        self._trainer: Trainer | None = None
        self._retention: Retention | None = None
        self._published: dict[str, str] = {}
        self._delays: Iterator[float] = iter(())
        self._due = 0.0
        self._nodes: Sequence[int] = ()
        self._silence = Patience(_SILENCE)
        self.child: Child | None = None

    def steps(self) -> list[Step]:
        """Return the whole boot."""
        before = [Step("certificate", self._certificate), Step("recall", self._recall)]
        return [self._prepare, *before, *self._run_flower]

    def restart_steps(self) -> list[Step]:
        """Return what is to be done again after Flower ended."""
        return [self._prepare, *self._run_flower]

    @property
    def _run_flower(self) -> list[Step]:
        return [Step("start", self._start), Step("answer", self._answer), Step("ready", self._ready)]

    def tick(self) -> float:
        """Let new nodes in, hand out partition ids, look after runs and certificates.

        Returns the seconds until the next tick.

        Raises `HungError` when Flower has not answered for a while.
        """
        onegate = self._machine.onegate
        silent = False
        due = not (self._trainer and self._trainer.following) or time.monotonic() >= self._due
        self._look_at_certificates()
        try:
            if onegate and due:
                self._nodes = self._look_at_nodes(onegate)
            if self._trainer and (news := self._trainer.look(onegate, self._nodes)) and onegate:
                self._tell(onegate, self._trainer, news)
            if self._trainer and self._retention:
                self._retention.look(self._trainer.runs)
        except OneGateError as error:
            log.debug("%s", error.sentence)
        except OSError as error:
            silent = True
            log.debug("The SuperLink does not answer: %s", error)
        except ValueError as error:
            log.warning("The SuperLink refuses: %s", error)
        if self._silence.is_over(wrong=silent):
            raise flower.HungError("The SuperLink does not answer any more, though its Flower runs.")
        if due:
            self._due = time.monotonic() + next(self._delays)
        pause = max(0.0, self._due - time.monotonic())
        return min(pause, _CLOSE_LOOK) if self._trainer and self._trainer.following else pause

    def _look_at_certificates(self) -> None:
        if self._expiry and self._expiry.look(busy=bool(self._trainer and self._trainer.following)):
            self._machine.journal.remark(self._expiry.remarks, "certificates")

    def _tell(self, onegate: OneGate, trainer: Trainer, news: dict[str, str]) -> None:
        try:
            onegate.publish(news)
        except OneGateError:
            trainer.unsaid()
            raise

    def diagnose(self, cause: OneflowerError) -> OneflowerError:
        """Return why Flower ended."""
        return cause

    def _look_at_nodes(self, onegate: OneGate) -> Sequence[int]:
        role = onegate.service().get(NODES_ROLE)
        nodes = role.nodes if role else ()
        self._partitions = self._partitions.after(nodes)
        if self._registrar:
            self._registrar.look(onegate, nodes)
        changes = {key: value for key, value in self._tables().items() if self._published.get(key) != value}
        if changes:
            onegate.publish(changes)
            log.info("%s", ", ".join(f"{key}={value}" for key, value in changes.items()))
            self._published |= changes
            self._watch_closely()
        return nodes

    def _tables(self) -> dict[str, str]:
        """Return what SuperNodes look for, their partitions and their admission, and until when they can connect."""
        tables = {"FL_PARTITIONS": str(self._partitions)}
        if self._expiry:
            tables |= self._expiry.attributes
        if self._registrar:
            tables |= {"FL_NODES": str(self._registrar.roster), "FL_REFUSED": str(self._registrar.refusals)}
        return tables

    def _watch_closely(self) -> None:
        self._due = 0.0
        self._delays = Backoff(first=0.1, cap=5, factor=1.25, jitter=0.1).delays()

    @property
    def _fleet(self) -> tuple[str, int]:
        text = self._machine.settings.text("FL_FLEET_API_ADDRESS")
        return split_address(text) if text else (self._machine.address, flower.FLEET_PORT)

    @property
    def _endpoint(self) -> str:
        host, port = self._fleet
        return f"{self._machine.address if host in ('0.0.0.0', '::') else host}:{port}"  # noqa: S104 - a comparison

    @property
    def _control(self) -> tuple[str, int]:
        text = self._machine.settings.text("FL_CONTROL_API_ADDRESS")
        return split_address(text) if text else (self._machine.loopback, flower.CONTROL_PORT)

    def _certificate(self) -> str:
        machine, settings = self._machine, self._machine.settings
        if not settings.flag("FL_TLS_ENABLED"):
            return "TLS is switched off (FL_TLS_ENABLED=NO)"
        folder = private_directory(machine.home / "tls")
        given = [settings[f"FL_SSL_{part}"] for part in ("CA_CERTFILE", "CERTFILE", "KEYFILE")]
        if all(given):
            self._certificates = tls.use_certificates(folder, *given)
            self._expiry = Expiry(self._certificates, (), self._clock)
            return "the given certificate, its chain checked"
        names = {("IP", machine.address), ("IP", machine.loopback), ("IP", "127.0.0.1"), ("DNS", "localhost")}
        names |= set(split_names(settings.text("FL_CERT_EXTRA_SAN")))
        self._certificates = tls.make_certificates(folder, sorted(names), self._clock())
        self._expiry = Expiry(self._certificates, sorted(names), self._clock)
        return "for " + ", ".join(name for _, name in sorted(names))

    def _recall(self) -> str:
        machine = self._machine
        door = flower.LoopbackDoor(self._ca, f"{self._control[0]}:{self._control[1]}")
        self._trainer = Trainer(door, machine.settings, machine.home / "runs")
        checkpoints = Path(machine.settings.text("FL_CHECKPOINT_PATH") or machine.home / "checkpoints")
        self._retention = Retention(door, machine.settings.integer("FL_KEEP_RUNS"), machine.home / "runs", checkpoints)
        if machine.onegate is None:
            return "not inside OpenNebula: SuperNodes are registered by hand and take FL_NODE_CONFIG"
        attributes = machine.insist(lambda onegate: onegate.attributes())
        try:
            self._partitions = Partitions.parse(attributes.get("FL_PARTITIONS", str(Partitions())))
        except ValueError:
            log.warning("FL_PARTITIONS cannot be read; handing out partition ids anew.")
        if self._authenticates and self._ca:
            self._registrar = Registrar(door, machine.home / "members.json")
        return f"{len(self._partitions.ids)} partitions handed out so far"

    @property
    def _authenticates(self) -> bool:
        return self._machine.settings.flag("FL_SUPERNODE_AUTH")

    @property
    def _prepare(self) -> Step:
        return Step("prepare", self._prepare_flower)

    def _prepare_flower(self) -> str:
        machine = self._machine
        flower.install_helpers(machine.home)
        form = {p.name: machine.settings[p.name] for p in of_level(Level.SUPERLINK) if p.kind is not Kind.TEXT64}
        environment = flower.environment(machine.home, machine.settings) | {FORM_VARIABLE: json.dumps(form)}
        self.child = Child(flower.prepare(self.name), environment, log_flower)
        return f"Flower in process {self.child.pid}"

    def _start(self) -> str:
        machine = self._machine
        assert self.child is not None  # noqa: S101 - prepared
        database = machine.home / machine.settings.text("FL_DATABASE")
        private_directory(database.parent)
        orders = SuperLinkOrders(
            fleet=self._fleet,
            control=self._control,
            database=database,
            runs=private_directory(machine.home / "runs"),
            certificates=self._certificates,
            authenticate=self._authenticates,
        )
        self.child.tell(orders.line())
        return "flower-superlink" + (", only registered SuperNodes may join" if self._authenticates else "")

    def _answer(self) -> str:
        probe = flower.Probe(self._ca)
        control = f"{self._control[0]}:{self._control[1]}"
        wait_for(
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
        # What there is not is published as nothing, for what an earlier life published must not stay beside the proof.
        values = {
            "FL_CA_CERT": NOTHING,
            "FL_SSH_HOST_KEYS": NOTHING,
            CERTIFICATES_END: NOTHING,
            "FL_ROLE": self.name,
            "FL_ENDPOINT": self._endpoint,
            "FL_CONTROL_ENDPOINT": f"{self._control[0]}:{self._control[1]}",
            "FL_TLS": "YES" if self._certificates else "NO",
            "FL_VERSION": machine.settings.text("FLOWER_VERSION"),
        }
        if self._ca:
            values["FL_CA_CERT"] = base64.b64encode(self._ca.read_bytes()).decode()
        if self._control[0] in _OWN_LOOPBACK and (keys := _host_keys(_SSH_FOLDER)):
            values["FL_SSH_HOST_KEYS"] = base64.b64encode(keys.encode()).decode()
        if machine.onegate:
            values = machine.onegate.prove(values)
        self._look_at_certificates()
        self._published = self._tables()
        self._silence = Patience(_SILENCE)
        self._watch_closely()
        return machine.publish(values | self._published | {"FL_READY": "YES", "READY": "YES"})


def _host_keys(folder: Path) -> str:
    """Return the public SSH host keys of this machine, one a line: by them a client knows it at the end of a tunnel."""
    lines = []
    for path in sorted(folder.glob("ssh_host_*_key.pub")):
        try:
            kind, key = path.read_text(encoding="ascii").split()[:2]
        except (OSError, ValueError):
            continue
        lines.append(f"{kind} {key}")
    return "\n".join(lines)


def log_flower(line: str) -> None:
    """Pass a line of Flower's on to the log."""
    logging.getLogger("flower").info("%s", line)


def wait_for(child: Child | None, done: Callable[[], bool], what: str) -> None:
    """Wait until `done`; connection errors mean not yet. Raises `OneflowerError` when Flower ends or time is up."""
    assert child is not None  # noqa: S101 - started by the step before
    deadline = time.monotonic() + _START_LIMIT
    reason = "no connection"
    while time.monotonic() < deadline:
        try:
            if done():
                return
        except OSError as error:
            reason = str(error)
        if child.ended.wait(_PULSE):
            time.sleep(_PULSE)  # for the last lines to arrive
            raise flower.explain(list(child.tail), child.status)
    raise OneflowerError(
        f"{what} within {_START_LIMIT:.0f} s: {reason}.",
        "The machine may be too small or too busy: give it two cores and 2 GB, and look at the agent's log.",
        ExitCode.TIMEOUT,
    )
