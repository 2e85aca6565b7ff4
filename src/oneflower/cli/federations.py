"""Commands over the life of a federation."""

from __future__ import annotations

import base64
import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oneflower import moments
from oneflower.cli import screen
from oneflower.cli.rounds import RunTable, progress_line
from oneflower.cli.screen import Output
from oneflower.cli.session import Session
from oneflower.cli.steps import Pulse, Steps, step
from oneflower.events import Note, StepEnded
from oneflower.opennebula import NAME
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.use_cases import FRAMEWORKS, NO_USE_CASE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from oneflower.cloud import Cloud, Federation, FederationStatus, VmStatus
    from oneflower.cloud.logs import LogLine
    from oneflower.cloud.surroundings import Installed

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
    from oneflower_appliance.parameters import PARAMETERS, Kind  # noqa: PLC0415

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
    supernodes: Supernodes = 2,
    settings: Set = None,
    min_vms: Annotated[int | None, typer.Option(help="Never fewer SuperNodes than this; usually 2.")] = None,
    max_vms: Annotated[int | None, typer.Option(help="Never more SuperNodes than this; usually 10.")] = None,
    template: Annotated[str, typer.Option(help="Name of a registered service template.")] = NAME,
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

    With `--set FL_USE_CASE=...` it then trains by itself. The training is shown, and continues after Ctrl-C.
    """
    from oneflower.cloud.names import check_name  # noqa: PLC0415 - as everything of the client

    check_name(name)
    given, limits = settings_of(settings) | policy_setting(policy), (min_vms, max_vms)
    federation = deploy(Session.cloud(template), name, supernodes, given, limits, timeout, keep=keep)
    status = federation.status()
    ready = f"Federation {name} is ready: SuperLink {status.endpoint}, {status.supernodes} SuperNodes."
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


def _watch_training(federation: Federation, output: Output) -> str:
    """Show the run that the federation started by itself, and return how it ended. It continues after Ctrl-C."""
    table = RunTable()
    try:
        with Pulse.of(table.living) if output is Output.TEXT else nullcontext():
            ended = federation.wait_trained(table.add)
        for finding in ended.findings:
            screen.note(finding.sentence)
        return progress_line(ended)
    except KeyboardInterrupt:
        screen.say(f"{federation.name} keeps training. Look with: {screen.program()} show {federation.name}")
        raise


def deploy(
    cloud: Cloud,
    name: str,
    supernodes: int,
    settings: dict[str, str],
    limits: tuple[int | None, int | None],
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


def list_all(output: Format = Output.TEXT) -> None:
    """List the federations."""
    from oneflower.cloud import Federation  # noqa: PLC0415

    found = [federation.status() for federation in Federation.all(Session.cloud())]
    if output is Output.JSON:
        screen.show_json(found)
    elif found:
        rows = [(s.id, s.name, s.state, f"{_ready(s)}/{len(s.vms)}", s.supernodes, s.endpoint or "-") for s in found]
        screen.show_table(("ID", "NAME", "STATE", "READY", "SUPERNODES", "SUPERLINK"), rows)
    else:
        screen.say("There is no federation. Deploy one with `oneflower up`.")


def _ready(status: FederationStatus) -> int:
    return sum(vm.ready for vm in status.vms)


def _find(name: str | None) -> Federation:
    from oneflower.cloud import Federation  # noqa: PLC0415

    return Federation.find(Session.cloud(), name)


def show(name: Name = None, output: Format = Output.TEXT) -> None:
    """Show a federation: its state, its machines, its endpoint."""
    federation = _find(name)
    status = federation.status()
    installed = federation.installed(status)
    if output is Output.JSON:
        screen.show_json({**asdict(status), "installed": asdict(installed)})
        return
    screen.show_line(
        f"{status.name} (service {status.id}): {status.state}, {_ready(status)} of {len(status.vms)} machines ready"
    )
    screen.show_line(
        f"SuperLink {status.endpoint or 'not ready'}, Control API {status.control or '-'}, "
        f"Flower {status.version or '-'}"
    )
    for line in package_lines(installed, status.framework, status.packages):
        screen.show_line(line)
    for policy, names in status.policies.items():
        screen.show_line(f"Site policy {policy}: on {', '.join(names)}")
    if status.training:
        screen.show_line(f"Training: {progress_line(status.training)}")
    findings = [found.sentence for found in status.training.findings] if status.training else []
    more = (status.trust.refusal, status.trust.note, status.share, *map(str, status.releases), *findings)
    for remark in (*status.causes, *status.remarks, *filter(None, more)):
        screen.show_line(str(Note(remark)))
    rows = [
        (
            vm.id,
            vm.name,
            vm.state,
            "yes" if vm.ready else "no",
            vm.ip,
            _partition(vm),
            vm.node_id or "-",
            vm.error or vm.waits,
        )
        for vm in status.vms
    ]
    screen.show_table(("VM", "NAME", "STATE", "READY", "ADDRESS", "PARTITION", "NODE", "ERROR"), rows)


def package_lines(installed: Installed, framework: str, added: Mapping[str, str]) -> Iterator[str]:
    """Yield a line with the packages for which people choose a framework, and a line for each app with its own.

    `added` are those that all machines have besides: each of them was asked for, too.
    """
    asked_for = ("flwr", "numpy", *(FRAMEWORKS[framework].packages if framework in FRAMEWORKS else ()))
    shown = {name: release for name in asked_for if (release := installed.variant.get(name))}
    if shown or added:
        more = len(installed.variant) - len(shown)
        rest = f" and {more} more (-o json lists all)" if more else ""
        yield f"Packages: {_releases({**shown, **added})}{rest}"
    for app, packages in installed.apps.items():
        yield f"Packages for {app} alone: {_releases(packages)}"


def _releases(packages: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {release}" for name, release in packages.items())


def _partition(vm: VmStatus) -> str:
    return f"{vm.partition} of {vm.partitions}" if vm.partitions else vm.partition or "-"


def logs(
    name: Name = None,
    vm: Annotated[str | None, typer.Option("--vm", "--node", help="Only this machine, by name or id.")] = None,
    lines: Annotated[
        int | None,
        typer.Option("--lines", "-l", min=1, help="Lines of each console; usually 40, and all with --since or --run."),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Only what is not older: 30s, 10m, 2h, 1d, or a time (ISO 8601).")
    ] = None,
    run: Annotated[str | None, typer.Option("--run", help="Only the lines of this run, by its id.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Then show new lines as they come.")] = False,
    output: Format = Output.TEXT,
) -> None:
    """Show the service's log, the state that each machine reports, and (local cloud) the machines' consoles.

    `-o json` has each line as an object; with `--follow`, one object a line.
    """
    federation, start = _find(name), moments.since(since) if since else 0.0
    most = 40 if lines is None and not since and not run else lines
    if vm is None and run is None and not federation.keeps_consoles:
        screen.note(
            "This cloud keeps no consoles: what OneFlow and the machines report is shown, and `oneflower logs --node "
            "NAME` says how to read a machine's journal."
        )
    if follow:
        _follow(federation.follow_logs(most, vm, run=run, since=start), output)
        return
    found = federation.logs(most, vm, run=run, since=start)
    if output is Output.JSON:
        records = [line.record for line in found.records()]
        screen.show_json({"service": found.service, "vms": found.vms, "consoles": found.consoles, "records": records})
        return
    for line in found.lines(consoles_only=vm is not None or run is not None):
        screen.show_line(line)
    if found.journal:
        screen.note(found.journal)


def _follow(lines: Iterable[LogLine], output: Output) -> None:
    for line in lines:
        if output is Output.JSON:
            screen.show(json.dumps(line.record))
        else:
            for shown in str(line).split("\n"):
                screen.show_line(shown)


def scale(
    name: Annotated[str, typer.Argument(help="Name or id of the federation.")],
    supernodes: Annotated[int, typer.Argument(min=0, help="Number of SuperNodes.")],
    timeout: Timeout = 600,
    output: Format = Output.TEXT,
) -> None:
    """Change the number of SuperNodes, within min_vms and max_vms. Scaling down removes the oldest."""
    federation = _find(name)
    if going := federation.leaving(supernodes):
        screen.say(f"Removing the oldest: {', '.join(vm.name for vm in going)}.")
    with step(f"scaling {federation.name} to {supernodes} SuperNodes") as steps:
        status = federation.scale(supernodes, timeout, steps.watch)
    if status.share:
        screen.note(status.share)
    screen.show_result(output, status, f"Federation {federation.name} has {status.supernodes} SuperNodes.")


def recover(name: Name = None, timeout: Timeout = 600, output: Format = Output.TEXT) -> None:
    """Retry what failed, and wait until every machine is ready."""
    federation = _find(name)
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
