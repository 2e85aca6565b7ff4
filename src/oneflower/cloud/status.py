"""A federation as it is now, read from its service's document and its VMs."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from oneflower.cloud.trust import Trust
from oneflower.opennebula import COORDINATOR, NODES
from oneflower_appliance import attributes
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.expiry import published_end, warning
from oneflower_appliance.refusals import Refusals
from oneflower_appliance.runs import Fault, RunRow, unpack

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date

    from oneflower.cloud.core import Vm

STATES = ("PENDING", "DEPLOYING", "RUNNING", "UNDEPLOYING", "WARNING", "DONE", "FAILED_UNDEPLOYING", "FAILED_DEPLOYING",
          "SCALING", "FAILED_SCALING", "COOLDOWN", "DEPLOYING_NETS", "UNDEPLOYING_NETS", "FAILED_DEPLOYING_NETS",
          "FAILED_UNDEPLOYING_NETS", "HOLD")  # fmt: skip
ROLE_STATES = (*STATES[:11], "HOLD")  # 11 means something else in a role
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
_PENDING, _ACTIVE, _RUNNING = 1, 3, 3


@dataclass(frozen=True)
class VmStatus:
    """One VM. `ready` is what it published itself; `error` is why it is not, in its own words.

    `waits` is why OpenNebula has it wait for a host, in OpenNebula's.
    """

    id: int
    name: str
    role: str
    state: str
    ready: bool
    ip: str = ""
    partition: str = ""
    partitions: str = ""
    node_id: str = ""
    own_data: bool = False
    error: str = ""
    waits: str = ""


@dataclass(frozen=True)
class RunProgress:
    """The newest run as the SuperLink publishes it, seconds late. `status` is Flower's; the rest may be unknown.

    `latest` are its last rounds, and `row` the last of them. `fault` is the last one of a node, in `fault_round`. A run
    that is completed has an error when it did not do all that it was asked for.
    """

    id: str
    app: str
    status: str
    round: int = 0
    rounds: int = 0
    row: RunRow | None = None
    error: str = ""
    latest: tuple[RunRow, ...] = ()
    fault: Fault | None = None
    fault_round: int = 0

    @property
    def finished(self) -> bool:
        """Whether it has ended, well or not."""
        return self.status in ("completed", "failed", "stopped")

    def completed(self) -> RunProgress:
        """Return itself. Raises `OneflowerError` when it did not end well."""
        if self.status != "completed" or self.error:
            raise OneflowerError(
                f"Run {self.id} of {self.app} {self.status}: {self.error or 'no reason is known'}",
                "See `oneflower logs` for what the SuperLink and the nodes said.",
                ExitCode.RUN_FAILED,
            )
        return self


@dataclass(frozen=True)
class FederationStatus:
    """A federation as it is now. `endpoint` and `control` are host:port, empty until the SuperLink is ready.

    `causes` say why it will not become ready by waiting; `remarks` what is odd about one that is,
    and `share` how much of the data takes part when it is not all of it.
    """

    id: int
    name: str
    state: str
    supernodes: int
    roles: Mapping[str, str] = field(default_factory=dict)
    vms: tuple[VmStatus, ...] = ()
    endpoint: str = ""
    control: str = ""
    version: str = ""
    ca: str = field(default="", repr=False)
    host_keys: tuple[str, ...] = field(default=(), repr=False)
    settings: Mapping[str, str] = field(default_factory=dict)
    training: RunProgress | None = None
    log: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    share: str = ""
    trust: Trust = field(default=Trust(), repr=False)

    @property
    def ready(self) -> bool:
        """Whether it is running and every one of its machines says that it is ready."""
        return self.state == "RUNNING" and bool(self.vms) and all(vm.ready for vm in self.vms)

    @property
    def failure(self) -> str:
        """Why it will not become ready by waiting, empty while it may."""
        own = [f"{vm.name}: {vm.error}" for vm in self.vms if vm.error and not vm.ready]
        if own or self.causes:
            return "\n".join([*own, *self.causes])
        if self.state.startswith("FAILED"):
            return next((line for line in reversed(self.log) if not line.startswith("New state")), self.state)
        return ""

    def reachable(self) -> tuple[VmStatus, str]:
        """Return the SuperLink's machine and its Control API's address. Raises `OneflowerError` if one is missing."""
        link = self.superlink
        if link is not None and link.ready and self.control:
            return link, self.control
        hint = "Look with `oneflower show`."
        if link is None or not link.ready:
            why = (
                "it has no machine yet" if link is None else link.error or link.waits or f"its machine is {link.state}"
            )
            raise OneflowerError(
                f"{self.name} has no SuperLink that is ready: {why.rstrip('.')}.", hint, ExitCode.CONFLICT
            )
        raise OneflowerError(
            f"{link.name} says that it is ready but not where its Control API is (FL_CONTROL_ENDPOINT).",
            f"Its image is not one of oneflower's, or an old one. {hint}",
            ExitCode.CONFLICT,
        )

    @property
    def names(self) -> dict[str, str]:
        """What the machines of the SuperNodes are called, by Flower's ids."""
        return {vm.node_id: vm.name for vm in self.vms if vm.node_id}

    @property
    def superlink(self) -> VmStatus | None:
        """The SuperLink's machine, if there is one."""
        return next((vm for vm in self.vms if vm.role == COORDINATOR), None)


