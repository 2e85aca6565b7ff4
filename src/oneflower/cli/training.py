"""Commands that train, and that fetch what was trained: `run`, `model`, `connect` and `demo`."""

from __future__ import annotations

import functools
import secrets
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer
from click.core import ParameterSource

from oneflower.cli import screen
from oneflower.cli.federations import Format, Name, Set, Supernodes, Timeout, deploy, remove, settings_of
from oneflower.cli.printed import Printed
from oneflower.cli.rounds import RunTable, show_files
from oneflower.cli.screen import Output
from oneflower.cli.session import Session
from oneflower.cli.steps import Steps, step
from oneflower.events import ignore
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower.cloud import RunResult, RunRow
    from oneflower.tracking import Tracking

TRACK = "ONEFLOWER_TRACK"
Rounds = Annotated[
    int | None, typer.Option("--rounds", "-r", min=1, help="Rounds, if not as many as the federation's.")
]
Folder = Annotated[Path, typer.Option("--save", help="Where results are saved.")]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="TOOL[:PLACE]",
        envvar=TRACK,
        help="Also send the run to mlflow[:URI] or tensorboard[:FOLDER]. Repeatable.",
    ),
]
Register = Annotated[str, typer.Option(metavar="NAME", help="Register the model in MLflow under this name.")]
INSTALL = "ONEFLOWER_INSTALL"
_RESULTS = Path("oneflower-results")


