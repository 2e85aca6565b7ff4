"""The options by which OneFlow scales SuperNodes by itself: --autoscale, --when and --schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from oneflower.opennebula.autoscale import COOLDOWN, PERIOD, TIMES, Policies
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from oneflower.cloud.scaling import Limits

PANEL = "Scaling"

Autoscale = Annotated[
    str,
    typer.Option(
        "--autoscale", metavar="MIN:MAX", rich_help_panel=PANEL,
        help="The fewest and the most SuperNodes, between which OneFlow scales: docs/autoscaling.md.",
    ),
]  # fmt: skip
When = Annotated[
    list[str] | None,
    typer.Option(
        "--when", metavar="'EXPR : CHANGE'", rich_help_panel=PANEL,
        help="Scale when EXPR holds, like 'FL_TASK_SECONDS > 60 : +1'; CHANGE is +1, -1, +50% or =4. At its end: "
        f"period=S (seconds between two looks, {PERIOD}), times=N (looks in a row, {TIMES}), cooldown=S (rest after "
        f"it, {COOLDOWN}). OneFlow looks every 90 s. Repeatable; the first that fires counts.",
    ),
]  # fmt: skip
Schedule = Annotated[
    list[str] | None,
    typer.Option(
        "--schedule", metavar="'CRON = N'", rich_help_panel=PANEL,
        help="Scale to N SuperNodes at these times, like '0 20 * * * = 8': minute, hour, day, month and weekday by "
        "the clock of the OneFlow server. Repeatable. Training at planned times is FL_SCHEDULE.",
    ),
]  # fmt: skip
NONE = "none"


def limits_of(
    autoscale: str, when: list[str] | None, schedule: list[str] | None, least: int | None, most: int | None
) -> Limits:
    """Return what the options say; `least` and `most` are --min-vms and --max-vms. Raises `OneflowerError`."""
    from oneflower.cloud.scaling import Limits  # noqa: PLC0415

    policies = Policies.read(when or (), schedule or ())
    if not autoscale:
        if policies.entries:
            raise OneflowerError(
                "--when and --schedule need limits.", "Add --autoscale MIN:MAX, like --autoscale 2:8.", ExitCode.USAGE
            )
        return Limits(least, most)
    if (least, most) != (None, None):
        raise OneflowerError("--autoscale gives the limits, too.", "Leave --min-vms and --max-vms out.", ExitCode.USAGE)
    low, separator, high = autoscale.partition(":")
    if not (separator and low.isdecimal() and high.isdecimal()):
        raise OneflowerError(f"--autoscale {autoscale!r} is not MIN:MAX.", "Write it as 2:8.", ExitCode.USAGE)
    if int(low) > int(high):
        raise OneflowerError(
            f"--autoscale {autoscale}: the fewest are more than the most.", f"Write {high}:{low}.", ExitCode.USAGE
        )
    return Limits(int(low), int(high), policies)
