"""Reads a federation's status from its service's document and its VMs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from oneflower.cloud import releases
from oneflower.cloud.autoscaling import Autoscaling
from oneflower.cloud.document import errors_of, homes, roles_of, vms_of
from oneflower.cloud.status import FederationStatus, VmStatus
from oneflower.opennebula import COORDINATOR, NODES, ServiceKind, kind_of, variables_of
from oneflower.opennebula.states import LcmState, RoleState, ServiceState, VmState
from oneflower_appliance import attributes
from oneflower_appliance.approvals import read_asks
from oneflower_appliance.checks import unpack
from oneflower_appliance.expiry import is_renewed, published_end, warning
from oneflower_appliance.privacy_budget import Budget
from oneflower_appliance.progress import RunProgress
from oneflower_appliance.refusals import Refusals
from oneflower_appliance.schedule import Schedule
from oneflower_appliance.sites import Place

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date
    from enum import IntEnum

    from oneflower.cloud.objects import Vm

_BOOT = 120.0  # seconds in which a machine has booted so far that its agent takes READY back
# The names for active VMs, besides booting, running and stopping.
_TROUBLES = {
    LcmState.BOOT_FAILURE: "boot failure",
    LcmState.PROLOG_FAILURE: "prolog failure",
    LcmState.UNKNOWN: "unknown",
}


def read_status(
    number: int,
    name: str,
    body: dict[str, Any],
    found: Mapping[int, Vm],
    causes: Iterable[str],
    now: datetime | None = None,
) -> FederationStatus:
    """Return the status according to a service's document and its live VMs."""
    roles, kind, settings = roles_of(body), kind_of(body), variables_of(body)
    now = now or datetime.now(UTC)
    vms = tuple(_vm_status(found[vm], role, now.timestamp()) for vm, role in homes(body).items() if vm in found)
    link = next((found[vm].attributes for vm in vms_of(roles.get(COORDINATOR, {})) if vm in found), {})
    nodes = roles.get(NODES, {"cardinality": 0})
    schedule = Schedule.recall(attributes.SCHEDULE.read(link))
    sites = Place.recall(attributes.SITES.read(link))
    own = {vm.node_id: vm.name for vm in vms if vm.node_id}
    return FederationStatus(
        id=number,
        name=name,
        kind=kind,
        state=_name(ServiceState, body["state"]),
        supernodes=nodes["cardinality"],
        roles={name: _name(RoleState, role["state"]) for name, role in roles.items()},
        vms=vms,
        endpoint=settings.get("FL_SUPERLINK_ADDRESS", "")
        if kind is ServiceKind.SITE
        else attributes.ENDPOINT.read(link),
        control=attributes.CONTROL_ENDPOINT.read(link),
        version=attributes.VERSION.read(found[vms[0].id].attributes if kind is ServiceKind.SITE and vms else link),
        ca=attributes.CA_CERT.read(link),
        host_keys=tuple(attributes.SSH_HOST_KEYS.read(link).splitlines()),
        settings=settings,
        training=RunProgress.read(link, own | {place.node: place.name for place in sites if place.node}),
        schedule=schedule,
        sites=sites,
        autoscaling=Autoscaling.of(nodes),
        log=tuple(entry["message"] for entry in body.get("log", ())),
        errors=tuple(errors_of(body)),
        causes=tuple(causes),
        remarks=(
            *_not_admitted(vms, link),
            *_remarks(vms, nodes, link),
            *_features_off(vms, found),
            *_certificates(link, now.date()),
            *(schedule.troubles if schedule else ()),
        ),
        packages=_packages([found[vm.id].attributes for vm in vms]),
        share=_share([vm for vm in vms if vm.role == NODES], settings),
        releases=releases.of_machines({vm.name: found[vm.id].attributes for vm in vms if vm.ready}),
    )


def _not_admitted(vms: tuple[VmStatus, ...], link: Mapping[str, str]) -> list[str]:
    """Return which SuperNodes the SuperLink has refused, and why."""
    names = {vm.id: vm.name for vm in vms if vm.role == NODES}
    refused = Refusals.recall(attributes.REFUSED.read(link)).of
    return [f"{names[vm]} (VM {vm}): {reason.sentence}" for vm, (_, reason) in refused.items() if vm in names]


