"""Commands over metrics: `oneflower metrics render`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oneflower.cli import screen
from oneflower.cli.screen import Output
from oneflower.cli.session import Session
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from oneflower.cloud import FederationStatus
    from oneflower.monitoring import Target

metrics = typer.Typer(
    help="Prometheus and Grafana: what machines export, on graphs and in alerts.", no_args_is_help=True
)

_DURATION = re.compile(r"[1-9]\d{0,5}[smhd]")


@metrics.callback()
def _metrics() -> None:
    """Prometheus and Grafana: what machines export, on graphs and in alerts."""


@metrics.command()
def render(
    name: Annotated[
        str | None, typer.Argument(help="Name or id of the federation; may be left out when there is one.")
    ] = None,
    folder: Annotated[
        Path, typer.Option("--save", metavar="DIR", help="Where to write the files. Federations may share it.")
    ] = Path("monitoring"),
    interval: Annotated[str, typer.Option(metavar="TIME", help="How often Prometheus asks: 15s, 1m.")] = "15s",
    lost: Annotated[
        str, typer.Option(metavar="TIME", help="How long a machine is away before there is an alert.")
    ] = "2m",
    stalled: Annotated[
        str, typer.Option(metavar="TIME", help="How long a run completes no round before there is an alert.")
    ] = "1h",
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")] = Output.TEXT,
) -> None:
    """Write a scrape configuration and alert rules for Prometheus, and two dashboards for Grafana.

    Write them again after the federation was scaled: Prometheus reads the new targets by itself.
    """
    from oneflower.cloud import Federation  # noqa: PLC0415 - as everything of the client
    from oneflower.cloud.names import file_name  # noqa: PLC0415
    from oneflower.monitoring import Limits, write_files  # noqa: PLC0415

    for option, value in (("--interval", interval), ("--lost", lost), ("--stalled", stalled)):
        if not _DURATION.fullmatch(value):
            raise OneflowerError(
                f"{option} is {value!r}; expected a number and one of s, m, h, d, as in 30s.", "", ExitCode.USAGE
            )
    status = Federation.find(Session.cloud(), name).status()
    targets = targets_of(status)
    written = write_files(folder, file_name(status.name), targets, Limits(lost, stalled), interval)
    missing = [vm.name for vm in status.vms if not vm.ip]
    if missing:
        screen.note(f"{', '.join(missing)} had no address yet. Write the files again when `oneflower show` has one.")
    screen.show_result(
        output,
        {"folder": written.folder, "files": written.files, "targets": [target.address for target in targets]},
        f"Wrote {len(written.files)} files for {len(targets)} machines of {status.name} into {folder}.\n"
        f"Next: prometheus --config.file={folder / 'prometheus.yml'}\n"
        f"and import {folder / 'grafana'}/*.json in Grafana.",
    )


def targets_of(status: FederationStatus) -> list[Target]:
    """Return the machines that have metrics. Raises `OneflowerError` if the federation has none."""
    from oneflower.monitoring import Target  # noqa: PLC0415
    from oneflower_appliance.formats import join_address  # noqa: PLC0415
    from oneflower_appliance.parameters import PARAMETERS  # noqa: PLC0415
    from oneflower_appliance.roles import NODES  # noqa: PLC0415

    settings = {name: parameter.default for name, parameter in PARAMETERS.items()} | dict(status.settings)
    if settings["FL_METRICS_ENABLED"] != "YES":
        raise OneflowerError(
            f"The machines of {status.name} have no metrics: FL_METRICS_ENABLED is NO.",
            "Deploy it again with --set FL_METRICS_ENABLED=YES.",
            ExitCode.CONFLICT,
        )
    found = [vm for vm in status.vms if vm.ip]
    if not settings["FL_METRICS_ALLOWED"] and any(not vm.ip.startswith("127.") for vm in found):
        screen.note(
            "FL_METRICS_ALLOWED names nobody, so only programs on the machines can read their metrics. Deploy the "
            "federation with the address of Prometheus there."
        )
    dcgm = settings["FL_GPU_ENABLED"] == settings["FL_DCGM_ENABLED"] == "YES"
    port = int(settings["FL_METRICS_PORT"])
    return [Target(vm.name, vm.role, join_address((vm.ip, port)), dcgm and vm.role == NODES) for vm in found]
