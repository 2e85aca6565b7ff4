"""Moves a federation to another release of Flower, or to another image, machine by machine, and back if one fails.

Each machine is powered off, its CONTEXT is changed, and it boots again: from its disk, or from a disk of another image
that takes over the state of the one before. So it keeps its keys and its address: the runs and models of the SuperLink,
and the partition of each SuperNode. docs/upgrades.md says why it is done so.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from oneflower.cloud import release_change, waiting
from oneflower.cloud.disk_change import DiskChange
from oneflower.cloud.document import homes
from oneflower.cloud.happened import check_nothing_happened, remember
from oneflower.cloud.target_images import TargetImages
from oneflower.cloud.upgrade_check import QUIET, check
from oneflower.events import Note, Step, StepEnded, ignore
from oneflower.opennebula import COORDINATOR, ServiceKind
from oneflower.opennebula.carried import RELEASE
from oneflower.opennebula.states import LcmState, VmState
from oneflower.printable import counted
from oneflower_appliance.attributes import ERROR, NOTHING, READY, READY_TIME, VERSION
from oneflower_appliance.attributes import RELEASE as APPLIANCE
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.parameters import PARAMETERS
from oneflower_appliance.previous_disk import VARIABLE as TAKE_OVER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from oneflower.cloud.objects import Vm
    from oneflower.cloud.release_change import Destination, Move, ReleaseChange
    from oneflower.cloud.service import Service
    from oneflower.events import Notify

GRACE = 20.0  # seconds after which an error that a machine reports counts
_LOOK = 0.25
_TRIES = 5
_BACK = 600.0  # seconds that a machine may take at least on the way back
_FAILED = (LcmState.BOOT_FAILURE, LcmState.PROLOG_FAILURE)


class Upgrade:
    """The upgrade of one service. `limit` is how long a machine may take for each step, in seconds."""

    def __init__(self, service: Service, limit: float = 600, notify: Notify = ignore) -> None:
        self._service = service
        self._core = service.cloud.core
        self._limit = limit
        self._notify = notify

    def plan(self, release: str = "", image: str = "", *, back: bool = False) -> ReleaseChange:
        """Return what is left to do, and change nothing. Raises `OneflowerError` if it may not be done now.

        It goes to a release, to an image, to what is registered today, or `back` to what the document says.
        """
        images = self._images()
        plan, status = self._left(images.origin() if back else images.target(release, image)), self._service.status()
        if not plan.done:
            check(self._service, plan, status)
        return plan

    def run(self, release: str = "", image: str = "", *, back: bool = False) -> ReleaseChange:
        """Bring every machine to where it should be, and return what was planned.

        Raises `OneflowerError` if a machine does not become ready; then all are as they were, or it says which are not.
        """
        plan = self.plan(release, image, back=back)
        if plan.done:
            self._tidy(plan)
            return plan
        service, settings = self._service, self._service.status().settings
        framework = settings.get("ML_FRAMEWORK", PARAMETERS["ML_FRAMEWORK"].default)
        service.cloud.surroundings.prepare(plan.after, framework, lambda text: self._notify(Step(text)))
        check(self._service, plan, self._service.status())  # to build may have taken minutes
        try:
            self._bring_or_go_back(plan)
        except KeyboardInterrupt:
            self._notify(StepEnded(well=False))
            self._notify(Note(f"{service.name} is between {_both(plan)}. {_again(plan)}"))
            raise
        self._tidy(plan)
        return plan

    def _images(self) -> TargetImages:
        return TargetImages(self._core, self._service.name, self._service.body())

    def _left(self, to: Destination) -> ReleaseChange:
        body = self._service.body()
        origin = TargetImages(self._core, self._service.name, body).origin()
        return release_change.change(self._service.name, body, self._core.vms(homes(body)), to, origin)

    def _bring(self, to: Destination, *, back: bool) -> None:
        """Bring every machine to where it should be, and the document, so that later machines get it, too."""
        for _ in range(_TRIES):  # machines may have been added meanwhile
            plan = self._left(to)
            if plan.done:
                break
            for group in plan.groups:
                self._notify(Step(f"{_whom(group)}: {to}"))
                self._switch(group, to, back=back)
            if not plan.origin.same(to):
                self._keep(to)
        if not self._left(to).done:
            raise OneflowerError(
                f"{self._service.name} still has a machine, or a document, that is not on {to}.",
                f"Look with `oneflower show {self._service.name}`: machines may be added all the time.",
                ExitCode.CONFLICT,
            )
        self._notify(Step(f"waiting until {self._service.name} is ready"))
        waiting.wait_ready(waiting.changes(self._service), self._limit, grace=waiting.HEALING)
        self._notify(StepEnded())

    def _switch(self, group: Sequence[Move], to: Destination, *, back: bool) -> None:
        numbers, disks = {move.id: move.name for move in group}, DiskChange(self._core, self._limit, to.titles)
        others = {move.id for move in group if to.image_of(move.role) not in ("", move.image)}
        if group[0].role == COORDINATOR and others:
            self._mind_the_state(group[0], back=back)
        for vm in self._core.vms(numbers).values():
            if (vm.state, vm.lcm_state) == (VmState.ACTIVE, LcmState.RUNNING):
                self._core.act_on_vm(vm.id, "poweroff")
        self._wait(numbers, lambda vm: "" if _is_down(vm) else "is not powered off")
        boots = {
            move.id: disks.ready(self._core.vms([move.id])[move.id], to.image_of(move.role), back=back)
            for move in group if move.id in others
        }  # fmt: skip
        for number, vm in self._core.vms(numbers).items():
            for name, value in ((READY.name, "NO"), (ERROR.name, NOTHING), (READY_TIME.name, NOTHING)):  # of before
                self._core.set_vm_attribute(number, name, value)
            boot, fresh = boots.get(number, (None, False))
            take_over = {TAKE_OVER: "YES" if fresh else "NO"} if boot is not None else {}
            self._core.configure_vm(number, {RELEASE: to.release} | take_over, boot)
            if vm.state == VmState.POWEROFF:
                self._core.act_on_vm(number, "resume")
            else:
                self._core.recover_vm(number, 2)
        self._wait(numbers, _Readiness(to, {move.id: move.role for move in group}))

    def _mind_the_state(self, link: Move, *, back: bool) -> None:
        """Before the SuperLink boots another disk: keep which runs there are, or see that none would be lost."""
        if self._service.status().kind is ServiceKind.SITE:
            return
        (check_nothing_happened if back else remember)(self._service, self._core.vms([link.id])[link.id])

    def _tidy(self, plan: ReleaseChange) -> None:
        """Take away the disks from which machines do not boot any more. What cannot be stays, and is told."""
        if not plan.to.images:
            return
        disks = DiskChange(self._core, self._limit, {**plan.origin.titles, **plan.to.titles})
        for vm in self._core.vms(homes(self._service.body())).values():
            if left := disks.tidy(vm):
                self._notify(Note(left))

    def _wait(self, numbers: dict[int, str], missing: Callable[[Vm], str]) -> None:
        """Wait until nothing is missing. Raises `OneflowerError` after the limit, or if waiting makes no sense."""
        deadline = time.monotonic() + self._limit
        while True:
            found = self._core.vms(numbers)
            gone = [name for number, name in numbers.items() if number not in found]
            left = {numbers[number]: why for number, vm in found.items() if (why := missing(vm))}
            if not left and not gone:
                return
            if gone or time.monotonic() > deadline:
                texts = [f"{name} is gone" for name in gone] or [f"{name} {why}" for name, why in left.items()]
                limit = "" if gone else f" after {self._limit:.0f} s"
                raise OneflowerError(f"{'; '.join(texts)}{limit}.", "", ExitCode.TIMEOUT)
            time.sleep(_LOOK)

    def _keep(self, to: Destination) -> None:
        """Write it into the document, which OneFlow refuses while the service is being scaled."""
        deadline = time.monotonic() + self._limit
        while (body := self._service.body())["state"] not in QUIET and time.monotonic() < deadline:
            time.sleep(_LOOK)
        disks = TargetImages(self._core, self._service.name, body).disks_for(to)
        fresh = release_change.with_release(body, to.release, disks)
        self._service.cloud.oneflow.update_service(self._service.id, fresh)

    def _bring_or_go_back(self, plan: ReleaseChange) -> None:
        try:
            self._bring(plan.to, back=plan.back)
        except OneflowerError as error:
            self._notify(StepEnded(well=False))
            raise self._back(plan, error) from error

    def _back(self, plan: ReleaseChange, cause: OneflowerError) -> OneflowerError:
        """Put every machine back, and return the error to raise."""
        name, look = self._service.name, f"Look with `oneflower logs {self._service.name}`"
        why = cause.message.rstrip(".")
        if plan.back:
            return OneflowerError(
                f"{name} could not go back to {plan.to}: {why}.", f"{look}. {_again(plan)}", cause.code
            )
        self._notify(Note(f"{why}. All go back to {plan.origin}."))
        self._limit = max(self._limit, _BACK)
        try:
            self._bring(plan.origin, back=True)
        except OneflowerError as error:
            self._notify(StepEnded(well=False))
            return OneflowerError(
                f"{name} could not be moved to {plan.to}: {why}. It could not be put back: {error.message}",
                f"{look}. {_again(plan)}",
                ExitCode.DEPLOY_FAILED,
            )
        self._tidy(plan)
        return OneflowerError(
            f"{name} could not be moved to {plan.to}: {why}. It is back on {plan.origin}, and every "
            "machine is ready. No run and no model is lost.",
            f"{look}. When the cause is gone, upgrade it again.",
            ExitCode.DEPLOY_FAILED,
        )


class _Readiness:
    """Tells what a machine lacks until it runs what it should. An error that stays counts after `GRACE`."""

    def __init__(self, to: Destination, roles: Mapping[int, str]) -> None:
        self._to = to
        self._roles = roles
        self._since: dict[int, float] = {}

    def __call__(self, vm: Vm) -> str:
        if vm.lcm_state in _FAILED and vm.state == VmState.ACTIVE:
            raise OneflowerError(
                f"{vm.short_name} cannot boot: {LcmState(vm.lcm_state).name}.", "", ExitCode.DEPLOY_FAILED
            )
        said = vm.attributes
        appliance = self._to.releases.get(self._to.image_of(self._roles[vm.id]), "")
        right = VERSION.read(said) == self._to.release and (not appliance or APPLIANCE.read(said) == appliance)
        if READY.is_set(said) and right:
            return ""
        error = ERROR.read(said)
        if not error:
            self._since.pop(vm.id, None)
        elif time.monotonic() - self._since.setdefault(vm.id, time.monotonic()) > GRACE:
            raise OneflowerError(f"{vm.short_name}: {error}", "", ExitCode.DEPLOY_FAILED)
        of = f" and oneflower {appliance}" if appliance else ""
        return f"is not ready with Flower {self._to.release}{of}{f' ({error})' if error else ''}"


def _is_down(vm: Vm) -> bool:
    return vm.state == VmState.POWEROFF or (vm.state == VmState.ACTIVE and vm.lcm_state in _FAILED)


def _whom(group: Sequence[Move]) -> str:
    if group[0].role == COORDINATOR:
        return "the SuperLink"
    return group[0].name if len(group) == 1 else f"{counted(len(group), 'SuperNode')}, from {group[0].name} on"


def _both(plan: ReleaseChange) -> str:
    if plan.to.images:
        return f"{plan.origin} and {plan.to}" if not plan.back else f"{plan.to} and another image"
    return f"Flower {plan.other} and {plan.after}"


def _again(plan: ReleaseChange) -> str:
    command = f"oneflower upgrade {plan.name}"
    if not plan.to.images:
        release = f"{command} --flower-version"
        return f"Finish it: `{release} {plan.after}`. Or go back: `{release} {plan.other}`."
    if plan.back:
        return f"Finish it: `{command} --back`."
    images = set(plan.to.images.values())
    chosen = f" --image {images.pop()}" if len(images) == 1 else ""
    return f"Finish it: `{command}{chosen}`. Or go back: `{command} --back`."
