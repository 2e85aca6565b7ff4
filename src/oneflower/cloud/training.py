"""One run from submission to saved files."""

from __future__ import annotations

import functools
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import httpx

from oneflower.cloud import app_source, apps, attendance, following, results, submission, superlink
from oneflower.cloud.answer import Answer
from oneflower.cloud.app_copy import names_federations
from oneflower.cloud.dependencies import compare
from oneflower.cloud.names import file_name
from oneflower.cloud.packing import Objects, packed
from oneflower.cloud.reports import Machines
from oneflower.events import Note, RunBegan, Step
from oneflower.opennebula import ServiceKind
from oneflower.printable import counted
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.runs import shortcoming
from oneflower_appliance.site_choice import SiteChoice, read_sites
from oneflower_appliance.use_cases import NO_USE_CASE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from oneflower.cloud.following import Observer
    from oneflower.cloud.overrides import Overrides
    from oneflower.cloud.run_result import RunResult
    from oneflower.cloud.status import FederationStatus
    from oneflower.cloud.superlink import SuperLinkClient
    from oneflower.cloud.surroundings import Surroundings


@dataclass(frozen=True)
class Request:
    """What to train: an app by name, folder or objects (None: FL_USE_CASE), what to override, and where to save.

    With `install`, packages that the app needs and the machines lack are installed for it, where that is possible. With
    `ignore_versions`, the app runs with the releases of packages that the machines have. `sites` take part, and each
    round needs `least` different ones; None stands for what the form says.
    """

    app: str | Objects | None
    rounds: int | None
    config: Overrides
    save: Path
    install: bool = False
    ignore_versions: bool = False
    sites: Sequence[str] | None = None
    least: int | None = None

    def __post_init__(self) -> None:
        try:
            read_sites(",".join(self.sites or ()))
        except ValueError as error:
            raise OneflowerError(
                f"{','.join(self.sites or ())!r} is not a list of sites.",
                "Name each only once, and - for the federation's own nodes: `--sites north,south`.",
                ExitCode.USAGE,
            ) from error

    @property
    def chosen(self) -> dict[str, Any] | None:
        """The choice of sites as the SuperLink's API takes it, None if there is none."""
        if self.sites is None and self.least is None:
            return None
        return {"sites": None if self.sites is None else self._names, "least": self.least}

    @property
    def _names(self) -> tuple[str, ...]:
        return read_sites(",".join(self.sites or ()))

    def choice(self, form: Mapping[str, str]) -> SiteChoice:
        """Return which sites take part, by this and by the form."""
        said = SiteChoice.of(form)
        sites = said.sites if self.sites is None else self._names
        return SiteChoice(sites, said.least if self.least is None else self.least)


def train(surroundings: Surroundings, status: FederationStatus, wanted: Request, observer: Observer) -> RunResult:
    """Run an app on a federation to its end and fetch its files. An interrupt stops the run.

    Raises `OneflowerError`.
    """
    with _submitted(surroundings, status, wanted, observer) as (link, run_id, name):
        return finish(link, run_id, name, wanted.save / file_name(status.name), observer)


def submit(surroundings: Surroundings, status: FederationStatus, wanted: Request, observer: Observer) -> str:
    """Start a run of an app on a federation, and return the run's id. Raises `OneflowerError`."""
    with _submitted(surroundings, status, wanted, observer) as (_, run_id, _):
        return run_id


def _opened(
    app: str | Objects | None, surroundings: Surroundings, status: FederationStatus, observer: Observer
) -> AbstractContextManager[str]:
    if isinstance(app, Objects):
        return packed(app, status.version, status.rounds)
    return app_source.opened(
        app or _use_case(status), lambda: _flwr(surroundings, status, observer)[0], observer.notify
    )


@contextmanager
def _submitted(
    surroundings: Surroundings, status: FederationStatus, wanted: Request, observer: Observer
) -> Iterator[tuple[SuperLinkClient, str, str]]:
    """Start a run, and yield the connection to the SuperLink, the id of the run and the name of the app."""
    if status.kind is ServiceKind.SITE:
        status.reachable()  # which says where the runs are
    with (
        _opened(wanted.app, surroundings, status, observer) as folder,
        _sent(surroundings, status, apps.load_app(folder, status.settings), wanted, observer) as (link, run_id, name),
    ):
        yield link, run_id, name


@contextmanager
def _sent(
    surroundings: Surroundings, status: FederationStatus, app: apps.App, wanted: Request, observer: Observer
) -> Iterator[tuple[SuperLinkClient, str, str]]:
    overrides = app.run_config(status.settings, wanted.rounds, wanted.config)
    flwr, packages = _flwr(surroundings, status, observer)
    _provide(surroundings, status, wanted, app, {**packages, **status.packages}, observer)
    with superlink.reach(surroundings, status, flwr, observer.notify) as link:
        choice, nodes = wanted.choice(status.settings), link.nodes()
        for remark in attendance.remarks(status, nodes, choice, overrides):
            observer.notify(Note(remark))
        ignored = ""
        if names_federations(app.folder):
            ignored = f"the federations in the app's pyproject.toml are ignored: it trains on {status.name}."
        for note in filter(
            None, (status.trust.note, status.share, *status.troubles, *map(str, status.releases), ignored)
        ):
            observer.notify(Note(note))
        taking = attendance.number_online(nodes, choice)
        count = taking if choice.sites else status.supernodes or taking
        observer.notify(Step(f"submitting {app.name} to {status.name} ({counted(count, 'SuperNode')})"))
        submitted = Answer(lambda: submission.submit(link, app, overrides, wanted.chosen))
        try:
            run_id = submitted.wait()
        except KeyboardInterrupt:
            _take_back(link, submitted, f"{app.name} on {status.name}", observer)
            raise
        yield link, run_id, app.name


