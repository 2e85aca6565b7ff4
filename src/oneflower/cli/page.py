"""The command `ui`: the page."""

from __future__ import annotations

from typing import Annotated

import typer

from oneflower.cli.screen import say
from oneflower.cli.session import Session

_HELP_PORT = "Port of the loopback to listen on; usually a free one."


def ui(
    port: Annotated[int, typer.Option(min=0, max=65535, help=_HELP_PORT, show_default=False)] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:
    """Show federations and their training in a browser, on this machine only, until Ctrl-C."""
    from oneflower.web.server import serve  # noqa: PLC0415 - costs time that --help need not spend

    where = Session.chosen.name or ("this machine" if Session.is_local() else "OpenNebula")
    serve(Session.cloud, where, port, say, browser=browser)
