"""The commands `local ...`: the daemon of the local cloud."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from oneflower.cli import screen
from oneflower.cli.screen import Output
from oneflower.cli.session import Session
from oneflower.local.clock import Pace
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from oneflower.local.home import LocalHome

local = typer.Typer(help="The local cloud's daemon.", no_args_is_help=True)


@local.command()
def status(
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")] = Output.TEXT,
) -> None:
    """Say whether the daemon runs, where, and how other tools reach it."""
    from oneflower.local import daemon  # noqa: PLC0415

    home = Session.home()
    found = daemon.find(home)
    if output is Output.JSON:
        shown = ("pid", "oneflow", "onegate", "xmlrpc", "pace")
        about = {name: getattr(found, name) for name in shown} if found else None
        screen.show_json(
            {"running": found is not None, "state": home.state, "one_auth": home.one_auth, "daemon": about}
        )
    elif found is None:
        screen.show("The local cloud is not running; the next command that needs it starts it.")
    else:
        screen.show(f"The local cloud runs as process {found.pid}, pace {found.pace}; its state is in {home.state}.")
        for line in _variables(found.oneflow, found.xmlrpc, home):
            screen.show(line)


def _variables(oneflow: str, xmlrpc: str, home: LocalHome) -> list[str]:
    """Return the settings for OpenNebula's own tools, as lines for a shell."""
    return [f"export ONEFLOW_URL={oneflow}", f"export ONE_XMLRPC={xmlrpc}", f"export ONE_AUTH={home.one_auth}"]


class Ports(StrEnum):
    """Where the local cloud listens."""

    OWN = "own"
    STANDARD = "standard"


@local.command()
def serve(
    ports: Annotated[
        Ports, typer.Option(help="Where: at its own loopback address only, or also at OpenNebula's usual ports.")
    ] = Ports.OWN,
    pace: Annotated[
        Pace, typer.Option(help="How fast states change: at once, like a real cloud, or by `oneflower local step`.")
    ] = Pace.IMMEDIATE,
    image: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            resolve_path=True,
            metavar="PATH",
            help="Run machines from an image, as root: containers from the folder of its root file system, "
            "virtual machines from its .qcow2.",
        ),
    ] = None,
) -> None:
    """Run the local cloud here, until Ctrl-C, for other tools: pyone, curl, oneflow, onegate."""
    from oneflower.images.app_image import checked_image, manifest_of  # noqa: PLC0415
    from oneflower.local import daemon  # noqa: PLC0415

    home = Session.home().make()
    if found := daemon.find(home):
        raise OneflowerError(
            f"The local cloud already runs, as process {found.pid}.",
            "Stop it with `oneflower local stop`; federations keep running.",
            ExitCode.CONFLICT,
        )
    if image and image.is_file() and manifest_of(image).is_file():
        checked_image(image)
    options = ["--pace", pace, "--stay", *(["--standard-ports"] if ports is Ports.STANDARD else [])]
    options += ["--image", str(image)] if image else []
    found = daemon.start(home, options)
    host = "127.0.0.1" if ports is Ports.STANDARD else urlsplit(found.oneflow).hostname
    oneflow, xmlrpc = (urlsplit(url) for url in (found.oneflow, found.xmlrpc))
    for line in _variables(f"http://{host}:{oneflow.port}", f"http://{host}:{xmlrpc.port}/RPC2", home):
        screen.show(line)
    screen.say(f"Serving, pace {pace}; log in {home.log}. Ctrl-C stops it.")
    try:
        while daemon.find(home) is not None:
            time.sleep(0.2)
    except KeyboardInterrupt:
        pass
    finally:
        daemon.stop(home)
    screen.say("The local cloud is stopped.")


@local.command()
def step(
    seconds: Annotated[float, typer.Argument(min=0, help="How far to move the time.")],
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")] = Output.TEXT,
) -> None:
    """Let time pass in a local cloud that was started with `serve --pace stepped`."""
    import httpx  # noqa: PLC0415

    from oneflower.local import daemon  # noqa: PLC0415

    found = daemon.find(Session.home())
    if found is None or found.pace != Pace.STEPPED:
        raise OneflowerError(
            "No local cloud runs with --pace stepped.",
            "Start one with `oneflower local serve --pace stepped`.",
            ExitCode.CONFLICT,
        )
    user, _, password = found.auth.partition(":")
    url = f"{found.oneflow}/oneflower/clock"
    try:
        answer = httpx.post(url, json={"advance": seconds}, auth=(user, password), trust_env=False)
    except httpx.HTTPError as error:
        raise OneflowerError(
            f"The local cloud does not answer: {error}.", "See `oneflower local status`.", ExitCode.ENVIRONMENT
        ) from error
    if answer.is_error:
        raise OneflowerError(f"The local cloud refuses: {answer.text.strip()}.", "", ExitCode.INVALID_INPUT)
    screen.show_result(output, {"passed": seconds}, f"{seconds:g} s have passed.")


@local.command()
def stop(
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")] = Output.TEXT,
) -> None:
    """Stop the daemon. Federations keep running and are found again when it starts."""
    from oneflower.local import daemon  # noqa: PLC0415

    stopped = daemon.stop(Session.home())
    text = "The local cloud is stopped." if stopped else "The local cloud was not running."
    screen.show_result(output, {"stopped": stopped}, text)
