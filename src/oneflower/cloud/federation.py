"""The life of one federation, for programs and notebooks and for the command line.

    with Federation.deploy(cloud, supernodes=4, settings={"FL_NUM_ROUNDS": "5"}) as federation:
        result = federation.run("image-classification")
        print(result.rows[-1].accuracy)

Leaving the block removes it.
"""

from __future__ import annotations

import secrets
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Self

from oneflower.cloud import (
    deletion,
    deployment,
    following,
    notebook,
    packing,
    reports,
    results,
    superlink,
    training,
    waiting,
)
from oneflower.cloud.app_output import Shown
from oneflower.cloud.audit import audited, read_own, read_superlinks
from oneflower.cloud.following import Observer
from oneflower.cloud.logs import Wanted, follow_logs, read_logs
from oneflower.cloud.names import check_name
from oneflower.cloud.reports import Machines
from oneflower.cloud.scaling import leaving, scaling_bounds
from oneflower.cloud.service import Service
from oneflower.events import Note, RunBegan, StepEnded, ignore
from oneflower.opennebula import NODES
from oneflower.opennebula.states import ServiceState
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from types import TracebackType

    from oneflower.cloud.client import Cloud
    from oneflower.cloud.logs import LogLine, Logs
    from oneflower.cloud.overrides import Overrides
    from oneflower.cloud.results import RunResult
    from oneflower.cloud.status import FederationStatus, VmStatus
    from oneflower.cloud.surroundings import Installed
    from oneflower.cloud.waiting import Watch
    from oneflower.events import Event, Notify
    from oneflower_appliance.audit import Verdict
    from oneflower_appliance.node_reports import NodeReport
    from oneflower_appliance.progress import RunProgress
    from oneflower_appliance.run_state import RunState
    from oneflower_appliance.runs import RunRow
    from oneflower_appliance.settings import Bounds


