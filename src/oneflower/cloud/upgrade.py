"""Moves a federation to another release of Flower, machine by machine, and back if one does not become ready.

Each machine is powered off, its CONTEXT is changed, and it boots again. So it keeps its disk, its keys and its address:
the runs and models of the SuperLink, and the partition of each SuperNode. docs/upgrades.md says why it is done so.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from oneflower.cloud import release_change, superlink, waiting
from oneflower.cloud.document import homes
from oneflower.cloud.image_source import ImageFacts
from oneflower.events import Note, Step, StepEnded, ignore
from oneflower.opennebula import COORDINATOR, ServiceKind
from oneflower.opennebula.carried import RELEASE
from oneflower.opennebula.states import LcmState, ServiceState, VmState
from oneflower.printable import counted
from oneflower_appliance.attributes import ERROR, NOTHING, READY, VERSION
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.parameters import PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from oneflower.cloud.objects import Vm
    from oneflower.cloud.release_change import Move, ReleaseChange
    from oneflower.cloud.service import Service
    from oneflower.cloud.status import FederationStatus
    from oneflower.events import Notify

GRACE = 20.0  # seconds after which an error that a machine reports counts
_LOOK = 0.25
_TRIES = 5
_BACK = 600.0  # seconds that a machine may take at least on the way back
_FAILED = (LcmState.BOOT_FAILURE, LcmState.PROLOG_FAILURE)
_QUIET = (ServiceState.RUNNING, ServiceState.WARNING)


class Upgrade:
    """The upgrade of one service. `limit` is how long a machine may take for each step, in seconds."""

    def __init__(self, service: Service, limit: float = 600, notify: Notify = ignore) -> None:
        self._service = service
        self._core = service.cloud.core
        self._limit = limit
        self._notify = notify

    def plan(self, release: str) -> ReleaseChange:
        """Return what is left to do, and change nothing. Raises `OneflowerError` if it may not be done now."""
        try:
            release = str(PARAMETERS[RELEASE].parse(release))
        except ValueError as error:
            raise OneflowerError(f"{release!r} is not a release of Flower: {error}", "", ExitCode.USAGE) from error
        plan, status = self._left(release), self._service.status()
        if not plan.done:
            self._check(plan, status)
        return plan

    def run(self, release: str) -> ReleaseChange:
        """Bring every machine to this release, and return what was planned.

        Raises `OneflowerError` if a machine does not become ready; then all are as they were, or it says which are not.
        """
        plan = self.plan(release)
        if plan.done:
            return plan
        service, settings = self._service, self._service.status().settings
        framework = settings.get("ML_FRAMEWORK", PARAMETERS["ML_FRAMEWORK"].default)
        service.cloud.surroundings.prepare(plan.after, framework, lambda text: self._notify(Step(text)))
        self._check(plan, self._service.status())  # to build may have taken minutes
        try:
            self._bring_or_go_back(plan)
        except KeyboardInterrupt:
            self._notify(StepEnded(well=False))
            self._notify(Note(f"{service.name} is between Flower {plan.other} and {plan.after}. {_again(plan)}"))
            raise
        return plan

    def _left(self, release: str) -> ReleaseChange:
        body = self._service.body()
        return release_change.change(self._service.name, body, self._core.vms(homes(body)), release)

    # -- what must be so before --------------------------------------------------------------------------------------

    def _check(self, plan: ReleaseChange, status: FederationStatus) -> None:
        name = status.name
        if status.state not in [state.name for state in _QUIET]:
            raise OneflowerError(
                f"{name} is {status.state} now: its machines cannot be changed.",
                f"Wait until it is RUNNING (`oneflower show {name}`).",
                ExitCode.CONFLICT,
            )
        if not status.ready and not plan.begun:
            waits = ", ".join(vm.name for vm in status.vms if not vm.ready) or status.state
            raise OneflowerError(
                f"{name} is not ready ({waits}), so nobody could tell whether an upgrade has worked.",
                f"Look with `oneflower show {name}` and repair it first, or `oneflower recover {name}`.",
                ExitCode.CONFLICT,
            )
        self._check_images(plan)
        link = status.superlink
        if status.kind is ServiceKind.SITE or link is None or not link.ready:
            return
        with superlink.reach(self._service.cloud.surroundings, status) as reached:
            busy = [run.id for run in reached.runs() if not run.finished]
        if busy:
            raise OneflowerError(
                f"{name} trains now: run {', '.join(busy)}.",
                "Wait for its end, or stop it: with Ctrl-C where `oneflower run` follows it, or on the page.",
                ExitCode.CONFLICT,
            )

    def _check_images(self, plan: ReleaseChange) -> None:
        """Raise `OneflowerError` if a machine's image is known to carry another release only."""
        for move in plan.moves:
            image = self._core.find_image(int(move.image)) if move.image.isdigit() else None
            carried = ImageFacts.read(image.attributes).carried.flower if image else ""
            if image and carried and carried != plan.after:
                raise OneflowerError(
                    f"{move.name} boots the image {image.name}, which carries Flower {carried} and no other release.",
                    "Another image for machines that exist: docs/upgrades.md#another-image says how.",
                    ExitCode.CONFLICT,
                )

    # -- the change --------------------------------------------------------------------------------------------------

    def _bring(self, release: str) -> None:
        """Bring every machine to a release, and the document, so that later machines get it, too."""
        for _ in range(_TRIES):  # machines may have been added meanwhile
            plan = self._left(release)
            if plan.done:
                break
            for group in plan.groups:
                self._notify(Step(f"{_whom(group)}: Flower {release}"))
                self._switch(group, release)
            if plan.before != release:
                self._keep(release)
        if not self._left(release).done:
            raise OneflowerError(
                f"{self._service.name} still has a machine, or a document, that is not on Flower {release}.",
                f"Look with `oneflower show {self._service.name}`: machines may be added all the time.",
                ExitCode.CONFLICT,
            )
        self._notify(Step(f"waiting until {self._service.name} is ready"))
        waiting.wait_ready(waiting.changes(self._service), self._limit, grace=waiting.HEALING)
        self._notify(StepEnded())

    def _switch(self, group: Sequence[Move], release: str) -> None:
        numbers = {move.id: move.name for move in group}
        for vm in self._core.vms(numbers).values():
            if (vm.state, vm.lcm_state) == (VmState.ACTIVE, LcmState.RUNNING):
                self._core.act_on_vm(vm.id, "poweroff")
        self._wait(numbers, lambda vm: "" if _is_down(vm) else "is not powered off")
        for number, vm in self._core.vms(numbers).items():
            self._core.change_vm_context(number, RELEASE, release)
            for name, value in ((READY.name, "NO"), (ERROR.name, NOTHING)):  # of before
                self._core.set_vm_attribute(number, name, value)
            if vm.state == VmState.POWEROFF:
                self._core.act_on_vm(number, "resume")
            else:
                self._core.recover_vm(number, 2)
        self._wait(numbers, _Readiness(release))

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

    def _keep(self, release: str) -> None:
        """Write the release into the document, which OneFlow refuses while the service is being scaled."""
        deadline = time.monotonic() + self._limit
        while (body := self._service.body())["state"] not in _QUIET and time.monotonic() < deadline:
            time.sleep(_LOOK)
        self._service.cloud.oneflow.update_service(self._service.id, release_change.with_release(body, release))

    def _bring_or_go_back(self, plan: ReleaseChange) -> None:
        try:
            self._bring(plan.after)
        except OneflowerError as error:
            self._notify(StepEnded(well=False))
            raise self._back(plan, error) from error

    def _back(self, plan: ReleaseChange, cause: OneflowerError) -> OneflowerError:
        """Put every machine back, and return the error to raise."""
        name, look = self._service.name, f"Look with `oneflower logs {self._service.name}`"
        why = cause.message.rstrip(".")
        if plan.before == plan.after:
            return OneflowerError(
                f"{name} could not go back to Flower {plan.after}: {why}.", f"{look}. {_again(plan)}", cause.code
            )
        self._notify(Note(f"{why}. All go back to Flower {plan.before}."))
        self._limit = max(self._limit, _BACK)
        try:
            self._bring(plan.before)
        except OneflowerError as error:
            self._notify(StepEnded(well=False))
            return OneflowerError(
                f"{name} could not be moved to Flower {plan.after}: {why}. It could not be put back: {error.message}",
                f"{look}. {_again(plan)}",
                ExitCode.DEPLOY_FAILED,
            )
        return OneflowerError(
            f"{name} could not be moved to Flower {plan.after}: {why}. It is back on Flower {plan.before}, and every "
            "machine is ready. No run and no model is lost.",
            f"{look}. When the cause is gone, upgrade it again.",
            ExitCode.DEPLOY_FAILED,
        )


