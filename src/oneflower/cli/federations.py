"""Commands over the life of a federation: deploying, scaling, recovering and removing it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oneflower.cli import screen
from oneflower.cli.rounds import RunTable, progress_line
from oneflower.cli.scaling_options import Autoscale, Schedule, When, limits_of
from oneflower.cli.screen import Output
from oneflower.cli.session import Session
from oneflower.cli.steps import Steps, step
from oneflower.events import StepEnded
from oneflower.opennebula import NAME, ServiceKind
from oneflower.printable import counted
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.use_cases import NO_USE_CASE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oneflower.cloud import Cloud, Federation, FederationStatus
    from oneflower.cloud.scaling import Limits

Name = Annotated[str | None, typer.Argument(help="Name or id of the federation; may be left out when there is one.")]
Format = Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds to wait at most.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Set a variable (docs/parameters.md); @FILE for certificates. Repeatable."
    ),
]
Supernodes = Annotated[int, typer.Option("--supernodes", "-n", help="How many SuperNodes.")]


def pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """Split NAME=VALUE texts. Raises `OneflowerError` naming the first that is not valid."""
    found: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise OneflowerError(f"{option} {text!r} is not of the form NAME=VALUE.", "", ExitCode.USAGE)
        found[name] = value
    return found


def settings_of(texts: Iterable[str] | None) -> dict[str, str]:
    """Split the values of --set. A certificate or key may be given as @FILE, which keeps it out of process lists."""
    from oneflower_appliance.parameter import Kind  # noqa: PLC0415
    from oneflower_appliance.parameters import PARAMETERS  # noqa: PLC0415

    given = pairs(texts or (), "--set")
    for name, value in given.items():
        if value.startswith("@") and name in PARAMETERS and PARAMETERS[name].kind is Kind.PEM:
            try:
                given[name] = base64.b64encode(Path(value[1:]).read_bytes()).decode()
            except OSError as error:
                raise OneflowerError(
                    f"{name}: cannot read {value[1:]}: {error.strerror}.", "", ExitCode.NOT_FOUND
                ) from error
    return given


def up(
    name: Annotated[str, typer.Argument(help="Name of the federation.")] = "federation",
    kind: Annotated[
        ServiceKind | None,
        typer.Option(help="A whole federation; only its SuperLink; or only SuperNodes, for the SuperLink elsewhere."),
    ] = None,
    supernodes: Annotated[
        int | None, typer.Option("--supernodes", "-n", help="How many SuperNodes; usually 2, of a site 1.")
    ] = None,
    settings: Set = None,
    min_vms: Annotated[
        int | None, typer.Option(help="Never fewer SuperNodes than this; usually 2, of a site 1.")
    ] = None,
    max_vms: Annotated[int | None, typer.Option(help="Never more SuperNodes than this; usually 10.")] = None,
    autoscale: Autoscale = "",
    when: When = None,
    schedule: Schedule = None,
    template: Annotated[
        str, typer.Option(help="Name of a registered service template. Without --kind it decides the kind.")
    ] = NAME,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What its SuperNodes allow: `oneflower policy example`.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Remove nothing if it fails or is interrupted.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Do not wait for the training that FL_USE_CASE asks for.")
    ] = False,
    timeout: Timeout = 600,
    output: Format = Output.TEXT,
) -> None:
    """Deploy a federation: one SuperLink, then its SuperNodes, and wait until every one of them is ready.

    With `--kind coordinator` or `--kind site` it deploys the part of a federation that is in this cloud.
    With `--set FL_USE_CASE=...` it then trains by itself. The training is shown, and continues after Ctrl-C.
    """
    from oneflower.cloud.names import check_name  # noqa: PLC0415 - as everything of the client

    check_name(name)
    given = settings_of(settings) | policy_setting(policy)
    limits = limits_of(autoscale, when, schedule, min_vms, max_vms)
    cloud = Session.cloud(kind.template_name(template) if kind else template)
    federation = deploy(cloud, name, supernodes, given, limits, timeout, keep=keep)
    status = federation.status()
    if status.kind is not ServiceKind.FEDERATION:
        screen.show_result(output, status, _of_half(status))
        return
    ready = f"Federation {name} is ready: SuperLink {status.endpoint}, {counted(status.supernodes, 'SuperNode')}."
    if status.settings.get("FL_USE_CASE", NO_USE_CASE) == NO_USE_CASE:
        follow_up = f"Train with: {screen.program()} run image-classification --federation {name}"
    elif detach:
        follow_up = f"It trains now. Look with: {screen.program()} show {name}"
    else:
        screen.say(f"{ready}\nIt trains {status.settings['FL_USE_CASE']}, also after Ctrl-C.")
        ready = _watch_training(federation, output)
        follow_up = f"Fetch the model with: {screen.program()} model {name} --save model.npz"
        status = federation.status()
    screen.show_result(output, status, f"{ready}\n{follow_up}")


def policy_setting(file: Path | None) -> dict[str, str]:
    """Return the variable for the policy of a site in a file, if one is given. Raises `OneflowerError`."""
    from oneflower.cloud.site_folder import SiteFolder  # noqa: PLC0415

    return SiteFolder(file).setting() if file else {}


def _of_half(status: FederationStatus) -> str:
    """Return what is ready of a federation that has parts in other clouds, and what comes next."""
    if status.kind is ServiceKind.SITE:
        nodes = counted(status.supernodes, "SuperNode")
        return f"Site {status.name} is ready: {nodes} of the SuperLink {status.endpoint}."
    return (
        f"Coordinator {status.name} is ready: SuperLink {status.endpoint}.\n"
        f"Invite a site with: {screen.program()} invite {status.name} --site NAME --file ."
    )


def _watch_training(federation: Federation, output: Output) -> str:
    """Show the run that the federation started by itself, and return how it ended. It continues after Ctrl-C."""
    table = RunTable()
    try:
        with Steps(table.living if output is Output.TEXT else None) as steps:
            ended = federation.wait_trained(table.add, steps.notify)
        for worst in ended.worst:
            screen.note(worst.sentence)
        for finding in ended.findings:
            screen.note(finding.sentence)
        return progress_line(ended)
    except KeyboardInterrupt:
        screen.say(f"{federation.name} keeps training. Look with: {screen.program()} show {federation.name}")
        raise


def deploy(
    cloud: Cloud,
    name: str,
    supernodes: int | None,
    settings: dict[str, str],
    limits: tuple[int | None, int | None] | Limits,
    timeout: float,
    *,
    keep: bool,
) -> Federation:
    """Deploy a federation and show its progress. If it fails, everything is removed again, unless `keep`."""
    from oneflower.cloud import Federation  # noqa: PLC0415

    with Steps() as steps:
        return Federation.deploy(
            cloud, supernodes, settings, name, limits=limits, timeout=timeout, keep=keep,
            watch=steps.watch, notify=steps.notify,
        )  # fmt: skip


def remove(federation: Federation, what: str) -> None:
    """Remove a federation at the end of a command, whose own error or result counts, and report what is left."""
    with step(what) as steps:
        left = federation.roll_back()
        steps.notify(StepEnded(well=not left))


def find(name: str | None) -> Federation:
    """Return the federation called `name`, or the only one. Raises `OneflowerError`."""
    from oneflower.cloud import Federation  # noqa: PLC0415

    return Federation.find(Session.cloud(), name)


def scale(
    name: Annotated[str, typer.Argument(help="Name or id of the federation.")],
    supernodes: Annotated[int, typer.Argument(min=0, help="Number of SuperNodes.")],
    timeout: Timeout = 600,
    output: Format = Output.TEXT,
) -> None:
    """Change the number of SuperNodes, within min_vms and max_vms. Scaling down removes the oldest."""
    federation = find(name)
    if going := federation.leaving(supernodes):
        screen.say(f"Removing the oldest: {', '.join(vm.name for vm in going)}.")
    with step(f"scaling {federation.name} to {counted(supernodes, 'SuperNode')}") as steps:
        status = federation.scale(supernodes, timeout, steps.watch)
    if status.share:
        screen.note(status.share)
    screen.show_result(output, status, f"Federation {federation.name} has {counted(status.supernodes, 'SuperNode')}.")


def recover(name: Name = None, timeout: Timeout = 600, output: Format = Output.TEXT) -> None:
    """Retry what failed, and wait until every machine is ready."""
    federation = find(name)
    with step(f"recovering {federation.name}") as steps:
        status = federation.recover(timeout, steps.watch)
    screen.show_result(output, status, f"Federation {federation.name} is ready.")


def down(
    name: Name = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove every federation.")] = False,
    timeout: Timeout = 120,
    output: Format = Output.TEXT,
) -> None:
    """Remove a federation and all its machines. Removing one that is gone is not an error."""
    from oneflower.cli.connections import forget_gone  # noqa: PLC0415
    from oneflower.cloud import Federation  # noqa: PLC0415

    cloud = Session.cloud()
    if everything:
        doomed = list(Federation.all(cloud))
    else:
        try:
            doomed = [Federation.find(cloud, name)]
        except OneflowerError as error:
            if error.code is not ExitCode.NOT_FOUND:
                raise
            screen.say(f"There is no federation {name!r}: nothing to do." if name else "There is no federation.")
            doomed = []
    for federation in doomed:
        with step(f"removing {federation.name}"):
            try:
                federation.delete(timeout)
            except KeyboardInterrupt:
                screen.say(f"Interrupted while removing {federation.name}. {federation.remains}")
                raise
    if doomed:
        forget_gone(cloud, {federation.id for federation in Federation.all(cloud)})
    if output is Output.JSON:
        screen.show_json([{"id": federation.id, "name": federation.name} for federation in doomed])
