"""Commands that show federations: `ls` and `show`."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from oneflower.cli import screen
from oneflower.cli.federations import Format, Name, find
from oneflower.cli.rounds import progress_line
from oneflower.cli.screen import Output
from oneflower.cli.session import Session
from oneflower.events import Note
from oneflower.opennebula import ServiceKind
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.use_cases import FRAMEWORKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from oneflower.cloud import Cloud, FederationStatus, VmStatus
    from oneflower.cloud.autoscaling import Autoscaling
    from oneflower.cloud.surroundings import Installed
    from oneflower.contexts import Context
    from oneflower_appliance.progress import RunProgress


def list_all(
    output: Format = Output.TEXT,
    everywhere: Annotated[
        bool, typer.Option("--all-contexts", help="Of every context, not only the one in use.")
    ] = False,
) -> None:
    """List the federations, and the coordinators and sites of others."""
    found, silent = _everywhere() if everywhere else (_of(Session.chosen, Session.cloud()), ExitCode.OK)
    if output is Output.JSON:
        screen.show_json([{"context": context.label, **asdict(status)} for context, status in found])
    elif found:
        columns = ("CONTEXT", "ID", "NAME", "KIND", "STATE", "READY", "SUPERNODES", "SUPERLINK")
        rows = [(context.label, *_row(status)) for context, status in found]
        start = 0 if everywhere else 1
        screen.show_table(columns[start:], [row[start:] for row in rows])
    elif silent is ExitCode.OK:
        screen.say("There is no federation. Deploy one with `oneflower up`.")
    if silent is not ExitCode.OK:
        raise typer.Exit(silent)


def _everywhere() -> tuple[list[tuple[Context, FederationStatus]], ExitCode]:
    """Return the federations of all contexts, and the exit code of the last one that did not answer."""
    found: list[tuple[Context, FederationStatus]] = []
    silent = ExitCode.OK
    for context in Session.contexts.known.values():
        try:
            with closing(Session.connect(context)) as cloud:
                found += _of(context, cloud)
        except OneflowerError as error:
            screen.note(f"{context.name}: {error.sentence}")
            silent = error.code
    return found, silent


def _of(context: Context, cloud: Cloud) -> list[tuple[Context, FederationStatus]]:
    from oneflower.cloud import Federation  # noqa: PLC0415

    return [(context, federation.status()) for federation in Federation.all(cloud)]


def _row(s: FederationStatus) -> tuple[object, ...]:
    return s.id, s.name, s.kind, s.state, f"{_ready(s)}/{len(s.vms)}", s.supernodes or "-", s.endpoint or "-"


def _ready(status: FederationStatus) -> int:
    return sum(vm.ready for vm in status.vms)


def show(name: Name = None, output: Format = Output.TEXT) -> None:
    """Show a federation: its state, its machines, its endpoint."""
    federation = find(name)
    status = federation.status()
    installed = federation.installed(status)
    if output is Output.JSON:
        screen.show_json({**asdict(status), "installed": asdict(installed)})
        return
    screen.show_line(
        f"{status.name} ({status.kind}, service {status.id}): {status.state}, "
        f"{_ready(status)} of {len(status.vms)} machines ready"
    )
    screen.show_line(_superlink(status))
    for line in package_lines(installed, status.framework, status.packages):
        screen.show_line(line)
    for line in (*_policies(status), *_scaling(status.autoscaling)):
        screen.show_line(line)
    if status.training:
        _show_training(status.training)
    for line in status.schedule_lines:
        screen.show_line(line)
    findings = [found.sentence for found in status.training.findings] if status.training else []
    more = (
        status.trust.refusal,
        status.trust.note,
        status.share,
        *status.troubles,
        *map(str, status.releases),
        *findings,
    )
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
            vm.error or vm.joins or vm.waits,
        )
        for vm in status.vms
    ]
    screen.show_table(("VM", "NAME", "STATE", "READY", "ADDRESS", "PARTITION", "NODE", "ERROR"), rows)
    if status.sites:
        nodes = [(place.name, place.standing, place.node or "-") for place in status.sites]
        screen.show_table(("AT A SITE", "STANDING", "NODE"), nodes)


def _policies(status: FederationStatus) -> Iterator[str]:
    """Yield a line for each policy of a site, and one for each node that keeps account of its privacy."""
    yield from (f"Site policy {policy}: on {', '.join(names)}" for policy, names in status.policies.items())
    yield from (f"Privacy of {vm.name}: {vm.budget.sentence}" for vm in status.vms if vm.budget)


def _scaling(found: Autoscaling | None) -> Iterator[str]:
    """Yield a line with the limits, and one for each policy with what OneFlow saw last."""
    if found:
        yield f"Scaling: {found.sentence}"
        yield from (f"  {policy.line}: {policy.sentence}" for policy in found.policies)


def _show_training(found: RunProgress) -> None:
    screen.show_line(f"Training: {progress_line(found)}")
    if found.privacy:
        screen.show_line(f"  Privacy: {found.privacy}")
    for worst in found.worst:
        screen.show_line(f"  {worst.sentence}")


def _superlink(status: FederationStatus) -> str:
    if status.kind is ServiceKind.SITE:
        return f"SuperLink of its coordinator {status.endpoint or 'not named'}"
    control, version = status.control or "-", status.version or "-"
    return f"SuperLink {status.endpoint or 'not ready'}, Control API {control}, Flower {version}"


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