def resume(
    surroundings: Surroundings, status: FederationStatus, run_id: str, save: Path, observer: Observer
) -> RunResult:
    """Resume a run that was stopped, lost or failed, from its last checkpoint to its end. Otherwise as `train`.

    Raises `OneflowerError`.
    """
    flwr, _ = _flwr(surroundings, status, observer)
    with superlink.reach(surroundings, status, flwr, observer.notify) as link:
        before = results.known_run(link, status.name, run_id)
        observer.notify(Note(f"resuming run {run_id} of {before.app} from its last checkpoint if it has one."))
        name = before.app.rpartition("/")[2]
        return finish(link, submission.resume(link, before), name, save / file_name(status.name), observer)


def _provide(
    surroundings: Surroundings,
    status: FederationStatus,
    wanted: Request,
    app: apps.App,
    packages: Mapping[str, str],
    observer: Observer,
) -> None:
    """Make sure that the machines have what an app needs, and install it if that was asked for."""
    needs = functools.partial(surroundings.needs, status)
    compared = compare(app.declaration.dependencies, packages, needs)
    if not wanted.ignore_versions:
        compared.refuse_conflicts(app.name, status.name)
    if not compared.missing:
        return
    own = surroundings.app_packages(status, app.folder, app.declaration)
    left = compare(compared.missing, own)
    if left.missing and wanted.install:
        observer.notify(Step(f"installing {', '.join(left.missing)} for {app.name}, once"))
        surroundings.install(status, app.folder, app.declaration, compared.missing)
        return
    left.refuse_missing(app.name, status.name, surroundings.remedy())


def _flwr(surroundings: Surroundings, status: FederationStatus, observer: Observer) -> tuple[Path, Mapping[str, str]]:
    return surroundings.flwr(status.version, status.framework, lambda text: observer.notify(Step(text)))


def finish(link: SuperLinkClient, run_id: str, app: str, save: Path, observer: Observer) -> RunResult:
    """Follow a run of `app` to its end and save its files in the folder `save`-RUN. An interrupt stops the run.

    Raises `OneflowerError`.
    """
    try:
        observer.notify(RunBegan(run_id, _hash_of_app(link, run_id)))
        results.prepare()
        run_id = following.follow(link, run_id, _with_names(link, observer))
    except KeyboardInterrupt:
        _stop(link, run_id, observer)
        raise
    observer = _with_names(link, observer)
    places = results.Places.within(save.with_name(f"{save.name}-{run_id}"))
    result = results.collect(link, run_id, app, places, Machines(observer.names, observer.partitions))
    if wrong := shortcoming(result.rows):
        raise OneflowerError(
            f"Run {run_id} has not done all that it was asked for. {wrong}",
            f"What there is was saved in {places.more}. Fix the evaluation in the ClientApp, or switch it off "
            "(fraction_evaluate=0).",
            ExitCode.RUN_FAILED,
        )
    return result


def _with_names(link: SuperLinkClient, observer: Observer) -> Observer:
    """Return it with the names of nodes that have joined since its names were published."""
    with suppress(OneflowerError, httpx.HTTPError):  # then they are shown by their ids
        found = {node.id: node.name for node in link.nodes() if node.name}
        return replace(observer, names={**observer.names, **found})
    return observer


def _hash_of_app(link: SuperLinkClient, run_id: str) -> str:
    with suppress(httpx.HTTPError):  # the run is followed all the same
        return link.run(run_id).app_hash
    return ""


def _take_back(link: SuperLinkClient, submitted: Answer[str], what: str, observer: Observer) -> None:
    """Stop the run that is being submitted: Flower has the app, and will report the run's id in a moment."""
    observer.notify(Step("interrupted: waiting for Flower to say which run it started, to stop it"))
    try:
        run_id = submitted.wait()
    except OneflowerError as error:
        observer.notify(Note(f"no run was started. {error.message}"))
    except KeyboardInterrupt:
        observer.notify(Note(f"a run of {what} may have been started; `oneflower show` tells."))
        raise
    else:
        _stop(link, run_id, observer)


def _stop(link: SuperLinkClient, run_id: str, observer: Observer) -> None:
    """Stop a run, or the run that resumed it. The outcome is reported; only another interrupt is raised."""
    observer.notify(Step(f"stopping run {run_id}"))
    try:
        with suppress(httpx.HTTPError):
            run_id = following.last_of(link, run_id)
        link.stop(run_id)
    except OneflowerError as error:
        observer.notify(Note(f"run {run_id} may still be running: {error.message}"))
    except KeyboardInterrupt:
        observer.notify(Note(f"run {run_id} may still be running: stopping it was interrupted."))
        raise
    else:
        observer.notify(Note(f"run {run_id} is stopped."))


def _use_case(status: FederationStatus) -> str:
    name = status.settings.get("FL_USE_CASE", NO_USE_CASE)
    if name == NO_USE_CASE:
        raise OneflowerError(
            f"There is no app to train on {status.name}: it was deployed without a use case (FL_USE_CASE).",
            "Name an app: `oneflower run image-classification`, or the folder of your own.",
            ExitCode.USAGE,
        )
    return name
