"""How a SuperNode comes up: it finds its SuperLink, trusts its CA or stays out, and takes its share of the data."""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import logging
import re
import ssl
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance.agent import flower_process as flower
from oneflower_appliance.agent import gpu, tls
from oneflower_appliance.agent.backoff import Backoff, Patience
from oneflower_appliance.agent.journal import NOTHING, Step
from oneflower_appliance.agent.node_key import NodeKey
from oneflower_appliance.agent.onegate import OneGate, OneGateError
from oneflower_appliance.agent.partition import Partitions
from oneflower_appliance.agent.roster import Roster
from oneflower_appliance.agent.superlink import log_flower, wait_for
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.formats import split_address, split_node_config
from oneflower_appliance.orders import FRAMEWORK_VARIABLE, SuperNodeOrders, node_id_in
from oneflower_appliance.parameters import Level
from oneflower_appliance.process import Child
from oneflower_appliance.refusals import Reason, Refusals

if TYPE_CHECKING:
    from oneflower_appliance.agent.journal import Machine

log = logging.getLogger(__name__)

LEVELS = (Level.SERVICE, Level.SUPERNODE)
COORDINATOR_ROLE = "superlink"
_PATIENCE = 600.0
_HEARING, _SILENCE = 10.0, 45.0  # how often it is asked whether this node is heard, and how long it may not be
_MOST_KEYS = 5
_CLOSELY = Backoff(first=0.1, cap=5, factor=1.5)  # for what the SuperLink publishes any moment now


