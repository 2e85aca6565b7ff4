"""Commands that train: `run` and `demo`."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oneflower.cli import screen
from oneflower.cli.federations import Format, Set, Supernodes, Timeout, deploy, pairs, settings_of
from oneflower.cli.screen import Output
from oneflower.cli.session import Session
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from oneflower.cloud import FederationStatus, RunResult

Rounds = Annotated[int | None, typer.Option("--rounds", "-r", min=1, help="Rounds; else what the federation says.")]
Folder = Annotated[Path, typer.Option("--save", help="Where results are saved.")]
_RESULTS = Path("oneflower-results")


def run(
    app: Annotated[
        str | None,
        typer.Argument(metavar="[APP]", help="Folder of a Flower app, or a pre-built one by name; else FL_USE_CASE."),
    ] = None,
    federation: Annotated[
        str | None, typer.Option("--federation", "-f", help="Which; may be left out for one.")
    ] = None,
    rounds: Rounds = None,
    config: Annotated[
        list[str] | None, typer.Option("--config", "-c", metavar="KEY=VALUE", help="Run config of the app. Repeatable.")
    ] = None,
    save: Folder = _RESULTS,
    show_log: Annotated[bool, typer.Option("--log", help="Show the app's own log as it comes.")] = False,
    output: Format = Output.TEXT,
) -> None:
    """Train an app on a federation, round by round, and save model, metrics and convergence plot."""
    from oneflower.cloud import Federation  # noqa: PLC0415

    status = Federation.find(Session.cloud(), federation).status()
    if app is None:
        app = _use_case(status)
    result, table = train(status, app, rounds, pairs(config or (), "--config"), save, show_log=show_log)
    if output is Output.JSON:
        screen.show_json(result)
        return
    _summary(result, table)


def _use_case(status: FederationStatus) -> str:
    name = status.settings.get("FL_USE_CASE", "none")
    if name == "none":
        raise OneflowerError(
            f"What shall {status.name} train? It was deployed without a use case (FL_USE_CASE).",
            "Name an app: `oneflower run image-classification`, or the folder of your own.",
            ExitCode.USAGE,
        )
    return name


def _summary(result: RunResult, table: screen.RunTable) -> None:
    if curve := table.curve():
        screen.show(curve)
    screen.show_files(result.model, result.metrics, result.plot)


def train(
    status: FederationStatus, name: str, rounds: int | None, config: dict[str, str], save: Path, *, show_log: bool
) -> tuple[RunResult, screen.RunTable]:
    """Run an app to its end and fetch what it left. Ctrl-C stops the run."""
    from oneflower.cloud import apps, runs  # noqa: PLC0415

    app = apps.load_app(name, status.settings)
    overrides = app.run_config(status.settings, rounds, config)
    flwr, packages = Session.flwr(status, lambda text: screen.say(f"  {text}"))
    app.check_installed(packages, status.name)
    door = runs.SuperLinkDoor.of(status, flwr)
    table = screen.RunTable()
    try:
        needed, online = int(status.settings.get("FL_MIN_AVAILABLE_CLIENTS", 0)), door.nodes_online()
        if online < needed:
            screen.say(f"Note: {online} of {needed} SuperNodes are online; the first round waits for the others.")
        with screen.step(f"submitting {app.name} to {status.name} ({status.supernodes} SuperNodes)"):
            run_id = runs.submit(door, app, overrides)
        try:
            screen.say(f"  run {run_id}")
            runs.follow(door, run_id, table.add, screen.say if show_log else lambda _: None)
        except KeyboardInterrupt:
            with screen.step(f"stopping run {run_id}"):
                runs.stop(door, run_id)
            raise
        folder = save / f"{status.name}-{run_id}"
        return runs.collect(door, run_id, app, folder), table
    finally:
        door.close()


def demo(
    supernodes: Supernodes = 2,
    rounds: Rounds = None,
    settings: Set = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the federation running at the end.")] = False,
    save: Folder = _RESULTS,
    timeout: Timeout = 600,
    output: Format = Output.TEXT,
) -> None:
    """Do the whole job on this machine: deploy, train on real data over TLS, show the curve, save, clean up."""
    from oneflower_appliance.parameters import Bounds  # noqa: PLC0415

    given = settings_of(settings)
    limits = (min(Bounds().minimum, supernodes), max(Bounds().maximum, supernodes))
    name = f"demo-{secrets.token_hex(2)}"
    federation, status = deploy(name, supernodes, given, limits, timeout, keep=keep)
    try:
        result, table = train(status, "image-classification", rounds, {}, save, show_log=False)
    finally:
        if not keep:
            with screen.step(f"cleaning up: removing {name}"):
                federation.delete()
    if output is Output.JSON:
        screen.show_json(result)
        return
    _summary(result, table)
    follow_up = f"oneflower run ./my-flower-app --federation {name}" if keep else "oneflower up"
    screen.show(f"Next: {follow_up}")
