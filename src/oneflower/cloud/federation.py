"""The life of one federation, for programs and notebooks as for the command line.

    with Federation.deploy(cloud, supernodes=4, settings={"FL_NUM_ROUNDS": "5"}) as federation:
        result = federation.run("image-classification")
        print(result.rows[-1].accuracy)

Leaving the block removes it.
"""

from __future__ import annotations

import secrets
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from oneflower.cloud import results, runs, training
from oneflower.cloud.answer import Answer
from oneflower.cloud.diagnosis import causes
from oneflower.cloud.names import check_name
from oneflower.cloud.refused import RefusedError, UnreachableError
from oneflower.cloud.status import FederationStatus, RunProgress, VmStatus, read_status
from oneflower.cloud.trust import trust
from oneflower.opennebula import COORDINATOR, NODES, merge_template
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.settings import Bounds, resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from oneflower.cloud.client import Cloud
    from oneflower.cloud.results import RunResult
    from oneflower_appliance.runs import RunRow

    Watch = Callable[[FederationStatus], None]

_PULSE, _LOOK = 0.15, 1.0
_DELETABLE = (0, 2, 4, 15)  # PENDING, RUNNING, WARNING, HOLD: where OneFlow takes a DELETE
_LEAVING = (3, 12)  # UNDEPLOYING, UNDEPLOYING_NETS: where a second one would make it forget VMs that still run
_FAILED_UNDEPLOYING = 6
HEALING = 60.0  # seconds that a running federation is given to mend itself before a failure counts


def _nothing(_: object) -> None:
    return