class SuperNode:
    """One training node of a federation on `machine`."""

    name = "supernode"

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._superlink_vm: int | None = None
        self._superlink: dict[str, str] = {}
        self._node_config: dict[str, str] = {}
        self._key: NodeKey | None = None
        self._admitted_as = ""
        self._node_id = ""
        self._silence = Patience(_SILENCE)
        self.child: Child | None = None

    def steps(self) -> list[Step]:
        """Return the whole boot."""
        return [
            self._prepare,
            self._introduction,
            Step("discover", self._discover),
            Step("trust", self._trust),
            Step("partition", self._partition),
            Step("data", self._data),
            self._admittance,
            *self._run_flower,
        ]

    def restart_steps(self) -> list[Step]:
        """Return what is to be done again after Flower ended."""
        anew = [] if self._key is None or self._key.path.exists() else [self._introduction, self._admittance]
        return [self._prepare, *anew, *self._run_flower]

    @property
    def _introduction(self) -> Step:
        return Step("introduce", self._introduce)

    @property
    def _admittance(self) -> Step:
        return Step("admission", self._admission)

    @property
    def _run_flower(self) -> list[Step]:
        return [Step("start", self._start), Step("online", self._online), Step("ready", self._ready)]

    def tick(self) -> float:
        """See that the SuperLink hears from this node. Returns the seconds until the next tick.

        Raises `HungError` when it has not for a while, and when a ClientApp is still at what its round no longer waits
        for, so that this node can take part in the next; a SuperLink that does not answer is another's business.
        """
        endpoint, stuck = self._superlink["FL_ENDPOINT"], False
        try:
            heard = self._probe.lists_online(endpoint, self._node_id)
            stuck = not heard and self._probe.knows_stuck(endpoint, self._node_id)
        except OSError:
            heard = True
        if stuck:
            raise flower.HungError("The ClientApp of this SuperNode did not answer in the time that its round had.")
        if self._silence.is_over(wrong=not heard):
            raise flower.HungError("The SuperLink does not hear from this SuperNode any more, though its Flower runs.")
        return _HEARING

    def diagnose(self, cause: OneflowerError) -> OneflowerError:
        """Return why Flower ended, and make up for it where that can be done: a key that is refused is dropped.

        Flower never takes a key again that was unregistered, so the only way back into the federation is another one.
        """
        if not isinstance(cause, flower.RefusedError) or self._key is None or not self._admitted_as:
            return cause
        endpoint = self._superlink["FL_ENDPOINT"]
        try:
            ahead = self._probe.clock_difference(endpoint)
            still_open = self._probe.lists_online(endpoint, self._admitted_as)
        except (OSError, ValueError, TypeError):
            return cause
        if not flower.EARLIEST < ahead < flower.LATEST:
            return OneflowerError(
                f"This machine's clock is {abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} the SuperLink's, "
                "which therefore refuses what this SuperNode signs.",
                "Synchronise the clocks of both machines (NTP).",
                ExitCode.ENVIRONMENT,
            )
        if still_open:
            return OneflowerError(
                "The SuperLink refused this SuperNode because an earlier process of it still counts as online.",
                "It is tried again; within a minute the earlier process no longer counts.",
                ExitCode.ENVIRONMENT,
            )
        self._key.path.unlink(missing_ok=True)
        return OneflowerError(
            "The SuperLink does not take this SuperNode's key any more.",
            "The SuperNode makes another key and introduces itself again.",
            ExitCode.ENVIRONMENT,
        )

    @property
    def _prepare(self) -> Step:
        return Step("prepare", self._prepare_flower)

    def _prepare_flower(self) -> str:
        machine = self._machine
        self._node_id = ""
        self._silence = Patience(_SILENCE)
        flower.install_helpers(machine.home)
        environment = flower.environment(machine.home, machine.settings) | gpu.environment(machine.settings)
        environment[FRAMEWORK_VARIABLE] = machine.settings.text("ML_FRAMEWORK")
        self.child = Child(flower.prepare(self.name), environment, self._on_line)
        return f"Flower in process {self.child.pid}"

    def _introduce(self) -> str:
        machine = self._machine
        if not machine.settings.flag("FL_SUPERNODE_AUTH"):
            return "not needed (FL_SUPERNODE_AUTH=NO)"
        key = self._make_key()
        if machine.onegate is None or machine.settings.text("FL_SUPERLINK_ADDRESS"):
            return "a key of its own"
        return machine.publish({"FL_PUBLIC_KEY": key.published})

    def _make_key(self) -> NodeKey:
        folder = self._machine.home / "tls"
        self._key = NodeKey.of(folder / "node.key")
        write_atomic(folder / "node.pub", self._key.public.pem, SHARED)
        return self._key

    def _discover(self) -> str:
        settings = self._machine.settings
        if address := settings.text("FL_SUPERLINK_ADDRESS"):
            self._superlink = {"FL_ENDPOINT": address, "FL_TLS": settings["FL_TLS_ENABLED"]}
            return f"SuperLink at {address}, as given"
        if self._machine.onegate is None:
            raise OneflowerError(
                "There is no SuperLink to be found: this VM has no OneGate and FL_SUPERLINK_ADDRESS is empty.",
                "Set FL_SUPERLINK_ADDRESS=host:port (and FL_SSL_CA_CERTFILE), or deploy through the service template.",
            )
        self._superlink = self._machine.insist(self._published, _PATIENCE, self._backoff())
        endpoint = self._superlink["FL_ENDPOINT"]
        try:
            host, _ = split_address(endpoint)
        except ValueError as error:
            raise OneflowerError(
                f"The SuperLink published an address that is not valid: {endpoint!r}.", "Recover the SuperLink's VM."
            ) from error
        self._check_address(host)
        wanted, theirs = settings.text("FLOWER_VERSION"), self._superlink.get("FL_VERSION", "")
        if theirs != wanted:
            raise OneflowerError(
                f"The SuperLink runs Flower {theirs}, this SuperNode {wanted}.",
                "Set FLOWER_VERSION on the service level only, so that it is the same on every VM.",
            )
        return f"SuperLink at {endpoint}, VM {self._superlink_vm}"

    def _check_address(self, host: str) -> None:
        """Refuse an address that is not the SuperLink's own.

        Every VM of the service can write what the SuperLink published. What OpenNebula says of a VM, its addresses and
        its context, none of them can.
        """
        superlink = self._superlink_vm
        assert superlink is not None  # noqa: S101 - it was just found
        own = self._machine.insist(lambda onegate: onegate.addresses(superlink), _PATIENCE, self._backoff())
        if host in own:
            return
        context = self._machine.insist(lambda onegate: onegate.context(superlink), _PATIENCE, self._backoff())
        with suppress(ValueError):
            if split_address(context.get("FL_FLEET_API_ADDRESS", ""))[0] == host:
                return
        raise OneflowerError(
            f"The SuperLink's VM {superlink} published the address {host}, which is not one that OpenNebula gave it"
            f" ({', '.join(sorted(own)) or 'none'}).",
            "Another VM of the service may have changed it: restart the SuperLink's VM, which publishes it again. "
            "If the address is right, name it in FL_FLEET_API_ADDRESS.",
            ExitCode.CONFLICT,
        )

    def _backoff(self) -> Backoff:
        settings = self._machine.settings
        fixed = settings.text("FL_EDGE_BACKOFF") == "fixed"
        cap = float(settings.integer("FL_EDGE_MAX_BACKOFF"))
        return Backoff(first=min(1.0, cap) if fixed else 0.2, factor=1.0 if fixed else 2.0, cap=cap)

    def _published(self, onegate: OneGate) -> dict[str, str]:
        role = onegate.service().get(COORDINATOR_ROLE)
        if role is None or not role.nodes:
            raise OneGateError("The service has no SuperLink VM.", "Recover or redeploy the service.", heals=True)
        self._superlink_vm = role.nodes[0]
        attributes = onegate.attributes(self._superlink_vm)
        if attributes.get("READY") != "YES" or not attributes.get("FL_ENDPOINT"):
            raise OneGateError("The SuperLink is not ready yet.", "Wait for it, or look at its log.", heals=True)
        return attributes

    def _trust(self) -> str:
        settings = self._machine.settings
        if not settings.flag("FL_TLS_ENABLED"):
            if self._superlink.get("FL_TLS") == "YES":
                raise OneflowerError("The SuperLink speaks TLS and FL_TLS_ENABLED is NO here.",
                                     "Set FL_TLS_ENABLED on the service level only.")  # fmt: skip
            return "TLS is switched off (FL_TLS_ENABLED=NO)"
        given = settings.text("FL_SSL_CA_CERTFILE")
        source = "FL_SSL_CA_CERTFILE" if given else "FL_CA_CERT, as the SuperLink published it"
        encoded = given or self._superlink.get("FL_CA_CERT", NOTHING)
        if encoded == NOTHING:
            raise OneflowerError(
                "There is no CA certificate to trust the SuperLink by, and this SuperNode does not start without.",
                "Set FL_SSL_CA_CERTFILE to the base64 of the SuperLink's ca.crt.",
            )
        try:
            pem = base64.b64decode(encoded, validate=True)
        except binascii.Error as error:
            raise OneflowerError(f"{source} is not base64.", "Recover the SuperLink's VM.") from error
        tls.check_ca(pem, source)
        pin = f"{self._superlink_vm} {hashlib.sha256(pem).hexdigest()}"
        if not given and self._superlink_vm is not None:
            self._check_pin(pin)
        write_atomic(self._ca_path, pem, SHARED)
        self._greet()
        if not given and self._superlink_vm is not None:
            write_atomic(self._pin_path, pin)
        return f"the CA from {source.split(',', maxsplit=1)[0]}"

    def _check_pin(self, pin: str) -> None:
        """Refuse another CA than the one that this VM has trusted before, from the same VM.

        A SuperLink that OneFlow replaced is another VM, as OneFlow itself tells; no other VM can feign that.
        """
        try:
            vm, ca = self._pin_path.read_text(encoding="ascii").split()
        except (OSError, ValueError):
            return
        if pin != f"{vm} {ca}" and pin.startswith(f"{vm} "):
            raise OneflowerError(
                f"The SuperLink's VM {vm} published another CA certificate than the one that this SuperNode has "
                "trusted so far.",
                "Another VM of the service may have changed it: restart the SuperLink's VM, which publishes its own "
                f"again. If that VM was made anew with an empty disk, accept its CA: delete {self._pin_path} here.",
                ExitCode.CONFLICT,
            )

    @property
    def _pin_path(self) -> Path:
        return self._machine.home / "tls" / "superlink.pin"

    @property
    def _ca_path(self) -> Path:
        return self._machine.home / "tls" / "ca.crt"

    @property
    def _ca(self) -> Path | None:
        return self._ca_path if self._machine.settings.flag("FL_TLS_ENABLED") else None

    @property
    def _probe(self) -> flower.Probe:
        return flower.Probe(self._ca)

    def _greet(self) -> None:
        endpoint = self._superlink["FL_ENDPOINT"]
        deadline = time.monotonic() + _PATIENCE
        for delay in self._backoff().delays():
            try:
                if self._probe.fleet_answers(endpoint):
                    return
                reason = "it answers, but not as a Fleet API"
            except ssl.SSLCertVerificationError as error:
                raise self._untrusted(error) from error
            except OSError as error:
                cause = getattr(error, "reason", error)
                if isinstance(cause, ssl.SSLCertVerificationError):
                    raise self._untrusted(cause) from error
                reason = str(cause)
            if time.monotonic() + delay > deadline:
                raise OneflowerError(
                    f"The SuperLink at {endpoint} does not answer: {reason}.",
                    "Check that the network between the machines lets TCP through to that port.",
                    ExitCode.CLOUD,
                )
            self._machine.journal.waiting(f"The SuperLink at {endpoint} does not answer: {reason}. Trying again.")
            time.sleep(delay)

    def _untrusted(self, error: ssl.SSLCertVerificationError) -> OneflowerError:
        return OneflowerError(
            f"The certificate of the SuperLink at {self._superlink['FL_ENDPOINT']} is not to be trusted: "
            f"{error.verify_message}.",
            "Give this SuperNode the ca.crt of that very SuperLink, and name its address in the certificate "
            "(FL_CERT_EXTRA_SAN). Nothing is sent in plaintext.",
            ExitCode.CLOUD,
        )

    def _partition(self) -> str:
        machine = self._machine
        if given := machine.settings.text("FL_NODE_CONFIG"):
            self._node_config = split_node_config(given)
            return "FL_NODE_CONFIG, as given"
        if machine.onegate is None or self._superlink_vm is None:
            log.info("Outside a service no partition is computed; set FL_NODE_CONFIG if the app needs one.")
            return "outside a service: none"
        vm_id, superlink = int(machine.context["VMID"]), self._superlink_vm

        def mine(onegate: OneGate) -> Partitions:
            text = self._superlink.pop("FL_PARTITIONS", "") or onegate.attributes(superlink).get("FL_PARTITIONS", "")
            try:
                partitions = Partitions.parse(text)
            except ValueError as error:
                raise OneGateError("The SuperLink published no partitions.", "Recover its VM.", heals=True) from error
            if vm_id not in partitions.ids:
                raise OneGateError("The SuperLink has not given this VM a partition yet.", "", heals=True)
            return partitions

        partitions = machine.insist(mine, _PATIENCE, _CLOSELY)
        self._node_config = {
            "partition-id": str(partitions.ids[vm_id]),
            "num-partitions": str(partitions.count),
        }
        return f"{self._node_config['partition-id']} of {partitions.count}"

    def _data(self) -> str:
        """Tell the ClientApp where this node's own data is, if there is any."""
        given = self._machine.settings.text("FL_DATA_PATH")
        folder = Path(given.replace("{partition}", self._node_config.get("partition-id", "")))
        if not given:
            folder = self._machine.home / "data"
            if not (folder.is_dir() and any(folder.iterdir())):
                return "none of its own"
        elif not folder.is_dir():
            raise OneflowerError(
                f"FL_DATA_PATH: the folder {folder} does not exist on this machine.",
                "Mount the data there, or leave FL_DATA_PATH empty.",
            )
        self._node_config.setdefault("data-path", str(folder))
        return f"in {folder}"

    def _admission(self) -> str:
        """Wait until the SuperLink has registered this node's key; outside its service that is done by hand."""
        if self._key is None:
            return "not needed (FL_SUPERNODE_AUTH=NO)"
        machine, superlink = self._machine, self._superlink_vm
        if machine.onegate is None or superlink is None:
            log.warning(
                "This SuperNode is no VM of the SuperLink's service. Let it in by hand, on the SuperLink's machine: "
                "flwr supernode register %s (the file is on this machine)", machine.home / "tls" / "node.pub",
            )  # fmt: skip
            return "to be registered by hand"
        vm_id, key, tries = int(machine.context["VMID"]), self._key, itertools.count(1)

        def admitted(onegate: OneGate) -> str:
            nonlocal key
            attributes = onegate.attributes(superlink)
            refused, reason = Refusals.recall(attributes.get("FL_REFUSED", "")).of.get(vm_id, ("", None))
            if refused == key.public.fingerprint and reason in (Reason.SPENT, Reason.TAKEN):
                if next(tries) > _MOST_KEYS:
                    raise OneGateError(
                        f"The SuperLink refused {_MOST_KEYS} keys of this SuperNode.",
                        "See the SuperLink's log for the reason.",
                        heals=False,
                    )
                key.path.unlink(missing_ok=True)
                key = self._make_key()
                onegate.publish({"FL_PUBLIC_KEY": key.published})
                raise OneGateError("The SuperLink refused this SuperNode's key; another is introduced.", "", heals=True)
            member = Roster.recall(attributes.get("FL_NODES", "")).members.get(vm_id)
            if member is None or member.key != key.public.fingerprint:
                raise OneGateError("The SuperLink has not registered this SuperNode yet.", "", heals=True)
            return member.node_id

        self._admitted_as = machine.insist(admitted, _PATIENCE, _CLOSELY)
        return f"as node {self._admitted_as}"

    @property
    def _session_file(self) -> Path:
        return self._machine.home / "node.id"

    def _start(self) -> str:
        machine, settings = self._machine, self._machine.settings
        assert self.child is not None  # noqa: S101 - prepared
        orders = SuperNodeOrders(
            superlink=self._superlink["FL_ENDPOINT"],
            ca=self._ca,
            node_config=self._node_config,
            listen=(machine.loopback, flower.SUPERNODE_PORT),
            key=self._key.path if self._key else None,
            previous_id=self._session_file.read_text(encoding="ascii") if self._session_file.exists() else "",
            max_retries=settings.integer("FL_MAX_RETRIES"),
            max_wait_time=settings.integer("FL_MAX_WAIT_TIME"),
        )
        self.child.tell(orders.line())
        return "flower-supernode" + (", with a key" if self._key else "")

    def _on_line(self, line: str) -> None:
        if not self._node_id:
            self._node_id = node_id_in(line) or ""
        log_flower(line)

    def _online(self) -> str:
        probe, endpoint = self._probe, self._superlink["FL_ENDPOINT"]

        def online() -> bool:
            return bool(self._node_id) and probe.lists_online(endpoint, self._node_id)

        try:
            wait_for(self.child, online, "The SuperLink did not list this SuperNode as online")
        except flower.RefusedError as error:
            raise self.diagnose(error) from error
        write_atomic(self._session_file, self._node_id)
        return f"node {self._node_id}"

    def _ready(self) -> str:
        values = {
            "FL_ROLE": self.name,
            "FL_VERSION": self._machine.settings.text("FLOWER_VERSION"),
            "FL_NODE_ID": self._node_id,
            "FL_OWN_DATA": "YES" if "data-path" in self._node_config else "NO",
            "FL_USE_CASE": self._machine.settings.text("FL_USE_CASE"),
            "ML_FRAMEWORK": self._machine.settings.text("ML_FRAMEWORK"),
        }
        for key, name in (("partition-id", "FL_PARTITION_ID"), ("num-partitions", "FL_NUM_PARTITIONS")):
            if re.fullmatch(r"\d+", self._node_config.get(key, "")):
                values[name] = self._node_config[key]
        return self._machine.publish(values | {"READY": "YES"})