def read_status(
    number: int,
    name: str,
    body: dict[str, Any],
    found: Mapping[int, Vm],
    causes: Iterable[str],
    today: date | None = None,
) -> FederationStatus:
    """Return the status that a service's document and its live VMs tell."""
    homes = {node["deploy_id"]: role["name"] for role in body["roles"] for node in role.get("nodes") or ()}
    vms = tuple(_vm_status(found[vm], role) for vm, role in homes.items() if vm in found)
    link = next((found[vm].attributes for vm, role in homes.items() if role == COORDINATOR and vm in found), {})
    nodes = next(role for role in body["roles"] if role["name"] == NODES)
    return FederationStatus(
        id=number,
        name=name,
        state=STATES[body["state"]],
        supernodes=nodes["cardinality"],
        roles={role["name"]: ROLE_STATES[role["state"]] for role in body["roles"]},
        vms=vms,
        endpoint=attributes.ENDPOINT.read(link),
        control=attributes.CONTROL_ENDPOINT.read(link),
        version=attributes.VERSION.read(link),
        ca=attributes.CA_CERT.read(link),
        host_keys=tuple(attributes.SSH_HOST_KEYS.read(link).splitlines()),
        settings=_settings(body),
        training=_training(link, {vm.node_id: vm.name for vm in vms if vm.node_id}),
        log=tuple(entry["message"] for entry in body.get("log", ())),
        causes=tuple(causes),
        remarks=(
            *_not_let_in(vms, link),
            *_remarks(vms, nodes, link),
            *_certificates(link, today or datetime.now(UTC).date()),
        ),
        share=_share([vm for vm in vms if vm.role == NODES], _settings(body)),
    )


def _not_let_in(vms: tuple[VmStatus, ...], link: Mapping[str, str]) -> list[str]:
    """Return which SuperNodes the SuperLink has refused, and why."""
    names = {vm.id: vm.name for vm in vms if vm.role == NODES}
    refused = Refusals.recall(attributes.REFUSED.read(link)).of
    return [f"{names[vm]} (VM {vm}): {reason.sentence}" for vm, (_, reason) in refused.items() if vm in names]


def _certificates(link: Mapping[str, str], today: date) -> list[str]:
    """Return that the SuperLink's certificates end soon, if they do."""
    end = published_end(link)
    line = warning(end, today) if end else ""
    return [line] if line else []


def _share(nodes: Sequence[VmStatus], settings: Mapping[str, str]) -> str:
    """Return which partitions take part when some do not, empty where nobody computed partitions."""
    totals = {vm.partitions for vm in nodes if vm.partitions}
    given = any(settings.get(name) for name in ("FL_NODE_CONFIG", "FL_DATA_PATH"))
    if len(totals) != 1 or given or any(vm.own_data or not vm.partition for vm in nodes):
        return ""
    total, ids = int(totals.pop()), sorted({int(vm.partition) for vm in nodes})
    if len(ids) >= total:
        return ""
    *some, last = map(str, ids)
    which = f"partitions {', '.join(some)} and {last}" if some else f"partition {last}"
    return f"Only {which} of {total} take{'' if some else 's'} part: {len(ids) / total:.0%} of the data."