def run(
    app: Annotated[
        str | None,
        typer.Argument(
            metavar="[APP]",
            help="Folder or bundle (.fab) of a Flower app, @account/app of Flower Hub, or a pre-built app.",
        ),
    ] = None,
    federation: Annotated[
        str | None, typer.Option("--federation", "-f", help="Name or id; may be left out when there is one.")
    ] = None,
    rounds: Rounds = None,
    config: Annotated[
        list[str] | None,
        typer.Option(
            "--config",
            "-c",
            metavar="KEY=VALUE|FILE.toml",
            help="Run config of the app, as `flwr run --run-config` takes it. Repeatable; the last value counts.",
        ),
    ] = None,
    sites: Annotated[
        str | None,
        typer.Option(
            "--sites",
            metavar="SITE,...",
            help="Only nodes of these sites take part; - stands for the federation's own.",
        ),
    ] = None,
    min_sites: Annotated[
        int | None,
        typer.Option("--min-sites", min=0, metavar="N", help="Each round needs nodes of N different sites."),
    ] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Resume this run from its last checkpoint.")] = None,
    save: Folder = _RESULTS,
    show_log: Annotated[bool, typer.Option("--log", help="Show all of the app's log as it comes.")] = False,
    install: Annotated[
        bool,
        typer.Option("--install", envvar=INSTALL, help="Install packages that only this app needs (local cloud)."),
    ] = False,
    ignore_versions: Annotated[
        bool,
        typer.Option("--ignore-versions", help="Run the app with the releases of packages that the machines have."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing of what the app prints.")] = False,
    track: Track = None,
    register: Register = "",
    output: Format = Output.TEXT,
) -> None:
    """Train an app on a federation, round by round, and save model, metrics and convergence plot."""
    from oneflower.cloud import Federation  # noqa: PLC0415

    if resume and (app or rounds or config or _is_given("sites", "min_sites", "install", "ignore_versions")):
        raise OneflowerError(
            "A resumed run keeps its app, its settings, its sites and its packages.",
            "Leave out APP, --rounds, --config, --sites, --min-sites, --install and --ignore-versions, or --resume.",
            ExitCode.USAGE,
        )
    if show_log and quiet:
        raise OneflowerError("--log and --quiet exclude each other.", "Leave out one of them.", ExitCode.USAGE)
    found = Federation.find(Session.cloud(), federation)
    if resume:
        wanted = functools.partial(found.resume, resume, save)
    else:
        wanted = functools.partial(
            found.run, app, rounds, config or (), save, install=install, ignore_versions=ignore_versions,
            sites=None if sites is None else sites.split(","), min_sites=min_sites,
        )  # fmt: skip
    with tracking_to(track, register, found.name) as tracking:
        result, table = _observed(tracking.during(wanted), output, log=show_log, quiet=quiet)
    if output is Output.JSON:
        screen.show_json(result)
        return
    _summary(result, table)


def tracking_to(places: list[str] | None, register: str, federation: str) -> Tracking:
    """Open the tools to which a run is to be sent, before it begins."""
    from oneflower.tracking import Tracking  # noqa: PLC0415 - costs time that --help need not spend

    return Tracking.to(
        *(places or ()), federation=federation, register=register, notify=lambda event: screen.say(str(event))
    )


def _is_given(*options: str) -> bool:
    """Whether one of these options of the command is on its command line. A variable sets them for all commands."""
    context = click.get_current_context()
    return any(context.get_parameter_source(option) is ParameterSource.COMMANDLINE for option in options)


def _summary(result: RunResult, table: RunTable) -> None:
    if curve := table.curve():
        screen.show(curve)
    show_files(result)


def model(
    name: Name = None,
    file: Annotated[Path, typer.Option("--save", metavar="FILE", help="What to save the model as.")] = Path(
        "model.npz"
    ),
    run_id: Annotated[
        str | None,
        typer.Option(
            "--run", help="Of this run. Otherwise the result that the schedule accepted last, or the newest model."
        ),
    ] = None,
    best: Annotated[bool, typer.Option("--best", help="The model of the best round, instead of the last.")] = False,
    metric: Annotated[
        str | None, typer.Option("--metric", metavar="NAME", help="Best by which metric, if not the loss.")
    ] = None,
    track: Track = None,
    register: Register = "",
    output: Format = Output.TEXT,
) -> None:
    """Fetch the trained model, with its metrics, convergence plot and model card beside it."""
    from oneflower.cloud import Federation  # noqa: PLC0415

    if metric is not None and not best:
        raise OneflowerError("--metric says by what the best round is chosen.", "Add `--best`.", ExitCode.USAGE)

    if file.is_dir():
        raise OneflowerError(f"{file} is a folder.", f"Name a file: `--save {file / 'model.npz'}`.", ExitCode.USAGE)
    federation = Federation.find(Session.cloud(), name)
    with step(f"fetching the model of {federation.name}"):
        result = federation.fetch_model(file, run_id, (metric or "") if best else None)
    if result.damage:
        screen.warn(result.damage)
    if track or register:
        with step("sending it to be tracked"), tracking_to(track, register, federation.name) as tracking:
            tracking.send(result)
    if output is Output.JSON:
        screen.show_json(result)
    else:
        show_files(result)


def _observed(
    train: Callable[..., RunResult], output: Output, *, log: bool = False, quiet: bool = False
) -> tuple[RunResult, RunTable]:
    """Train to the end, and show the progress and what the app prints. Ctrl-C stops the run.

    For a program that reads the output as JSON there is no line about what the run does in between.
    """
    from oneflower.cloud.app_output import Shown  # noqa: PLC0415

    table, printed = RunTable(), Printed()
    shown = Shown.ALL if log else Shown.NOTHING if quiet else Shown.PRINTED
    show: Callable[[str], None] = {Shown.ALL: _show_log, Shown.PRINTED: printed.add}.get(shown, ignore)

    def end_round(row: RunRow) -> None:
        printed.end_round()
        table.add(row)

    with Steps(table.living if output is Output.TEXT else None) as steps:
        try:
            result = train(on_row=end_round, on_log=show, notify=steps.notify, shown=shown)
        except BaseException:
            printed.end(failed=True)
            raise
        printed.end(failed=False)
    return result, table


def _show_log(text: str) -> None:
    screen.say(text.removesuffix("\n"))


def connect(
    name: Annotated[str | None, typer.Argument(help="Name or id of the federation.")] = None,
    output: Format = Output.TEXT,
) -> None:
    """Print what plain `flwr` needs to reach a federation's SuperLink; on OpenNebula, keep an SSH tunnel open to it."""
    from oneflower.cli.connections import forget_gone, keep_ca  # noqa: PLC0415
    from oneflower.cloud import Federation  # noqa: PLC0415
    from oneflower.cloud.superlink import connection  # noqa: PLC0415

    federation = Federation.find(Session.cloud(), name)
    status = federation.status()
    if status.trust.note:
        screen.note(status.trust.note)
    with federation.control(status) as address:
        forget_gone(federation.cloud, {found.id for found in Federation.all(federation.cloud)})
        ca = keep_ca(federation.cloud, status)
        settings = {"superlink": status.name, "address": address, "root-certificates": ca}
        text = "# for config.toml in the folder that FLWR_HOME names (~/.flwr)\n" + connection(status.name, address, ca)
        screen.show_result(output, settings, text.rstrip("\n"))
        if not Session.is_local():
            screen.say("The tunnel stays open until Ctrl-C.")
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
            screen.say("The tunnel is closed.")


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
    from oneflower_appliance.settings import Bounds  # noqa: PLC0415

    given = settings_of(settings)
    limits = (min(Bounds().minimum, supernodes), max(Bounds().maximum, supernodes))
    name = f"demo-{secrets.token_hex(2)}"
    federation = deploy(Session.cloud(), name, supernodes, given, limits, timeout, keep=keep)
    try:
        result, table = _observed(functools.partial(federation.run, "image-classification", rounds, {}, save), output)
    finally:
        if not keep:
            remove(federation, f"cleaning up: removing {name}")
    if output is Output.JSON:
        screen.show_json(result)
        return
    _summary(result, table)
    follow_up = f"run ./my-flower-app --federation {name}" if keep else "up"
    screen.show(f"Next: {screen.program()} {follow_up}")
