"""The runs of one federation: what it trains, and what is known of its runs."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower.cloud import (
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
from oneflower.cloud.reports import Machines
from oneflower.events import Note, RunBegan, ignore
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from oneflower.cloud.client import Cloud
    from oneflower.cloud.overrides import Overrides
    from oneflower.cloud.run_result import RunResult
    from oneflower.cloud.service import Service
    from oneflower.cloud.status import FederationStatus
    from oneflower.events import Event, Notify
    from oneflower_appliance.audit import Verdict
    from oneflower_appliance.node_reports import NodeReport
    from oneflower_appliance.progress import RunProgress
    from oneflower_appliance.run_state import RunState
    from oneflower_appliance.runs import RunRow


class Runs:
    """What a federation does with its SuperLink. `Federation` has this, and the rest of its life."""

    cloud: Cloud
    name: str
    service: Service

    def status(self) -> FederationStatus:
        """Return its status now. Raises `OneflowerError` when it is gone."""
        return self.service.status()

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
        sites: Sequence[str] | None = None,
        min_sites: int | None = None,
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

        Only nodes of `sites` take part, where "-" stands for the federation's own, and each round needs nodes of
        `min_sites` different ones. What is None is as the form says (FL_SITES, FL_MIN_SITES).

        Instead of `app`, `server_app` and `client_app` may be objects of this notebook or script; then the mapping
        `config` and num-server-rounds are the whole run config.

        `on_row` receives every round, `on_log` the app's log, `notify` what is being done. A notebook shows rows and
        steps if both are None. An interrupt stops the run. `shown` is what a person sees of the log as it comes: the
        error of a run that fails does not repeat it. Raises `OneflowerError`.
        """
        status = self.status()
        chosen = packing.choose(app, server_app, client_app, config or {})
        wanted = training.Request(chosen, rounds, config or {}, save, install, ignore_versions, sites, min_sites)
        row, step = notebook.observers(on_row, notify)
        what = chosen if isinstance(chosen, str) else "objects of a notebook"
        with self._audited("run", app=what, sites=", ".join(sites or ())) as said:
            watched = _noting(said, step)
            observer = Observer(
                row, on_log, watched, status.names, self._superlink, shown, status.partitions, ca=self._ca
            )
            return training.train(self.cloud.surroundings, status, wanted, observer)

    def submit(
        self,
        app: str | None = None,
        rounds: int | None = None,
        config: Overrides | None = None,
        *,
        install: bool = False,
        sites: Sequence[str] | None = None,
        min_sites: int | None = None,
        notify: Notify = ignore,
    ) -> str:
        """Start to train an app, and return the id of the run, which then needs nobody. Otherwise as `run`."""
        status = self.status()
        wanted = training.Request(app, rounds, config or {}, Path(), install, sites=sites, least=min_sites)
        observer = Observer(ignore, ignore, notify, status.names, self._superlink)
        with self._audited("run", app=app or "", sites=", ".join(sites or ())) as said:
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
            on_row,
            on_log,
            notify,
            status.names,
            self._superlink,
            partitions=status.partitions,
            reports=on_reports,
            ca=self._ca,
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
            observer = Observer(
                row, on_log, watched, status.names, self._superlink, shown, status.partitions, ca=self._ca
            )
            return training.resume(self.cloud.surroundings, status, run, save, observer)

    def _ca(self) -> str:
        """Return the CA that the SuperLink has by now, in PEM; empty if that is not known."""
        try:
            status = self.status()
            status.trust.check()
        except OneflowerError:
            return ""
        return status.ca

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

    def wait_trained(self, on_row: Callable[[RunRow], None] = ignore, notify: Notify | None = None) -> RunProgress:
        """Wait for the run that a federation with FL_USE_CASE starts by itself, and return how it ended.

        `on_row` receives the rounds that the SuperLink publishes, often several at a time. With `notify`, the SuperLink
        itself is asked, if it can be reached: then rounds come as they end, and `notify` receives what the run does in
        between. An interrupt does not stop the run. Raises `OneflowerError` when it fails, or when the federation has
        failed and does not recover.
        """
        told: set[int] = set()

        def tell(row: RunRow) -> None:
            if row.round not in told:
                told.add(row.round)
                on_row(row)

        with self.cloud.patient():
            if notify and (run := waiting.wait_begun(waiting.looks(self.service))):
                notify(RunBegan(run))
                self._watch(run, tell, notify)
            return waiting.wait_trained(waiting.looks(self.service), tell)

    def _watch(self, run: str, on_row: Callable[[RunRow], None], notify: Notify) -> None:
        """Follow a run to its end, or as far as the SuperLink can be reached. What it publishes says how it ended."""
        try:
            self.follow(run, on_row=on_row, notify=notify)
        except OneflowerError as error:
            if error.code is not ExitCode.RUN_FAILED:
                notify(Note(f"what the run does between rounds is not shown: {error.message}"))

    def reports(self, run: str, after: int = 0) -> list[NodeReport]:
        """Return what each node did in the rounds after round `after` of a run, also of one that is going on.

        Rounds that are not over are left out. Raises `OneflowerError` when there is no such run.
        """
        status = self.status()
        with superlink.reach(self.cloud.surroundings, status) as link:
            results.known_run(link, self.name, run)
            return list(reports.fetch(link, run, after, Machines.of(status)))

    def fetch_model(self, path: Path, run: str | None = None, by: str | None = None) -> RunResult:
        """Save the model of a run as `path`; metrics, plot and model card beside it.

        Without `run` it is the model of the federation: that of its schedule, otherwise of the newest run with a model.
        It is the model after the last round, or after the best round `by` a metric of the evaluation; an empty text
        stands for the loss, or the accuracy of a run without loss. Raises `OneflowerError`.
        """
        status = self.status()
        with self._audited("fetch a model") as said, superlink.reach(self.cloud.surroundings, status) as link:
            scheduled = bool(status.settings.get("FL_SCHEDULE"))
            number, app = results.run_with_model(link, self.name, run, scheduled=scheduled)
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
        return audited(self.cloud, action, self.name, hindered=hindered, service=str(self.service.id), **more)


def _noting(said: dict[str, str], notify: Notify) -> Notify:
    """Return what receives events and notes, for the audit log, which run of which app began."""

    def watch(event: Event) -> None:
        if isinstance(event, RunBegan):
            said.update(run=event.run, app_hash=event.app_hash)
        notify(event)

    return watch
