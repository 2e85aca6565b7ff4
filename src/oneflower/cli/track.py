"""The command `track`: sends runs to MLflow and TensorBoard at any time, no matter who started them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oneflower.cli import screen
from oneflower.cli.screen import Output
from oneflower.cli.session import Session
from oneflower.cli.steps import step
from oneflower.cli.training import TRACK, Register, tracking_to
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oneflower.cloud import Federation
    from oneflower_appliance.run_state import RunState


def track(
    name: Annotated[
        str | None, typer.Argument(help="Name or id of the federation; may be left out when there is one.")
    ] = None,
    run_id: Annotated[
        list[str] | None, typer.Option("--run", metavar="RUN", help="Only this run, by its id. Repeatable.")
    ] = None,
    places: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="TOOL[:PLACE]", envvar=TRACK, help="Where: mlflow[:URI], tensorboard[:FOLDER]."),
    ] = None,
    register: Register = "",
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")] = Output.TEXT,
) -> None:
    """Send a federation's runs to MLflow or TensorBoard, also those that the form or another person started.

    It sends every run that the SuperLink keeps, as far as it is: also one that trains, has failed or was stopped. Send
    them again at any time: what is there is brought up to date, and nothing is there twice.
    """
    from oneflower.cloud import Federation  # noqa: PLC0415 - as everything of the client

    federation = Federation.find(Session.cloud(), name)
    runs = _chosen(federation, run_id or ())
    if register and len(runs) != 1:
        raise OneflowerError(
            f"A model is registered for one run, and {federation.name} has {len(runs)}.",
            "Say which one with --run.",
            ExitCode.USAGE,
        )
    sent = []
    with tracking_to(places or ["mlflow"], register, federation.name) as tracking:
        for run in runs:
            with step(f"sending run {run.id}"), tempfile.TemporaryDirectory() as folder:
                tracking.send(federation.fetch_files(Path(folder), run.id), run.outcome)
            sent.append({"run": run.id, "app": run.app, "status": run.outcome, "not_sent_to": tracking.incomplete[:]})
    if output is Output.JSON:
        screen.show_json(sent)
    if tracking.incomplete:
        raise OneflowerError(
            f"Not everything could be sent to {' and '.join(dict.fromkeys(tracking.incomplete))}.",
            "The reason is above. What was sent stays; run the command again.",
            ExitCode.ENVIRONMENT,
        )
    if output is Output.TEXT:
        screen.show(f"Sent {len(runs)} {'run' if len(runs) == 1 else 'runs'} of {federation.name}.")


def _chosen(federation: Federation, wanted: Sequence[str]) -> list[RunState]:
    """Return the runs to send. One that was lost is a part of the run that resumed it."""
    known = federation.runs()
    if missing := [run for run in wanted if run not in {each.id for each in known}]:
        raise OneflowerError(
            f"{federation.name} has no run {missing[0]}.",
            f"It has: {', '.join(each.id for each in known) or 'none'}.",
            ExitCode.NOT_FOUND,
        )
    return [run for run in known if (run.id in wanted if wanted else not run.resumed_as)]
