"""One run from submission to saved files."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from oneflower.cloud import apps, results, runs
from oneflower.cloud.answer import Answer
from oneflower.cloud.names import file_name
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.runs import shortcoming
from oneflower_appliance.use_cases import NO_USE_CASE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from oneflower.cloud.status import FederationStatus
    from oneflower.cloud.surroundings import Surroundings


@dataclass(frozen=True)
class Request:
    """What to train: an app by name or folder (None: FL_USE_CASE), what to override, and where to save."""

    app: str | None
    rounds: int | None
    config: Mapping[str, str]
    save: Path


def train(
    surroundings: Surroundings, status: FederationStatus, wanted: Request, observer: runs.Observer
) -> results.RunResult:
    """Run an app on a federation to its end and fetch what it left. An interrupt stops the run.

    Raises `OneflowerError`.
    """
    app = apps.load_app(wanted.app or _use_case(status), status.settings)
    overrides = app.run_config(status.settings, wanted.rounds, wanted.config)
    flwr, packages = surroundings.flwr(status.version, status.settings.get("ML_FRAMEWORK", "sklearn"), observer.doing)
    app.check_installed(packages, status.name)
    with runs.open_door(surroundings, status, flwr, observer.doing) as door:
        needed, online = int(status.settings.get("FL_MIN_AVAILABLE_CLIENTS", 0)), door.nodes_online()
        if online < needed:
            observer.doing(f"Note: {online} of {needed} SuperNodes are online; the first round waits for the others.")
        for note in filter(None, (status.trust.note, status.share)):
            observer.doing(f"Note: {note}")
        observer.doing(f"submitting {app.name} to {status.name} ({status.supernodes} SuperNodes)")
        submitted = Answer(lambda: runs.submit(door, app, overrides))
        try:
            run_id = submitted.wait()
        except KeyboardInterrupt:
            _take_back(door, submitted, f"{app.name} on {status.name}", observer)
            raise
        return _to_its_end(door, run_id, app.name, wanted.save / file_name(status.name), observer)


def resume(
    surroundings: Surroundings, status: FederationStatus, run_id: str, save: Path, observer: runs.Observer
) -> results.RunResult:
    """Have a run that was stopped, lost or failed go on from its last checkpoint, to its end; as `train` else.

    Raises `OneflowerError`.
    """
    flwr, _ = surroundings.flwr(status.version, status.settings.get("ML_FRAMEWORK", "sklearn"), observer.doing)
    with runs.open_door(surroundings, status, flwr, observer.doing) as door:
        before = results.known_run(door, status.name, run_id)
        observer.doing(f"Note: going on with run {run_id} of {before['app']}, from its last checkpoint if it has one.")
        name = before["app"].rpartition("/")[2]
        return _to_its_end(door, runs.resume(door, before), name, save / file_name(status.name), observer)


def _to_its_end(
    door: runs.SuperLinkDoor, run_id: str, app: str, save: Path, observer: runs.Observer
) -> results.RunResult:
    try:
        observer.doing(f"run {run_id}")
        run_id = runs.follow(door, run_id, observer)
    except KeyboardInterrupt:
        _stop(door, run_id, observer)
        raise
    places = results.Places.within(save.with_name(f"{save.name}-{run_id}"))
    result = results.collect(door, run_id, app, places, observer.names)
    if wrong := shortcoming(result.rows):
        raise OneflowerError(
            f"Run {run_id} has not done all that it was asked for. {wrong}",
            f"What there is was saved in {places.more}. Fix the evaluation in the ClientApp, or switch it off "
            "(fraction_evaluate=0).",
            ExitCode.RUN_FAILED,
        )
    return result


def _take_back(door: runs.SuperLinkDoor, submitted: Answer[str], what: str, observer: runs.Observer) -> None:
    """Stop the run that is being submitted: Flower has the app, and says in a moment which run it is."""
    observer.doing("interrupted: waiting for Flower to say which run it started, to stop it")
    try:
        run_id = submitted.wait()
    except OneflowerError as error:
        observer.doing(f"Note: no run was started. {error.message}")
    except KeyboardInterrupt:
        observer.doing(f"Note: a run of {what} may have been started; `oneflower show` tells.")
        raise
    else:
        _stop(door, run_id, observer)


def _stop(door: runs.SuperLinkDoor, run_id: str, observer: runs.Observer) -> None:
    """Stop a run, or that which took its place. What becomes of it is told; only another interrupt is raised."""
    observer.doing(f"stopping run {run_id}")
    try:
        with suppress(httpx.HTTPError):
            run_id = runs.last_of(door, run_id)
        door.stop(run_id)
    except OneflowerError as error:
        observer.doing(f"Note: run {run_id} may go on: {error.message}")
    except KeyboardInterrupt:
        observer.doing(f"Note: run {run_id} may go on: stopping it was interrupted.")
        raise
    else:
        observer.doing(f"Note: run {run_id} is stopped.")


def _use_case(status: FederationStatus) -> str:
    name = status.settings.get("FL_USE_CASE", NO_USE_CASE)
    if name == NO_USE_CASE:
        raise OneflowerError(
            f"What shall {status.name} train? It was deployed without a use case (FL_USE_CASE).",
            "Name an app: `oneflower run image-classification`, or the folder of your own.",
            ExitCode.USAGE,
        )
    return name
