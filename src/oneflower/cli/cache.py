"""The commands `cache ...`: what is kept on this machine because it takes time to make, and how to remove it."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oneflower.cli import screen
from oneflower.cli.screen import Output
from oneflower.cli.session import Session
from oneflower.cli.steps import step
from oneflower_appliance.errors import OneflowerError

if TYPE_CHECKING:
    from oneflower.local.home import LocalHome

cache = typer.Typer(
    help="What is kept on this machine: runtimes, packages for apps, parts of images.", no_args_is_help=True
)
_HOUR, _DAY = 3600, 86400


@cache.command()
def show(
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")] = Output.TEXT,
) -> None:
    """Show what is kept on this machine: runtimes, packages for apps, parts of images."""
    from oneflower.images.build import kept  # noqa: PLC0415
    from oneflower.runtimes.cache import entries  # noqa: PLC0415

    home, now = Session.home(), time.time()
    found = [(e.kind, e.path, e.size, e.used, e.in_use) for e in entries(home.runtimes, _needed(home))]
    found += [("image", path, path.stat().st_size, path.stat().st_mtime, False) for path in kept(home.images)]
    if output is Output.JSON:
        keys = ("kind", "path", "bytes", "used", "in_use")
        screen.show_json([dict(zip(keys, row, strict=True)) for row in found])
        return
    rows = [(k, _name(path, home), _megabytes(n), _ago(now - used), "yes" if now_ else "no")
            for k, path, n, used, now_ in found]  # fmt: skip
    screen.show_table(("KIND", "NAME", "SIZE", "LAST USED", "IN USE"), rows)
    screen.say(f"{_megabytes(sum(row[2] for row in found))} in {home.cache}. `oneflower cache clean` removes what is "
               "not in use. Runtimes are built again when they are needed.")  # fmt: skip


@cache.command()
def clean(
    older_than: Annotated[
        float, typer.Option("--older-than", min=0, metavar="DAYS", help="Only what was not used for so many days.")
    ] = 0,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")] = Output.TEXT,
) -> None:
    """Remove what no federation on this machine uses.

    Runtimes and parts of images are made again when they are needed, packages for an app with `run --install`.
    """
    from oneflower.images.build import forget  # noqa: PLC0415
    from oneflower.runtimes.cache import remove  # noqa: PLC0415

    home = Session.home()
    with step("removing what is not in use"):
        removed = [(entry.path, size) for entry, size in remove(home.runtimes, older_than, _needed(home))]
        left = ""
        try:
            removed += forget(home.images, older_than * _DAY)
        except OneflowerError as error:
            left = f"The parts of images stay. {error.message}"
    if left:
        screen.note(left)
    total = sum(size for _, size in removed)
    value = {"removed": [path for path, _ in removed], "bytes": total}
    screen.show_result(
        output, value, f"Removed {len(removed)} {'entry' if len(removed) == 1 else 'entries'}, {_megabytes(total)}."
    )


def _needed(home: LocalHome) -> set[str]:
    """Return the names of the runtimes of all machines of this user's local clouds, those that are stopped too."""
    from oneflower.runtimes.runtime import folder_name  # noqa: PLC0415
    from oneflower_appliance.context import read_context  # noqa: PLC0415
    from oneflower_appliance.parameters import FLOWER_TESTED  # noqa: PLC0415

    found: set[str] = set()
    states = {home.state, *(Path(each.home) for each in Session.contexts.known.values() if each.home)}
    for folder in (folder for state in states for folder in (state / "machines").glob("*/context")):
        with suppress(OneflowerError, KeyError):
            context = read_context(folder)
            found.add(folder_name(context.get("FLOWER_VERSION") or FLOWER_TESTED, context["ML_FRAMEWORK"]))
    return found


def _name(path: Path, home: LocalHome) -> str:
    return str(path.relative_to(home.cache))


def _megabytes(size: int) -> str:
    return f"{size / 10**6:.1f} MB"


def _ago(seconds: float) -> str:
    return f"{seconds / _DAY:.0f} days ago" if seconds >= 2 * _DAY else f"{max(seconds, 0) / _HOUR:.1f} hours ago"