def _features_off(vms: tuple[VmStatus, ...], found: Mapping[int, Vm]) -> list[str]:
    """Return the features that are off because the machines' Flower does not support them; each line once."""
    told: dict[str, list[str]] = {}
    for vm in vms:
        for line in attributes.FEATURES_OFF.read(found[vm.id].attributes).splitlines():
            told.setdefault(line, []).append(vm.name)
    return [f"{', '.join(names)}: {line}" for line, names in told.items()]


def _packages(published: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the packages, with their releases, that every machine says it has."""
    each = [set(attributes.PACKAGES.read(values).splitlines()) for values in published]
    lines = sorted(set.intersection(*each)) if each else []
    return {
        name: release if _is_release(release) else "" for name, _, release in (line.partition("==") for line in lines)
    }


def _is_release(text: str) -> bool:
    try:
        Version(text)
    except ValueError:  # also for a number with thousands of digits
        return False
    return True


def _certificates(link: Mapping[str, str], today: date) -> list[str]:
    """Return that the SuperLink's certificates end soon, if they do."""
    end = published_end(link)
    line = warning(end, today, renewed=is_renewed(link)) if end else ""
    return [line] if line else []


def _share(nodes: Sequence[VmStatus], settings: Mapping[str, str]) -> str:
    """Return which partitions take part if some do not; empty if no partitions were assigned."""
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
            "last scaling keep theirs until they boot again. Their ids are unique anyway."
        )
    least = nodes.get("min_vms")
    if least is not None and nodes["cardinality"] < least:
        remarks.append(
            f"{nodes['cardinality']} SuperNodes are fewer than min_vms ({least}): a machine went away. OneFlow boots "
            "another within about 90 s, while the service is RUNNING."
        )
    return remarks


def _before_boot(since: int, vm: Vm, now: float) -> bool:
    """Whether a machine that began to run a moment ago says that it is ready `since` before that.

    OpenNebula keeps READY=YES while a machine is down, and its agent takes it back only when it runs again. After
    `_BOOT` seconds its word counts: its clock may be wrong, and one that was moved did not boot.
    """
    return 0 < since < vm.booted and now - vm.booted < _BOOT


def _vm_status(vm: Vm, role: str, now: float) -> VmStatus:
    running = (vm.state, vm.lcm_state) == (VmState.ACTIVE, LcmState.RUNNING)
    state = _state(vm)
    since = int(attributes.READY_TIME.read(vm.attributes) or 0)
    ready = running and attributes.READY.is_set(vm.attributes) and not _before_boot(since, vm, now)
    published = attributes.ERROR.read(vm.attributes) or vm.attributes.get("ERROR", "")
    return VmStatus(
        id=vm.id,
        name=vm.short_name,
        role=role,
        state=state,
        ready=ready,
        ready_since=since if ready else 0,
        ip=vm.ip,
        partition=attributes.PARTITION_ID.read(vm.attributes),
        partitions=attributes.NUM_PARTITIONS.read(vm.attributes),
        node_id=attributes.NODE_ID.read(vm.attributes),
        own_data=attributes.OWN_DATA.is_set(vm.attributes),
        policy=attributes.POLICY.read(vm.attributes),
        budget=Budget.parse(attributes.PRIVACY.read(vm.attributes)),
        asks=read_asks(attributes.ASKS.read(vm.attributes)) if running else (),
        checks=unpack(attributes.CHECKS.read(vm.attributes)),
        error="" if ready or state == "stopping" else published,
        joins="" if ready else attributes.JOINING.read(vm.attributes),
        waits=vm.attributes.get("SCHED_MESSAGE", "").strip() if vm.state == VmState.PENDING else "",
    )


def _state(vm: Vm) -> str:
    """Return the state of a VM in a word or two."""
    if vm.state == VmState.ACTIVE and vm.lcm_state == LcmState.RUNNING:
        return "running"
    if trouble := next((text for state, text in _TROUBLES.items() if state == vm.lcm_state), ""):
        return trouble
    if vm.state == VmState.ACTIVE:
        return "booting" if vm.lcm_state < LcmState.RUNNING else "stopping"
    return _name(VmState, vm.state).lower()


def _name(states: type[IntEnum], number: int) -> str:
    """Return the name of a state, or its number when a cloud has one that is not known."""
    return next((state.name for state in states if state == number), str(number))
