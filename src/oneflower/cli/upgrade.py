"""The command that moves a federation to another release of Flower."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from oneflower.cli import screen
from oneflower.cli.federations import Format, find
from oneflower.cli.screen import Output
from oneflower.cli.steps import Steps
from oneflower_appliance.parameters import FLOWER_TESTED

if TYPE_CHECKING:
    from oneflower.cloud.release_change import ReleaseChange


def upgrade(
    name: Annotated[str, typer.Argument(help="Name or id of the federation.")],
    flower_version: Annotated[
        str, typer.Option("--flower-version", metavar="RELEASE", help="The release of Flower; also an older one.")
    ] = FLOWER_TESTED,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")] = False,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds that a machine may take until it is ready. Then all go back.")
    ] = 600,
    output: Format = Output.TEXT,
) -> None:
    """Move a federation to another release of Flower: the SuperLink, one SuperNode, then a few at a time.

    Runs, models and partitions stay. If a machine does not become ready, all go back. After Ctrl-C, run it again.
    Machines that boot an image run the one release that it has: for these it is refused.
    """
    federation = find(name)
    if dry_run:
        plan = federation.upgrade_plan(flower_version)
        screen.show_result(output, asdict(plan) | {"done": plan.done}, _text(plan))
        return
    with Steps() as steps:
        plan = federation.upgrade(flower_version, timeout, steps.notify)
    done = f"Federation {plan.name} runs Flower {plan.after}" + (" already." if plan.done else ".")
    screen.show_result(output, asdict(plan) | {"done": True}, done)


def _text(plan: ReleaseChange) -> str:
    if plan.done:
        return f"Federation {plan.name} runs Flower {plan.after}: nothing to do."
    lines = [f"Federation {plan.name}: Flower {plan.other} -> {plan.after}"]
    lines += [
        f"  {number}. {', '.join(f'{move.name} ({move.before})' for move in group)}"
        for number, group in enumerate(plan.groups, 1)
    ]
    return "\n".join([*lines, "Each is powered off, and boots again with the other release. Nothing was changed."])