class Federation:
    """A deployed federation, by the id of its service. As a context manager it removes itself at the end."""

    def __init__(self, cloud: Cloud, number: int, name: str) -> None:
        self.cloud = cloud
        self.id = number
        self.name = name
        self.service = Service(cloud, number, name)

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
        for service in Service.all(cloud):
            yield cls(cloud, service.id, service.name)

    @classmethod
    def check(
        cls,
        cloud: Cloud,
        supernodes: int = 2,
        settings: Mapping[str, str] | None = None,
        name: str | None = None,
        limits: tuple[int | None, int | None] = (None, None),
    ) -> tuple[str, ...]:
        """Check what `deploy` would be asked for, and start nothing. Returns what a person should know about it.

        Raises `OneflowerError`, with every setting that is not valid.
        """
        given = dict(settings or {})
        bounds = scaling_bounds(cloud, supernodes, limits, given)
        return deployment.check(cloud, name, given, bounds).remarks

    @classmethod
    def defaults(cls, cloud: Cloud) -> dict[str, str]:
        """Return the value that each variable has unless it is set: those of the service template."""
        return deployment.defaults(cloud)

    @classmethod
    def begin(
        cls,
        cloud: Cloud,
        name: str,
        settings: Mapping[str, str],
        bounds: Bounds,
        notify: Notify = ignore,
    ) -> Federation:
        """Check everything, prepare, then ask the cloud for a federation. `wait_ready` waits for it.

        Raises `OneflowerError`, and leaves nothing behind, when a setting is wrong or the name is taken.
        """
        with _deploying(cloud, name, bounds.cardinality, settings) as said:
            federation = cls._begin(cloud, name, settings, bounds, notify)
            said["service"] = str(federation.id)
        return federation

    @classmethod
    def _begin(cls, cloud: Cloud, name: str, settings: Mapping[str, str], bounds: Bounds, notify: Notify) -> Federation:
        service = deployment.begin(cloud, name, settings, bounds, notify)
        return cls(cloud, service.id, service.name)

    @classmethod
    def deploy(  # noqa: PLR0913 - all but the first may be left out
        cls,
        cloud: Cloud,
        supernodes: int = 2,
        settings: Mapping[str, str] | None = None,
        name: str | None = None,
        *,
        limits: tuple[int | None, int | None] = (None, None),
        timeout: float = 600,
        watch: Watch = ignore,
        notify: Notify = ignore,
        keep: bool = False,
    ) -> Federation:
        """Deploy a federation and wait until all of its machines are ready.

        `watch` receives every status on the way, and `notify` what is being done (`oneflower.events`).
        `supernodes` may later be scaled within `limits`, by default those of the service template. If it fails or is
        interrupted, everything is removed again, unless `keep`. Raises `OneflowerError`.
        """
        given = dict(settings or {})
        chosen = check_name(f"federation-{secrets.token_hex(2)}" if name is None else name)
        with _deploying(cloud, chosen, supernodes, given) as said:
            federation = cls._deploy(cloud, chosen, supernodes, given, limits, timeout, watch, notify, keep=keep)
            said["service"] = str(federation.id)
        return federation

    @classmethod
    def _deploy(  # noqa: PLR0913 - what `deploy` has
        cls,
        cloud: Cloud,
        name: str,
        supernodes: int,
        settings: dict[str, str],
        limits: tuple[int | None, int | None],
        timeout: float,
        watch: Watch,
        notify: Notify,
        *,
        keep: bool,
    ) -> Federation:
        bounds = scaling_bounds(cloud, supernodes, limits, settings)
        federation = cls._begin(cloud, name, settings, bounds, notify)
        try:
            federation.wait_ready(timeout, watch)
        except BaseException as error:
            if keep:
                notify(StepEnded(well=False))
                look, remove = f"oneflower logs {name}", f"oneflower down {name}"
                notify(Note(f"{name} is left as it is. Look with `{look}`; remove it with `{remove}`."))
            elif left := deployment.give_up(federation.service, notify):
                error.add_note(left)
            raise
        return federation

    # -- looking -----------------------------------------------------------------------------------------------------

    def status(self) -> FederationStatus:
        """Return its status now. Raises `OneflowerError` when it is gone."""
        return self.service.status()

    def installed(self, status: FederationStatus) -> Installed:
        """Return the packages that its machines have, without those that they publish themselves."""
        return self.cloud.surroundings.installed(status)

    def logs(
        self, lines: int | None = 40, vm: str | None = None, *, run: str | None = None, since: float = 0.0
    ) -> Logs:
        """Return what it reports, with the last `lines` of each console (None: all).

        `vm` (name, id or node id) chooses one machine, `run` the lines of one run, and `since` those from a time on, in
        seconds of the epoch. Raises `OneflowerError` when there is no such machine or run.
        """
        return read_logs(self.service, Wanted(lines, vm, run, since))

    @property
    def keeps_consoles(self) -> bool:
        """Whether its cloud keeps what machines write to their consoles."""
        return self.cloud.surroundings.tail(0) is not None

    def follow_logs(
        self, lines: int | None = 40, vm: str | None = None, *, run: str | None = None, since: float = 0.0
    ) -> Iterator[LogLine]:
        """Yield what it reports, as `logs`, and then each new line, until it is gone."""
        return follow_logs(self.service, Wanted(lines, vm, run, since))

    def wait_ready(self, timeout: float = 600, watch: Watch = ignore, grace: float = 0) -> FederationStatus:
        """Wait until it is running and every machine is ready; `watch` receives every status on the way.

        Raises `OneflowerError` when the federation fails (and has not recovered after `grace` seconds), is deleted
        meanwhile, or after `timeout` seconds.
        """
        with self.cloud.patient():
            return waiting.wait_ready(waiting.changes(self.service), timeout, watch, grace)

    # -- training ----------------------------------------------------------------------------------------------------

    def run(  # noqa: PLR0913 - all may be left out
        self,
        app: str | None = None,
        rounds: int | None = None,
        config: Overrides | None = None,
        save: Path = Path("oneflower-results"),
        *,
        server_app: object = None,
        client_app: object = None,
        install: bool = False,
        ignore_versions: bool = False,
        on_row: Callable[[RunRow], None] | None = None,
        on_log: Callable[[str], None] = ignore,
        notify: Notify | None = None,
        shown: Shown = Shown.NOTHING,
    ) -> RunResult:
        """Train an app to its end, and save its results.

        `app` is a folder, a bundle (.fab), the name of an app on Flower Hub (@account/app) or of a pre-built one; None
        stands for FL_USE_CASE. `config` overrides the app's run config: a mapping, or texts as `flwr run --run-config`
        takes them. With `install`, packages that the machines lack are installed for it, on the local cloud. With
        `ignore_versions`, it runs with the releases of packages that the machines have.

        Instead of `app`, `server_app` and `client_app` may be objects of this notebook or script; then the mapping
        `config` and num-server-rounds are the whole run config.

        `on_row` receives every round, `on_log` the app's log, `notify` what is being done. A notebook shows rows and
        steps if both are None. An interrupt stops the run. `shown` is what a person sees of the log as it comes: the
        error of a run that fails does not repeat it. Raises `OneflowerError`.
        """
        status = self.status()
        chosen = packing.choose(app, server_app, client_app, config or {})
        wanted = training.Request(chosen, rounds, config or {}, save, install, ignore_versions)
        row, step = notebook.observers(on_row, notify)
        with self._audited("run", app=chosen if isinstance(chosen, str) else "objects of a notebook") as said:
            watched = _noting(said, step)
            observer = Observer(row, on_log, watched, status.names, self._superlink, shown, status.partitions)
            return training.train(self.cloud.surroundings, status, wanted, observer)

    def submit(
        self,
        app: str | None = None,
        rounds: int | None = None,
        config: Overrides | None = None,
        *,
        install: bool = False,
        notify: Notify = ignore,
    ) -> str:
        """Start to train an app, and return the id of the run, which then needs nobody. Otherwise as `run`."""
        status = self.status()
        wanted = training.Request(app, rounds, config or {}, Path(), install)
        observer = Observer(ignore, ignore, notify, status.names, self._superlink)
        with self._audited("run", app=app or "") as said:
            said["run"] = training.submit(self.cloud.surroundings, status, wanted, observer)
            return said["run"]

    def runs(self) -> tuple[RunState, ...]:
        """Return all its runs, oldest first. Raises `OneflowerError`."""
        with superlink.reach(self.cloud.surroundings, self.status()) as link:
            return tuple(link.runs())

    def follow(
        self,
        run: str,
        *,
        on_row: Callable[[RunRow], None] = ignore,
        on_reports: Callable[[list[NodeReport]], None] | None = None,
        on_log: Callable[[str], None] = ignore,
        notify: Notify = ignore,
    ) -> str:
        """Follow a run to its end, no matter who started it. Returns the id of the last one, if it was resumed.

        `on_row` receives every round from the first on, `on_reports` what each node did in it, `on_log` the app's log,
        `notify` what happens. Raises `OneflowerError` with the app's own reason when the run fails.
        """
        status = self.status()
        observer = Observer(
            on_row, on_log, notify, status.names, self._superlink, partitions=status.partitions, reports=on_reports
        )
        with superlink.reach(self.cloud.surroundings, status, notify=notify) as link:
            return following.follow(link, results.known_run(link, self.name, run).id, observer)

    def stop(self, run: str) -> None:
        """Stop a run, or the run that resumed it. Raises `OneflowerError`."""
        status = self.status()
        with (
            self._audited("stop", hindered=False, run=run),
            superlink.reach(self.cloud.surroundings, status) as link,
        ):
            link.stop(following.last_of(link, results.known_run(link, self.name, run).id))

    def resume(
        self,
        run: str,
        save: Path = Path("oneflower-results"),
        *,
        on_row: Callable[[RunRow], None] | None = None,
        on_log: Callable[[str], None] = ignore,
        notify: Notify | None = None,
        shown: Shown = Shown.NOTHING,
    ) -> RunResult:
        """Resume a run that was stopped, lost or failed, from its last checkpoint to its end. Otherwise as `run`."""
        status = self.status()
        row, step = notebook.observers(on_row, notify)
        with self._audited("resume", resumes=run) as said:
            watched = _noting(said, step)
            observer = Observer(row, on_log, watched, status.names, self._superlink, shown, status.partitions)
            return training.resume(self.cloud.surroundings, status, run, save, observer)

    def _superlink(self) -> str:
        """Return what the cloud knows of the SuperLink's machine."""
        if trouble := self.cloud.surroundings.trouble():
            return trouble
        try:
            vm = self.status().superlink
        except OneflowerError as error:
            return error.message
        if vm is None:
            return "its machine is gone"
        more = f" ({vm.error.rstrip('.')})" if vm.error else ""
        return f"its machine, VM {vm.id}, is {vm.state} and {'ready' if vm.ready else 'not ready'}{more}"

    def wait_trained(self, on_row: Callable[[RunRow], None] = ignore) -> RunProgress:
        """Wait for the run that a federation with FL_USE_CASE starts by itself, and return how it ended.

        `on_row` receives the rounds that the SuperLink publishes, often several at a time. An interrupt does not stop
        the run. Raises `OneflowerError` when it fails, or when the federation has failed and does not recover.
        """
        with self.cloud.patient():
            return waiting.wait_trained(waiting.looks(self.service), on_row)

    def reports(self, run: str, after: int = 0) -> list[NodeReport]:
        """Return what each node did in the rounds after round `after` of a run, also of one that is going on.

        Rounds that are not over are left out. Raises `OneflowerError` when there is no such run.
        """
        status = self.status()
        with superlink.reach(self.cloud.surroundings, status) as link:
            results.known_run(link, self.name, run)
            return list(reports.fetch(link, run, after, Machines.of(status)))

    def fetch_model(self, path: Path, run: str | None = None, by: str | None = None) -> RunResult:
        """Save the model of a run (None: the newest with a model) as `path`; metrics, plot and model card beside it.

        It is the model after the last round, or after the best round `by` a metric of the evaluation; an empty text
        stands for the loss, or the accuracy of a run without loss. Raises `OneflowerError`.
        """
        status = self.status()
        with self._audited("fetch a model") as said, superlink.reach(self.cloud.surroundings, status) as link:
            number, app = results.run_with_model(link, self.name, run)
            said.update(run=number, app=app)
            return results.collect(link, number, app, results.Places.beside(path), Machines.of(status), by=by)

    def fetch_files(self, folder: Path, run: str) -> RunResult:
        """Save all that a run has left so far in `folder`, also of one that trains, has failed or was stopped.

        Raises `OneflowerError`.
        """
        status = self.status()
        with superlink.reach(self.cloud.surroundings, status) as link:
            app = results.known_run(link, self.name, run).app.rpartition("/")[2]
            has_model = results.has_model(link, run)
            with self._audited("fetch a model", run=run, app=app) if has_model else nullcontext():
                return results.collect(link, run, app, results.Places.within(folder), Machines.of(status))

    def control(self, status: FederationStatus) -> AbstractContextManager[str]:
        """Yield the address of the Control API, host:port, for plain `flwr`. On OpenNebula that is an SSH tunnel's.

        Raises `OneflowerError` when there is none, and when it may not be the SuperLink's own.
        """
        return superlink.control(self.cloud.surroundings, status)

    def audit(self) -> Verdict | None:
        """Fetch and verify its SuperLink's audit log. None if it keeps none, as an older release.

        Raises `OneflowerError`.
        """
        return read_superlinks(self.cloud, self.status(), read_own(self.cloud))

    def _audited(self, action: str, *, hindered: bool = True, **more: str) -> AbstractContextManager[dict[str, str]]:
        return audited(self.cloud, action, self.name, hindered=hindered, service=str(self.id), **more)

    # -- changing ----------------------------------------------------------------------------------------------------

    def leaving(self, supernodes: int) -> list[VmStatus]:
        """Return the SuperNodes that scaling would remove: the oldest. Raises `OneflowerError` if it cannot be."""
        body = self.service.body()
        return leaving(body, self.service.status(body), supernodes)

    def scale(self, supernodes: int, timeout: float = 600, watch: Watch = ignore) -> FederationStatus:
        """Change the number of SuperNodes, and wait, through OneFlow's cooldown, until all of them are ready.

        Scaling down removes the oldest. Raises `OneflowerError`, and changes nothing, outside of the bounds.
        """
        with self._audited("scale", supernodes=str(supernodes)):
            self.leaving(supernodes)
            self.cloud.oneflow.scale_service(self.id, NODES, supernodes)
            return self.wait_ready(timeout, watch, waiting.HEALING)

    def recover(self, timeout: float = 600, watch: Watch = ignore) -> FederationStatus:
        """Retry what failed, and wait until every machine is ready. Raises `OneflowerError`."""
        status = self.status()
        if status.ready:
            return status
        with self._audited("recover"):
            if status.state not in (ServiceState.RUNNING.name, ServiceState.WARNING.name):
                self.cloud.oneflow.recover_service(self.id)
            return self.wait_ready(timeout, watch, waiting.HEALING)

    def close(self) -> None:
        """Remove it."""
        self.delete()

    def roll_back(self) -> str:
        """Remove it after an error or an interrupt. That is what matters: errors of the removal are not raised.

        Returns what may be left behind and how to remove it, or an empty text; `Cloud.tell` has received the same. A
        second interrupt ends the removal. It is raised after `Cloud.tell` has received what is left.
        """
        with self._audited("remove", hindered=False) as said:
            left = deletion.roll_back(self.service)
            said["why"] = left
            return left

    @property
    def remains(self) -> str:
        """What is left of it in the cloud, by id, and how to remove it by hand."""
        return self.service.remains

    def delete(self, timeout: float = 120) -> None:
        """Undeploy it, whatever its state, and wait until it and every one of its VMs are gone.

        Raises `OneflowerError` after `timeout` seconds.
        """
        with self._audited("remove", hindered=False):
            deletion.delete(self.service, timeout)


def _deploying(
    cloud: Cloud, name: str, supernodes: int, settings: Mapping[str, str]
) -> AbstractContextManager[dict[str, str]]:
    """Record a deployment: of settings, the names."""
    return audited(cloud, "deploy", name, supernodes=str(supernodes), settings=", ".join(sorted(settings)))


def _noting(said: dict[str, str], notify: Notify) -> Notify:
    """Return what receives events and notes, for the audit log, which run of which app began."""

    def watch(event: Event) -> None:
        if isinstance(event, RunBegan):
            said.update(run=event.run, app_hash=event.app_hash)
        notify(event)

    return watch