def _remarks(vms: tuple[VmStatus, ...], nodes: dict[str, Any], link: Mapping[str, str]) -> list[str]:
    """Return what is odd about partitions, numbers and addresses, and why it is so."""
    remarks = []
    if attributes.READY.is_set(link) and not attributes.CONTROL_ENDPOINT.read(link):
        remarks.append(
            "The SuperLink says that it is ready but not where its Control API is (FL_CONTROL_ENDPOINT), so that "
            "nothing can be trained: its image is not one of oneflower's, or an old one."
        )
    given = {vm.partitions for vm in vms if vm.role == NODES and vm.partitions}
    if len(given) > 1:
        sizes = ", ".join(sorted(given, key=int))
        remarks.append(
            f"SuperNodes were given shares of different totals (num-partitions {sizes}): those that joined before the "
            "last scaling keep theirs until they boot again. Their ids are unique all the same."
        )
    least = nodes.get("min_vms")
    if least is not None and nodes["cardinality"] < least:
        remarks.append(
            f"{nodes['cardinality']} SuperNodes are fewer than min_vms ({least}): a machine went away. OneFlow boots "
            "another within about 90 s, while the service is RUNNING."
        )
    return remarks


def _vm_status(vm: Vm, role: str) -> VmStatus:
    running = (vm.state, vm.lcm_state) == (_ACTIVE, _RUNNING)
    state = "running" if running else _LCM_FAILURES.get(vm.lcm_state, "") or _VM_STATES.get(vm.state, str(vm.state))
    if vm.state == _ACTIVE and not running and vm.lcm_state not in _LCM_FAILURES:
        state = "booting" if vm.lcm_state < _RUNNING else "stopping"
    ready = running and attributes.READY.is_set(vm.attributes)
    published = attributes.ERROR.read(vm.attributes) or vm.attributes.get("ERROR", "")
    return VmStatus(
        id=vm.id,
        name=vm.name.partition("_(")[0],
        role=role,
        state=state,
        ready=ready,
        ip=vm.ip,
        partition=attributes.PARTITION_ID.read(vm.attributes),
        partitions=attributes.NUM_PARTITIONS.read(vm.attributes),
        node_id=attributes.NODE_ID.read(vm.attributes),
        own_data=attributes.OWN_DATA.is_set(vm.attributes),
        error="" if ready or state == "stopping" else published,
        waits=vm.attributes.get("SCHED_MESSAGE", "").strip() if vm.state == _PENDING else "",
    )


def _training(link: Mapping[str, str], names: Mapping[str, str]) -> RunProgress | None:
    if attributes.RUN_ID.name not in link:
        return None
    latest: tuple[RunRow, ...] = ()
    with suppress(KeyError, ValueError):
        latest = unpack(attributes.RUN_ROWS.read(link))
    fault, fault_round = None, 0
    with suppress(KeyError, TypeError, ValueError, OverflowError, RecursionError):
        said = json.loads(attributes.RUN_FAULT.read(link))
        fault_round, fault = int(said["round"]), Fault.parse(said)
        fault = replace(fault, name=names.get(fault.node, ""))
        latest = tuple(replace(row, faults=(fault,)) if row.round == fault_round else row for row in latest)
    return RunProgress(
        link[attributes.RUN_ID.name],
        attributes.RUN_APP.read(link),
        attributes.RUN_STATUS.read(link),
        latest[-1].round if latest else 0,
        latest[-1].rounds if latest else 0,
        latest[-1] if latest else None,
        attributes.RUN_ERROR.read(link),
        latest,
        fault,
        fault_round,
    )


def _settings(body: dict[str, Any]) -> dict[str, str]:
    values = dict(body.get("user_inputs_values") or {})
    for role in body["roles"]:
        values |= role.get("user_inputs_values") or {}
    return values
