"""The status of a federation at one moment: its state, its machines, its training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from oneflower.cloud.trust import Trust
from oneflower.opennebula import COORDINATOR, ServiceKind
from oneflower.opennebula.states import FAILED, ServiceState
from oneflower_appliance.checks import troubles
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.parameters import PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower.cloud.autoscaling import Autoscaling
    from oneflower.cloud.releases import Mismatch
    from oneflower_appliance.approvals import Ask
    from oneflower_appliance.checks import Check
    from oneflower_appliance.privacy_budget import Budget
    from oneflower_appliance.progress import RunProgress
    from oneflower_appliance.schedule import Schedule
    from oneflower_appliance.sites import Place


@dataclass(frozen=True)
class VmStatus:
    """One VM. `ready` is what it published itself; `error` is why it is not, in its own words.

    `ready_since` is when it became ready, in seconds since 1970 by its own clock; 0 if it is not, or did not say.
    `policy` is that of its site: its digest and what apps it allows; `asks` are the apps that wait for an approval,
    and `budget` is what it has spent of its privacy budget, if it has one.
    `checks` are what it looked at when it booted.
    `joins` is what it waits for at the SuperLink of another service. `waits` is why OpenNebula makes it wait for a
    host, in OpenNebula's words.
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
    policy: str = ""
    asks: tuple[Ask, ...] = ()
    budget: Budget | None = None
    error: str = ""
    joins: str = ""
    waits: str = ""
    ready_since: int = 0
    checks: tuple[Check, ...] = ()

    @property
    def line(self) -> str:
        """How it is, in a few words."""
        waits = f"{self.state}: {self.waits}" if self.waits else self.state
        text = "ready" if self.ready else self.error or self.joins or waits
        return text + (f", partition {self.partition}" if self.ready and self.partition else "")


@dataclass(frozen=True)
class FederationStatus:
    """A federation as it is now, or the part of one that is in this cloud.

    `endpoint` and `control` are host:port, empty until the SuperLink is ready. A site has its coordinator's `endpoint`.
    `errors` are the lines of OneFlow's `log` that are errors. `causes` say why waiting will not make it ready.
    `remarks` say what is unusual about a ready one, and `share` how much of the data takes part, if not all. `packages`
    are those that all its machines have besides what belongs to their image's variant: releases by normalised name.
    `releases` say which machines have another release of oneflower than this client. `sites` are the nodes of others.
    `schedule` says what was started at planned times, and which run has the model.
    `autoscaling` is by what OneFlow scales the SuperNodes, if there is any policy.
    """

    id: int
    name: str
    state: str
    supernodes: int
    kind: ServiceKind = ServiceKind.FEDERATION
    roles: Mapping[str, str] = field(default_factory=dict)
    vms: tuple[VmStatus, ...] = ()
    endpoint: str = ""
    control: str = ""
    version: str = ""
    ca: str = field(default="", repr=False)
    host_keys: tuple[str, ...] = field(default=(), repr=False)
    settings: Mapping[str, str] = field(default_factory=dict)
    training: RunProgress | None = None
    schedule: Schedule | None = None
    log: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    share: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    releases: tuple[Mismatch, ...] = ()
    sites: tuple[Place, ...] = ()
    autoscaling: Autoscaling | None = None
    trust: Trust = field(default=Trust(), repr=False)

    @property
    def ready(self) -> bool:
        """Whether it is running and every one of its machines says that it is ready."""
        return self.state == ServiceState.RUNNING.name and bool(self.vms) and all(vm.ready for vm in self.vms)

    @property
    def framework(self) -> str:
        """The machine-learning framework of its machines."""
        return self.settings.get("ML_FRAMEWORK", PARAMETERS["ML_FRAMEWORK"].default)

    @property
    def rounds(self) -> int:
        """The rounds of a run that does not say otherwise."""
        return int(self.settings.get("FL_NUM_ROUNDS", PARAMETERS["FL_NUM_ROUNDS"].default))

    @property
    def failure(self) -> str:
        """Why waiting will not make it ready; empty if it may."""
        own = [f"{vm.name}: {vm.error}" for vm in self.vms if vm.error and not vm.ready]
        if own or self.causes:
            return "\n".join([*own, *self.causes])
        if self.state in {state.name for state in FAILED}:
            return self.errors[-1] if self.errors else self.state
        return ""

    def reachable(self) -> tuple[VmStatus, str]:
        """Return the SuperLink's machine and its Control API's address. Raises `OneflowerError` if one is missing."""
        if self.kind is ServiceKind.SITE:
            raise OneflowerError(
                f"{self.name} is a site: its SuperNodes train for the coordinator at {self.endpoint or 'no address'}.",
                "Use the coordinator, where runs and models are.",
                ExitCode.CONFLICT,
            )
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
        """The names of the nodes, by Flower's ids: that of its machine here, or SITE/NUMBER at another site."""
        own = {vm.node_id: vm.name for vm in self.vms if vm.node_id}
        return own | {place.node: place.name for place in self.sites if place.node}

    @property
    def schedule_lines(self) -> list[str]:
        """What its schedule plans and has started, newest first."""
        if self.schedule is None:
            return []
        times, zone = self.settings.get("FL_SCHEDULE", ""), self.settings.get("FL_SCHEDULE_ZONE", "")
        first, *results = self.schedule.lines
        return [f"Schedule: {times} ({zone}). {first}", *(f"  {line}" for line in results)]

    @property
    def policies(self) -> dict[str, list[str]]:
        """The policies of sites, each with the names of the machines that keep to it."""
        found: dict[str, list[str]] = {}
        for vm in self.vms:
            if vm.policy:
                found.setdefault(vm.policy, []).append(vm.name)
        return found

    @property
    def troubles(self) -> list[str]:
        """What machines that are ready found not in order before they took part: their data, their clock."""
        own = [f"{vm.name}: {check.sentence}" for vm in self.vms if vm.ready for check in troubles(vm.checks)]
        return own + [place.warning for place in self.sites if place.warning]

    @property
    def partitions(self) -> dict[str, str]:
        """The partitions of the SuperNodes that have one, by Flower's ids of the nodes."""
        own = {vm.node_id: vm.partition for vm in self.vms if vm.node_id and vm.partition}
        return own | {place.node: place.number for place in self.sites if place.node}

    @property
    def superlink(self) -> VmStatus | None:
        """The SuperLink's machine, if there is one."""
        return next((vm for vm in self.vms if vm.role == COORDINATOR), None)