class Federation:
    """A deployed federation, by the id of its service. As a context manager it removes itself at the end."""

    def __init__(self, cloud: Cloud, number: int, name: str) -> None:
        self.cloud = cloud
        self.id = number
        self.name = name
        self._seen: set[int] = set()  # its VMs, as far as they were ever seen

    def __repr__(self) -> str:
        return f"<Federation {self.name!r}, service {self.id}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self.close()

    # -- finding and making ------------------------------------------------------------------------------------------

    @classmethod
    def find(cls, cloud: Cloud, name: str | None = None) -> Federation:
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
        found = [one for one in known if str(one.id) == name] or [one for one in known if one.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            ids = [str(number) for number in sorted(one.id for one in found)]
            raise OneflowerError(
                f"There are {len(found)} federations called {name!r}: services {', '.join(ids)}.",
                f"Name one by its id, such as {ids[-1]}.",
                ExitCode.USAGE,
            )
        raise OneflowerError(
            f"There is no federation called {name!r}.", "`oneflower ls` shows those there are.", ExitCode.NOT_FOUND
        )

    @classmethod
    def all(cls, cloud: Cloud) -> Iterator[Federation]:
        """Yield every service that has the two roles of a federation."""
        for document in cloud.oneflow.services():
            body = document["TEMPLATE"]["BODY"]
            if {COORDINATOR, NODES} <= {role.get("name") for role in body.get("roles", ())}:
                yield cls(cloud, int(document["ID"]), document["NAME"])

    @classmethod
    def begin(
        cls,
        cloud: Cloud,
        name: str,
        settings: Mapping[str, str],
        bounds: Bounds,
        notify: Callable[[str], None] = _nothing,
    ) -> Federation:
        """Check everything, get ready, then ask the cloud for a federation. Returns at once; `wait_ready` waits.

        Raises `OneflowerError`, and leaves nothing behind, when a setting is wrong or the name is taken.
        """
        check_name(name)
        wanted = resolve(settings, bounds=bounds)
        cls._check_free(cloud, name)
        cloud.surroundings.prepare(wanted["FLOWER_VERSION"], wanted["ML_FRAMEWORK"], notify)
        cls._check_free(cloud, name)  # which may have taken minutes
        template, merge = cloud.surroundings.template(cloud), merge_template(name, wanted, bounds)
        made = Answer(lambda: cloud.oneflow.instantiate(template, merge))
        try:
            number = made.wait()
        except UnreachableError as error:
            if not error.asked:
                raise
            hint = f"{error.hint} It may have made {name} all the same: look with `oneflower ls`."
            raise OneflowerError(error.message, hint, error.code) from error
        except KeyboardInterrupt:
            cls._take_back(cloud, made, name)
            raise
        federation = cls(cloud, number, name)
        federation._keep_if_first()
        return federation

    @classmethod
    def _take_back(cls, cloud: Cloud, made: Answer[int], name: str) -> None:
        """Remove what is being made: the cloud has the request, and answers with the id in a moment."""
        cloud.tell(f"Note: removing {name} as soon as the cloud says that it is made.")
        try:
            number = made.wait()
        except OneflowerError as error:
            cloud.tell(f"Note: {error.message}")
        except KeyboardInterrupt:
            cloud.tell(
                f"Left behind: {name}, if it was made. Look with `oneflower ls`, remove it with `oneflower down`."
            )
            raise
        else:
            cls(cloud, number, name).roll_back()

    @classmethod
    def _check_free(cls, cloud: Cloud, name: str) -> None:
        if any(known.name == name for known in cls.all(cloud)):
            raise _taken(name)

    def _keep_if_first(self) -> None:
        """Take it back if another of the same name was made in the same moment, and before this.

        OneFlow keeps no names apart. But it counts its services, and everybody looks after having made one: so whoever
        has the lowest id sees that, and everybody else sees that one.
        """
        try:
            first = min((known.id for known in Federation.all(self.cloud) if known.name == self.name), default=self.id)
        except BaseException:
            self.roll_back()
            raise
        if first < self.id:
            self.roll_back()
            raise _taken(self.name)

    @classmethod
    def deploy(
        cls,
        cloud: Cloud,
        supernodes: int = 2,
        settings: Mapping[str, str] | None = None,
        name: str | None = None,
        *,
        limits: tuple[int | None, int | None] = (None, None),
        timeout: float = 600,
        watch: Watch = _nothing,
        keep: bool = False,
    ) -> Federation:
        """Deploy a federation and wait until every machine of it is ready; `watch` sees every status on the way.

        `supernodes` may later be scaled within `limits`, by default those of the service template. What was begun is
        removed again when it fails or is interrupted, unless `keep`. Raises `OneflowerError`.
        """
        given = dict(settings or {})
        chosen = check_name(f"federation-{secrets.token_hex(2)}" if name is None else name)
        bounds = scaling_bounds(cloud, supernodes, limits, given)
        federation = cls.begin(cloud, chosen, given, bounds)
        try:
            federation.wait_ready(timeout, watch)
        except BaseException as error:
            if not keep and (left := federation.roll_back()):
                error.add_note(left)
            raise
        return federation

    # -- looking -----------------------------------------------------------------------------------------------------

    def status(self) -> FederationStatus:
        """Return how it is now. Raises `OneflowerError` when it is gone."""
        return self._status(self._body())

    def _body(self) -> dict[str, Any]:
        document = self.cloud.oneflow.service(self.id)
        if document is None:
            raise OneflowerError(f"The federation {self.name!r} is gone.", "Somebody deleted it.", ExitCode.NOT_FOUND)
        body: dict[str, Any] = document["TEMPLATE"]["BODY"]
        self._seen |= set(_vm_ids(body))
        return body

    def _status(self, body: dict[str, Any]) -> FederationStatus:
        found = self.cloud.core.vms(_vm_ids(body))
        status = read_status(self.id, self.name, body, found, causes(self.cloud, body, found))
        if status.superlink is None or not status.control:
            return status
        return replace(status, trust=trust(self.cloud, self.id, self.name, found[status.superlink.id]))

    def logs(self, lines: int = 40) -> list[str]:
        """Return the service's log, what each machine says of itself, and consoles where they can be had."""
        status = self.status()
        text = [f"service: {line}" for line in status.log]
        text += [f"{vm.name}: {'ready' if vm.ready else vm.error or vm.state}" for vm in status.vms]
        for vm in status.vms:
            text += [f"{vm.name} | {line}" for line in self.cloud.surroundings.console(vm.id, lines)]
        return text

    def wait_ready(self, timeout: float = 600, watch: Watch = _nothing, grace: float = 0) -> FederationStatus:
        """Wait until it is running with every machine ready; `watch` sees every status on the way.

        Raises `OneflowerError` when the federation fails (and has not mended itself after `grace` seconds), is deleted
        meanwhile, or after `timeout` seconds.
        """
        with self.cloud.patient():
            return self._wait_ready(timeout, watch, grace)

    def _wait_ready(self, timeout: float, watch: Watch, grace: float) -> FederationStatus:
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
                waiting = "; ".join(_whom(vm) for vm in status.vms if not vm.ready) or status.state
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

    # -- training ----------------------------------------------------------------------------------------------------

    def run(
        self,
        app: str | None = None,
        rounds: int | None = None,
        config: Mapping[str, str] | None = None,
        save: Path = Path("oneflower-results"),
        *,
        on_row: Callable[[RunRow], None] = _nothing,
        on_log: Callable[[str], None] = _nothing,
        notify: Callable[[str], None] = _nothing,
    ) -> RunResult:
        """Train a pre-built app (by name; None: FL_USE_CASE) or that in a folder to its end, and save what it left.

        `config` overrides the app's run config; `on_row` sees every round, `on_log` the app's log, `notify` what is
        being done. An interrupt stops the run. Raises `OneflowerError`.
        """
        status = self.status()
        wanted = training.Request(app, rounds, config or {}, save)
        observer = runs.Observer(on_row, on_log, notify, status.names, self._superlink)
        return training.train(self.cloud.surroundings, status, wanted, observer)

    def resume(
        self,
        run: str,
        save: Path = Path("oneflower-results"),
        *,
        on_row: Callable[[RunRow], None] = _nothing,
        on_log: Callable[[str], None] = _nothing,
        notify: Callable[[str], None] = _nothing,
    ) -> RunResult:
        """Go on with a run that was stopped, lost or failed, from its last checkpoint to its end; as `run` else."""
        status = self.status()
        observer = runs.Observer(on_row, on_log, notify, status.names, self._superlink)
        return training.resume(self.cloud.surroundings, status, run, save, observer)

    def _superlink(self) -> str:
        """Return what the cloud knows of the SuperLink's machine."""
        if trouble := self.cloud.surroundings.trouble():
            return trouble
        try:
            vms = self.status().vms
        except OneflowerError as error:
            return error.message
        vm = next((vm for vm in vms if vm.role == COORDINATOR), None)
        if vm is None:
            return "its machine is gone"
        more = f" ({vm.error.rstrip('.')})" if vm.error else ""
        return f"its machine, VM {vm.id}, is {vm.state} and {'ready' if vm.ready else 'not ready'}{more}"

    def wait_trained(self, on_row: Callable[[RunRow], None] = _nothing) -> RunProgress:
        """Wait for the run that a form with FL_USE_CASE begins by itself, and return how it ended.

        It is followed by what the SuperLink publishes: its last rounds, together. An interrupt does not stop the run.
        Raises `OneflowerError` when it fails, or when the federation has and does not mend itself.
        """
        with self.cloud.patient():
            return self._wait_trained(on_row)

    def _wait_trained(self, on_row: Callable[[RunRow], None]) -> RunProgress:
        seen, well = 0, time.monotonic()
        while True:
            status = self.status()
            found = status.training
            for row in found.latest if found is not None else ():
                if row.round > seen:
                    seen = row.round
                    on_row(row)
            if found is not None and found.finished:
                return found.completed()
            if not status.failure:
                well = time.monotonic()
            elif time.monotonic() - well > HEALING:
                raise OneflowerError(
                    f"{self.name} is not ready any more.\n{status.failure}",
                    "See `oneflower logs`.",
                    ExitCode.RUN_FAILED,
                )
            time.sleep(_LOOK)

    def fetch_model(self, path: Path, run: str | None = None) -> RunResult:
        """Save the model of a run (None: the last that left one) as `path`; metrics, plot and model card beside it.

        Raises `OneflowerError`.
        """
        status = self.status()
        with runs.open_door(self.cloud.surroundings, status) as door:
            number, app = results.run_with_model(door, self.name, run)
            return results.collect(door, number, app, results.Places.beside(path), status.names)

    # -- changing ----------------------------------------------------------------------------------------------------

    def leaving(self, supernodes: int) -> list[VmStatus]:
        """Return the SuperNodes that would go by scaling: the oldest. Raises `OneflowerError` where it cannot be."""
        body = self._body()
        status = self._status(body)
        _check_scale(body, status, supernodes)
        nodes = [vm for vm in status.vms if vm.role == NODES]
        return nodes[: max(0, len(nodes) - supernodes)]

    def scale(self, supernodes: int, timeout: float = 600, watch: Watch = _nothing) -> FederationStatus:
        """Have another number of SuperNodes, and wait, through OneFlow's cooldown, until all of them are ready.

        On the way down the oldest go. Raises `OneflowerError`, and changes nothing, outside of its bounds.
        """
        self.leaving(supernodes)
        self.cloud.oneflow.scale_service(self.id, NODES, supernodes)
        return self.wait_ready(timeout, watch, HEALING)

    def recover(self, timeout: float = 600, watch: Watch = _nothing) -> FederationStatus:
        """Try again what failed, and wait until every machine is ready. Raises `OneflowerError`."""
        status = self.status()
        if status.ready:
            return status
        if status.state not in ("RUNNING", "WARNING"):
            self.cloud.oneflow.recover_service(self.id)
        return self.wait_ready(timeout, watch, HEALING)

    def close(self) -> None:
        """Remove it."""
        self.delete()

    def roll_back(self) -> str:
        """Remove it because of an error or an interrupt, which is what matters: its own errors are not raised.

        Returns what may be left and how to remove it, empty when nothing is; `Cloud.tell` has said so already. A second
        interrupt ends it, and is raised after that was said.
        """
        try:
            self.delete()
        except OneflowerError as error:
            left = f"{self.name} could not be removed: {error.message} {self.remains}"
            self.cloud.tell(left)
            return left
        except BaseException:
            self.cloud.tell(f"Interrupted while removing {self.name}. {self.remains}")
            raise
        return ""

    @property
    def remains(self) -> str:
        """What there is of it in the cloud, by id, and how to remove it by hand."""
        vms = ", ".join(map(str, sorted(self._seen)))
        left = (
            f"Left behind: service {self.id}{f' and VMs {vms}' if vms else ''}. Remove them: `oneflower down {self.id}`"
        )
        return (
            f"{left}, or VMs without their service: `onevm terminate --hard {vms.replace(' ', '')}`."
            if vms
            else f"{left}."
        )

    def delete(self, timeout: float = 120) -> None:
        """Undeploy it, whatever its state, and wait until it and every one of its VMs are gone.

        OneFlow refuses a DELETE in some states, and in one of them, UNDEPLOYING, takes it and forgets VMs that still
        run; so what is asked for depends on the state. Raises `OneflowerError` after `timeout` seconds.
        """
        with self.cloud.patient():
            self._delete(timeout)

    def _delete(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        asked, refusal = False, ""
        while (document := self.cloud.oneflow.service(self.id)) is not None:
            body = document["TEMPLATE"]["BODY"]
            self._seen |= set(_vm_ids(body))
            if not asked:
                refusal = self._ask_to_go(body["state"])
                asked = not refusal
            if time.monotonic() > deadline:
                raise OneflowerError(
                    f"The federation {self.name!r} is still there after {timeout:.0f} s. {refusal}".strip(),
                    "Look with `oneflower show`; run `oneflower down` again.",
                    ExitCode.TIMEOUT,
                )
            time.sleep(_PULSE)
        self._clear(self._seen, deadline)

    def _ask_to_go(self, state: int) -> str:
        """Ask OneFlow to undeploy. Returns why it will not, as when the state has changed meanwhile."""
        try:
            if state in _DELETABLE:
                self.cloud.oneflow.delete_service(self.id)
            elif state not in _LEAVING:
                self.cloud.oneflow.recover_service(self.id, delete=state != _FAILED_UNDEPLOYING)
        except RefusedError as error:
            if error.status in (401, 403):
                raise
            return error.message
        except UnreachableError as error:  # the state tells whether it got through
            return error.message
        return ""

    def _clear(self, vms: set[int], deadline: float) -> None:
        """Wait for the VMs of a service that is gone, and terminate those that OneFlow left behind."""
        asked: set[int] = set()
        while left := self.cloud.core.vms(vms):
            for number in {number for number, vm in left.items() if vm.lcm_state not in _ENDING} - asked:
                with suppress(UnreachableError):  # then it is asked again
                    self.cloud.core.act_on_vm(number, "terminate-hard")
                    asked.add(number)
            if time.monotonic() > deadline:
                raise OneflowerError(
                    f"VMs of the federation {self.name!r} are still there: {', '.join(map(str, left))}.",
                    "Terminate them: `onevm terminate --hard`, or `onevm recover --delete` where that fails.",
                    ExitCode.TIMEOUT,
                )
            time.sleep(_PULSE)


_ENDING = frozenset({11, 12, 15, 23})  # EPILOG, SHUTDOWN, CLEANUP_RESUBMIT, CLEANUP_DELETE


def _vm_ids(body: dict[str, Any]) -> list[int]:
    return [node["deploy_id"] for role in body["roles"] for node in role.get("nodes") or ()]


def _taken(name: str) -> OneflowerError:
    return OneflowerError(
        f"There is a federation called {name!r} already.",
        f"Choose another name, or remove it with `oneflower down {name}`.",
        ExitCode.CONFLICT,
    )


def _whom(vm: VmStatus) -> str:
    """Return the name of a VM that is waited for, and why the cloud has it wait if it says so."""
    return f"{vm.name} ({vm.state}: {vm.waits})" if vm.waits else vm.name


def _check_scale(body: dict[str, Any], status: FederationStatus, supernodes: int) -> None:
    """Raise `OneflowerError` unless a federation may have so many SuperNodes."""
    role = next(role for role in body["roles"] if role["name"] == NODES)
    least, most = role.get("min_vms"), role.get("max_vms")
    needed = status.settings.get("FL_MIN_AVAILABLE_CLIENTS", "")
    if supernodes == status.supernodes:
        raise OneflowerError(f"{status.name} has {supernodes} SuperNodes already.", "", ExitCode.CONFLICT)
    if (least is not None and supernodes < least) or (most is not None and supernodes > most):
        raise OneflowerError(
            f"{status.name} cannot have {supernodes} SuperNodes: it was deployed for {least or 0} to "
            f"{'any number' if most is None else most}.",
            "Choose a number in between, or deploy it again with other --min-vms and --max-vms.",
        )
    if needed.isdigit() and supernodes < int(needed):
        raise OneflowerError(
            f"{status.name} cannot have {supernodes} SuperNodes: each round waits for {needed} "
            "(FL_MIN_AVAILABLE_CLIENTS), so none would ever begin.",
            f"Choose {needed} or more, or deploy it again with a smaller FL_MIN_AVAILABLE_CLIENTS.",
        )


def scaling_bounds(
    cloud: Cloud, supernodes: int, limits: tuple[int | None, int | None], settings: Mapping[str, str]
) -> Bounds:
    """Return the bounds for scaling: `limits` as far as they are given, else those of the service template.

    A federation must not be scaled below what a round needs, so the lower bound follows FL_MIN_AVAILABLE_CLIENTS.
    """
    usual = cloud.surroundings.limits(cloud) if None in limits else (0, 0)
    least, most = (known if given is None else given for given, known in zip(limits, usual, strict=True))
    wanted = settings.get("FL_MIN_AVAILABLE_CLIENTS", "")
    if wanted.isdigit() and least < int(wanted) <= supernodes:
        least = int(wanted)
    return Bounds(least, most, supernodes)
