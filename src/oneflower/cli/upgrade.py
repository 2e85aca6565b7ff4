"""The command that moves a federation to another release of Flower."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from oneflower.cli import screen
from oneflower.cli.federations import Format, find
from oneflower.cli.screen import Output
from oneflower.cli.steps import Steps
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.parameters import FLOWER_TESTED

if TYPE_CHECKING:
    from oneflower.cloud.release_change import ReleaseChange


def upgrade(
    name: Annotated[str, typer.Argument(help="Name or id of the federation.")],
    flower_version: Annotated[
        str,
        typer.Option(
            "--flower-version",
            metavar="RELEASE",
            help=f"The release of Flower; also an older one. Without an image: {FLOWER_TESTED}.",
            show_default=False,
        ),
    ] = "",
    image: Annotated[
        str,
        typer.Option(
            metavar="NAME|ID",
            help="The image to boot. Without it, the one that is registered today.",
            show_default=False,
        ),
    ] = "",
    back: Annotated[bool, typer.Option("--back", help="Take back an upgrade that was interrupted.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")] = False,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds that a machine may take until it is ready. Then all go back.")
    ] = 600,
    output: Format = Output.TEXT,
) -> None:
    """Move a federation to another release of Flower: the SuperLink, one SuperNode, then a few at a time.

    Runs, models and partitions stay. If a machine does not become ready, all go back. After Ctrl-C, run it again.
    Machines that boot an image get another one, as a second disk that takes over the state of the first.
    """
    federation = find(name)
    if back and (flower_version or image):
        raise OneflowerError(
            "--back goes where the federation came from.", "Leave --flower-version and --image out.", ExitCode.USAGE
        )
    if dry_run:
        plan = federation.upgrade_plan(flower_version, image, back=back)
        screen.show_result(output, asdict(plan) | {"done": plan.done}, _text(plan))
        return
    with Steps() as steps:
        plan = federation.upgrade(flower_version, timeout, steps.notify, image=image, back=back)
    done = f"Federation {plan.name} runs {plan.to}" + (" already." if plan.done else ".")
    screen.show_result(output, asdict(plan) | {"done": True}, done)


def _text(plan: ReleaseChange) -> str:
    if plan.done:
        return f"Federation {plan.name} runs {plan.to}: nothing to do."
    before = plan.origin if plan.to.images and not plan.back else f"Flower {plan.other}"
    lines = [f"Federation {plan.name}: {before} -> {plan.to}"]
    lines += [
        f"  {number}. {', '.join(f'{move.name} ({move.before})' for move in group)}"
        for number, group in enumerate(plan.groups, 1)
    ]
    how = "from a disk of the other image" if plan.to.images else "with the other release"
    return "\n".join([*lines, f"Each is powered off, and boots again {how}. Nothing was changed."])
