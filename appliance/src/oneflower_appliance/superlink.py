"""How a SuperLink comes up, and what its agent does while it runs."""

from __future__ import annotations

import base64
import logging
import time
from typing import TYPE_CHECKING

from oneflower_appliance import flower, tls
from oneflower_appliance.backoff import Backoff
from oneflower_appliance.boot import Step
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import private_directory
from oneflower_appliance.onegate import OneGateError
from oneflower_appliance.parameters import Level, split_address, split_names
from oneflower_appliance.partition import Partitions
from oneflower_appliance.process import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from oneflower_appliance.boot import Machine

log = logging.getLogger(__name__)

LEVELS = (Level.SERVICE, Level.SUPERLINK)
NODES_ROLE = "supernode"
_START_LIMIT = 180.0
_PULSE = 0.05


class SuperLink:
    """The coordinator of a federation on `machine`."""

    name = "superlink"

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._certificates: tls.Certificates | None = None
        self._partitions = Partitions()
        self._delays: Iterator[float] = iter(())
        self.child: Child | None = None

    def steps(self) -> list[Step]:
        """Return the whole boot."""
        return [Step("certificate", self._certificate), Step("partitions", self._recall), *self.restart_steps()]

    def restart_steps(self) -> list[Step]:
        """Return what is to be done again after Flower ended."""
        return [Step("start", self._start), Step("answer", self._answer), Step("ready", self._ready)]

    def tick(self) -> float:
        """Hand out partition ids to new nodes. Returns the seconds until the next tick."""
        machine = self._machine
        if machine.onegate is None:
            return 3600.0
        try:
            role = machine.onegate.service().get(NODES_ROLE)
            partitions = self._partitions.after(role.nodes if role else ())
            if partitions != self._partitions:
                machine.onegate.publish({"FL_PARTITIONS": str(partitions)})
                log.info("partitions: %s", partitions)
                self._partitions = partitions
                self._watch_closely()
        except OneGateError as error:
            log.debug("%s", error.sentence)
        return next(self._delays)

    def _watch_closely(self) -> None:
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
            return "the given certificate, its chain checked"
        names = {("IP", machine.address), ("IP", machine.loopback), ("IP", "127.0.0.1"), ("DNS", "localhost")}
        names |= set(split_names(settings.text("FL_CERT_EXTRA_SAN")))
        self._certificates = tls.make_certificates(folder, sorted(names))
        return "for " + ", ".join(name for _, name in sorted(names))

    def _recall(self) -> str:
        machine = self._machine
        if machine.onegate is None:
            return "not inside OpenNebula: SuperNodes take FL_NODE_CONFIG"
        text = machine.insist(lambda onegate: onegate.attributes()).get("FL_PARTITIONS", "")
        try:
            self._partitions = Partitions.parse(text) if text else Partitions()
        except ValueError:
            log.warning("FL_PARTITIONS=%r cannot be read; handing out partition ids anew.", text)
        return f"{len(self._partitions.ids)} handed out so far"

    def _start(self) -> str:
        machine = self._machine
        database = machine.home / machine.settings.text("FL_DATABASE")
        private_directory(database.parent)
        private_directory(machine.home / "runs")
        flower.install_helpers(machine.home)
        certificates = self._certificates
        plan = flower.SuperLinkPlan(
            fleet=self._fleet,
            control=self._control,
            database=database,
            home=machine.home,
            certificates=(certificates.ca, certificates.certificate, certificates.key) if certificates else None,
        )
        self.child = Child(
            plan.command(), flower.environment(machine.home, machine.settings.text("FL_LOG_LEVEL")), log_flower
        )
        return f"flower-superlink as process {self.child.pid}"

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
        values = {
            "FL_ROLE": self.name,
            "FL_ENDPOINT": self._endpoint,
            "FL_CONTROL_ENDPOINT": f"{self._control[0]}:{self._control[1]}",
            "FL_TLS": "YES" if self._certificates else "NO",
            "FL_VERSION": machine.settings.text("FLOWER_VERSION"),
        }
        if self._ca:
            values["FL_CA_CERT"] = base64.b64encode(self._ca.read_bytes()).decode()
        values |= {"FL_PARTITIONS": str(self._partitions), "FL_READY": "YES", "READY": "YES"}
        self._watch_closely()
        return machine.publish(values)


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
