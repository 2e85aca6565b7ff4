"""The command `logs`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from oneflower import moments
from oneflower.cli import screen
from oneflower.cli.federations import Format, Name, find
from oneflower.cli.screen import Output

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oneflower.cloud.logs import LogLine


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
    federation, start = find(name), moments.since(since) if since else 0.0
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
