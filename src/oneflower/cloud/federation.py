"""The life of one federation: deploy, wait, show, scale, recover, delete."""

from __future__ import annotations

import base64
import binascii
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oneflower.template import COORDINATOR, NODES, merge_template
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.parameters import Bounds, resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from oneflower.cloud.client import Cloud, Vm

STATES = ("PENDING", "DEPLOYING", "RUNNING", "UNDEPLOYING", "WARNING", "DONE", "FAILED_UNDEPLOYING", "FAILED_DEPLOYING",
          "SCALING", "FAILED_SCALING", "COOLDOWN", "DEPLOYING_NETS", "UNDEPLOYING_NETS", "FAILED_DEPLOYING_NETS",
          "FAILED_UNDEPLOYING_NETS", "HOLD")  # fmt: skip
_LCM_FAILURES = {36: "boot failure", 39: "prolog failure", 16: "unknown"}
_VM_STATES = {
    1: "pending",
    2: "hold",
    3: "active",
    4: "stopped",
    5: "suspended",
    6: "done",
    8: "poweroff",
    9: "undeployed",
}
_ACTIVE, _RUNNING = 3, 3
_PULSE, _LOOK = 0.15, 1.0


@dataclass(frozen=True)
class VmStatus:
    """One VM. `ready` is what it published itself; `error` is why it is not, in its own words."""

    id: int
    name: str
    role: str
    state: str
    ready: bool
    ip: str = ""
    partition: str = ""
    node_id: str = ""
    error: str = ""


