"""Commands over service templates: `render` and `validate`."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from oneflower.cli import screen
from oneflower.cli.scaling_options import Autoscale, Schedule, When, limits_of
from oneflower.cli.screen import Output
from oneflower.opennebula import ServiceKind
from oneflower_appliance.errors import ExitCode, OneflowerError

_SIX = 6


def render(
    kind: Annotated[
        ServiceKind, typer.Option(help="A SuperLink with SuperNodes, only the SuperLink, or only SuperNodes.")
    ] = ServiceKind.FEDERATION,
    compat: Annotated[int, typer.Option(min=6, max=7, help="For servers of OpenNebula 6 or 7.")] = 7,
    supernodes: Annotated[
        int | None, typer.Option("--supernodes", "-n", help="SuperNodes at first; usually 2, of a site 1.")
    ] = None,
    min_vms: Annotated[
        int | None, typer.Option(help="Never fewer SuperNodes than this; usually 2, of a site 1.")
    ] = None,
    max_vms: Annotated[int | None, typer.Option(help="Never more SuperNodes than this; usually 10.")] = None,
    autoscale: Autoscale = "",
    when: When = None,
    schedule: Schedule = None,
    superlink_template: Annotated[int | None, typer.Option(help="Id of the SuperLink's VM template.")] = None,
    supernode_template: Annotated[int | None, typer.Option(help="Id of the SuperNodes' VM template.")] = None,
    form: Annotated[
        bool, typer.Option("--form", help="The form for Sunstone, instead of all variables on three levels.")
    ] = False,
    save: Annotated[Path | None, typer.Option("--save", metavar="FILE", help="Write it to this file.")] = None,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="How to print the file's name; the template is JSON.")
    ] = (Output.TEXT),
) -> None:
    """Write a OneFlow service template as JSON, complete except for the ids of the VM templates."""
    from oneflower.opennebula import (  # noqa: PLC0415
        COORDINATOR,
        NAME,
        NODES,
        Rendering,
        ServiceOptions,
        service_template,
    )
    from oneflower_appliance.files import SHARED, write_atomic  # noqa: PLC0415

    limits = limits_of(autoscale, when, schedule, min_vms, max_vms)
    given = {COORDINATOR: superlink_template, NODES: supernode_template}
    options = ServiceOptions(
        name=kind.template_name(NAME),
        bounds=kind.bounds(limits.least, limits.most, supernodes),
        compat=compat,
        template_ids={role: number for role, number in given.items() if number is not None},
        rendering=Rendering.FORM if form else Rendering.LEVELS,
        kind=kind,
        policies=limits.policies,
    )
    text = json.dumps(service_template(options), indent=2)
    if compat == _SIX:
        screen.note("this is for servers of OpenNebula 6.8 and 6.10 only. OpenNebula 7 accepts it and deploys garbage.")
    if save is None:
        screen.show(text)
        return
    write_atomic(save, text + "\n", SHARED)
    missing = [role for role in kind.roles if given[role] is None]
    first = f"put in the ids of the VM templates ({' and '.join(missing)}), then " if missing else ""
    if output is Output.JSON:
        screen.show_json({"file": save, "ids_missing": missing})
    else:
        screen.say(f"Wrote {save}. Next: {first}`oneflow-template create {save}`.")


def validate(
    file: Annotated[
        str, typer.Argument(help="A service template as JSON, or a VM template as text; - for standard input.")
    ],
    kind: Annotated[
        ServiceKind | None, typer.Option(help="What it should be; otherwise its roles tell, and all are fine.")
    ] = None,
    compat: Annotated[int, typer.Option(min=6, max=7, help="For servers of OpenNebula 6 or 7.")] = 7,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")] = Output.TEXT,
) -> None:
    """Look for the known traps in any service template, or in a role's VM template. Exit code 3 when there is one."""
    from oneflower.opennebula import lint, lint_vm_template, placeholders  # noqa: PLC0415

    template, is_vm_template = _read(file)
    findings = lint_vm_template(template) if is_vm_template else lint(template, compat, kind)
    if output is Output.JSON:
        screen.show_json(findings)
    else:
        for finding in findings:
            screen.show(str(finding))
        if not findings:
            screen.show("No trap found.")
        for role in placeholders(template):
            screen.note(f"role {role} still has a placeholder for the id of its VM template.")
    if findings:
        raise typer.Exit(ExitCode.INVALID_INPUT)


def _read(file: str) -> tuple[Any, bool]:
    """Return a template, and whether it is a VM template, which is text and not JSON."""
    from oneflower.opennebula.text import TextError, parse  # noqa: PLC0415

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OneflowerError(f"Cannot read {file}: {error}.", "", ExitCode.NOT_FOUND) from error
    try:
        return json.loads(text), False
    except ValueError as error:
        with suppress(TextError):
            if template := parse(text):
                return template, True
        raise OneflowerError(
            f"{file} is not JSON: {error}.",
            "Give one service template as JSON, or one VM template as OpenNebula's text.",
        ) from error