class _Readiness:
    """Tells what a machine lacks until it is ready with this release. An error that stays counts after `GRACE`."""

    def __init__(self, release: str) -> None:
        self._release = release
        self._since: dict[int, float] = {}

    def __call__(self, vm: Vm) -> str:
        if vm.lcm_state in _FAILED and vm.state == VmState.ACTIVE:
            raise OneflowerError(
                f"{vm.short_name} cannot boot: {LcmState(vm.lcm_state).name}.", "", ExitCode.DEPLOY_FAILED
            )
        said = vm.attributes
        if READY.is_set(said) and VERSION.read(said) == self._release:
            return ""
        error = ERROR.read(said)
        if not error:
            self._since.pop(vm.id, None)
        elif time.monotonic() - self._since.setdefault(vm.id, time.monotonic()) > GRACE:
            raise OneflowerError(f"{vm.short_name}: {error}", "", ExitCode.DEPLOY_FAILED)
        return f"is not ready with Flower {self._release}{f' ({error})' if error else ''}"


def _is_down(vm: Vm) -> bool:
    return vm.state == VmState.POWEROFF or (vm.state == VmState.ACTIVE and vm.lcm_state in _FAILED)


def _whom(group: Sequence[Move]) -> str:
    if group[0].role == COORDINATOR:
        return "the SuperLink"
    return group[0].name if len(group) == 1 else f"{counted(len(group), 'SuperNode')}, from {group[0].name} on"


def _again(plan: ReleaseChange) -> str:
    command = f"oneflower upgrade {plan.name} --flower-version"
    return f"Finish it: `{command} {plan.after}`. Or go back: `{command} {plan.other}`."
