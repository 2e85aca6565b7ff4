"""Commands for apps, before they are trained: `new`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from oneflower.cli import screen
from oneflower.cli.federations import Format  # noqa: TC001 - typer reads it
from oneflower.cli.screen import Output


class Framework(StrEnum):
    """The frameworks for which there are templates."""

    SKLEARN = "sklearn"
    PYTORCH = "pytorch"


def new(
    name: Annotated[str, typer.Argument(help="Of the app and of its folder: letters, digits and hyphens.")],
    framework: Annotated[Framework, typer.Option(help="What its model is made with.")] = Framework.SKLEARN,
    output: Format = Output.TEXT,
) -> None:
    """Write a new Flower app into a folder: it trains at once, here and with stock Flower."""
    from oneflower.scaffold.new_app import write_app  # noqa: PLC0415 - costs time that --help need not spend

    app = write_app(name, framework, Path())
    if output is Output.JSON:
        screen.show_json(app)
        return
    for path in app.files:
        screen.show(f"{app.folder / path}")
    program = screen.program()
    screen.show(f"Next: {program} up lab --set ML_FRAMEWORK={framework}")
    screen.show(f"      {program} run {name} --federation lab")
    screen.show(f"      uv run --directory {name} pytest")
    screen.show(f"With stock Flower: uv run --directory {name} flwr run . --stream")