@dataclass(frozen=True)
class FederationStatus:
    """A federation as it is now. `endpoint` and `control` are host:port, empty until the SuperLink is ready."""

    id: int
    name: str
    state: str
    supernodes: int
    vms: tuple[VmStatus, ...] = ()
    endpoint: str = ""
    control: str = ""
    version: str = ""
    ca: str = field(default="", repr=False)
    settings: Mapping[str, str] = field(default_factory=dict)
    log: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether it is running and every one of its machines says that it is ready."""
        return self.state == "RUNNING" and bool(self.vms) and all(vm.ready for vm in self.vms)

    @property
    def failure(self) -> str:
        """Why it will not become ready by waiting, empty while it may."""
        causes = [f"{vm.name}: {vm.error}" for vm in self.vms if vm.error and not vm.ready]
        if causes:
            return "\n".join(causes)
        if self.state.startswith("FAILED"):
            return next((line for line in reversed(self.log) if not line.startswith("New state")), self.state)
        return ""


class Federation:
    """A deployed federation, by the id of its service."""

    def __init__(self, cloud: Cloud, number: int, name: str) -> None:
        self.cloud = cloud
        self.id = number
        self.name = name

    @classmethod
    def find(cls, cloud: Cloud, name: str | None) -> Federation:
        """Return the federation called `name`, or the only one. Raises `OneflowerError`."""
        known = list(cls.all(cloud))
        if name is None:
            if len(known) == 1:
                return known[0]
            choice = ", ".join(sorted(federation.name for federation in known))
            raise OneflowerError(
                "Which federation? There are several." if known else "There is no federation.",
                f"Name one of: {choice}." if known else "Deploy one with `oneflower up`.",
                ExitCode.USAGE if known else ExitCode.NOT_FOUND,
            )
        for federation in known:
            if name in (federation.name, str(federation.id)):
                return federation
        raise OneflowerError(
            f"There is no federation called {name!r}.", "`oneflower ls` shows those there are.", ExitCode.NOT_FOUND
        )

    @classmethod
    def all(cls, cloud: Cloud) -> Iterator[Federation]:
        """Yield every service that has the two roles of a federation."""
        for document in cloud.services():
            body = document["TEMPLATE"]["BODY"]
            if {COORDINATOR, NODES} <= {role.get("name") for role in body.get("roles", ())}:
                yield cls(cloud, int(document["ID"]), document["NAME"])

    @classmethod
    def deploy(
        cls, cloud: Cloud, template: Callable[[Cloud], int], name: str, settings: Mapping[str, str], bounds: Bounds
    ) -> Federation:
        """Check everything, then ask the cloud for a federation. Returns at once; `wait_ready` waits.

        `template` returns the id of the service template (see `register`). Raises `OneflowerError`, and has started
        nothing, when a setting is wrong or the name is taken.
        """
        wanted = resolve(settings, bounds=bounds)
        if any(known.name == name for known in cls.all(cloud)):
            raise OneflowerError(
                f"There is a federation called {name!r} already.",
                f"Choose another name, or remove it with `oneflower down {name}`.",
                ExitCode.CONFLICT,
            )
        number = cloud.instantiate(template(cloud), merge_template(name, wanted, bounds))
        return cls(cloud, number, name)

    def status(self) -> FederationStatus:
        """Return how it is now. Raises `OneflowerError` when it is gone."""
        return self._status(self._body())

    def _body(self) -> dict[str, Any]:
        document = self.cloud.service(self.id)
        if document is None:
            raise OneflowerError(f"The federation {self.name!r} is gone.", "Somebody deleted it.", ExitCode.NOT_FOUND)
        body: dict[str, Any] = document["TEMPLATE"]["BODY"]
        return body

    def _status(self, body: dict[str, Any]) -> FederationStatus:
        homes = {node["deploy_id"]: role["name"] for role in body["roles"] for node in role.get("nodes") or ()}
        found = self.cloud.vms(homes)
        vms = tuple(_vm_status(found[number], role) for number, role in homes.items() if number in found)
        link = next((found[n].attributes for n, role in homes.items() if role == COORDINATOR and n in found), {})
        nodes = next(role for role in body["roles"] if role["name"] == NODES)
        return FederationStatus(
            id=self.id,
            name=self.name,
            state=STATES[body["state"]],
            supernodes=nodes["cardinality"],
            vms=vms,
            endpoint=link.get("FL_ENDPOINT", ""),
            control=link.get("FL_CONTROL_ENDPOINT", ""),
            version=link.get("FL_VERSION", ""),
            ca=_decode(link.get("FL_CA_CERT", "")),
            settings=_settings(body),
            log=tuple(entry["message"] for entry in body.get("log", ())),
        )

    def wait_ready(
        self, timeout: float, watch: Callable[[FederationStatus], None] = lambda _: None, grace: float = 0
    ) -> FederationStatus:
        """Wait until it is running with every machine ready; `watch` sees every status on the way.

        Raises `OneflowerError` when the federation fails (and has not mended itself after `grace` seconds), is deleted
        meanwhile, or after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        well = time.monotonic()
        for status in self._changes():
            watch(status)
            if status.ready:
                return status
            if not status.failure:
                well = time.monotonic()
            elif time.monotonic() - well >= grace:
                raise OneflowerError(
                    f"The federation {self.name!r} failed.\n{status.failure}", "", ExitCode.DEPLOY_FAILED
                )
            if time.monotonic() > deadline:
                waiting = ", ".join(vm.name for vm in status.vms if not vm.ready) or status.state
                raise OneflowerError(
                    f"The federation {self.name!r} was not ready after {timeout:.0f} s; still waiting for {waiting}.",
                    "Raise --timeout, or look with `oneflower logs`.",
                    ExitCode.TIMEOUT,
                )
        raise AssertionError  # changes never end

    def _changes(self) -> Iterator[FederationStatus]:
        """Yield the status now, whenever the service changes, and once a second because machines change unseen."""
        seen, looked = None, 0.0
        while True:
            body = self._body()
            if body != seen or time.monotonic() - looked > _LOOK:
                seen, looked = body, time.monotonic()
                yield self._status(body)
            time.sleep(_PULSE)

    def scale(self, supernodes: int) -> list[VmStatus]:
        """Ask for another number of SuperNodes. Returns the nodes that go: the oldest. Does not wait."""
        status = self.status()
        nodes = [vm for vm in status.vms if vm.role == NODES]
        self.cloud.scale_service(self.id, NODES, supernodes)
        return nodes[: max(0, len(nodes) - supernodes)]

    def recover(self) -> None:
        """Ask OneFlow to try again what failed."""
        self.cloud.recover_service(self.id)

    def delete(self, timeout: float = 120) -> None:
        """Undeploy it, whatever its state, and wait until it is gone."""
        self.cloud.delete_service(self.id)
        deadline = time.monotonic() + timeout
        while self.cloud.service(self.id) is not None:
            if time.monotonic() > deadline:
                raise OneflowerError(
                    f"The federation {self.name!r} is still there after {timeout:.0f} s.",
                    "Look with `oneflower show`; run `oneflower down` again.",
                    ExitCode.TIMEOUT,
                )
            time.sleep(_PULSE)


def _vm_status(vm: Vm, role: str) -> VmStatus:
    running = (vm.state, vm.lcm_state) == (_ACTIVE, _RUNNING)
    state = "running" if running else _LCM_FAILURES.get(vm.lcm_state, "") or _VM_STATES.get(vm.state, str(vm.state))
    if vm.state == _ACTIVE and not running and vm.lcm_state not in _LCM_FAILURES:
        state = "booting" if vm.lcm_state < _RUNNING else "stopping"
    ready = running and vm.attributes.get("READY") == "YES"
    published = _decode(vm.attributes.get("FL_ERROR", "")) or vm.attributes.get("ERROR", "")
    return VmStatus(
        id=vm.id,
        name=vm.name.partition("_(")[0],
        role=role,
        state=state,
        ready=ready,
        ip=vm.ip,
        partition=vm.attributes.get("FL_PARTITION_ID", ""),
        node_id=vm.attributes.get("FL_NODE_ID", ""),
        error="" if ready or state == "stopping" else published,
    )


def _settings(body: dict[str, Any]) -> dict[str, str]:
    values = dict(body.get("user_inputs_values") or {})
    for role in body["roles"]:
        values |= role.get("user_inputs_values") or {}
    return values


def _decode(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode(errors="replace")
    except binascii.Error:
        return ""
