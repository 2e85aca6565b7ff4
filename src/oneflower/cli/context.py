"""The command `context`: the clouds that this user knows by a name."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from oneflower.cli import screen
from oneflower.cli.screen import Output
from oneflower.cli.session import Session
from oneflower.contexts import CloudName, Context
from oneflower_appliance.errors import ExitCode, OneflowerError

context = typer.Typer(help="The clouds that you know by a name.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the context.")]
Format = Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")]


@context.callback()
def _context() -> None:
    """The clouds that you know by a name."""


@context.command("ls")
def list_all(output: Format = Output.TEXT) -> None:
    """List the contexts. A star marks the one that commands use."""
    known, chosen = Session.contexts.known, Session.chosen.name
    if output is Output.JSON:
        screen.show_json([{**asdict(each), "in_use": each.name == chosen} for each in known.values()])
    elif known:
        rows = [("*" if each.name == chosen else "", each.name, each.cloud, each.place) for each in known.values()]
        screen.show_table(("", "NAME", "CLOUD", "WHERE"), rows)
    else:
        screen.say(f"There is no context in {Session.contexts.path}. Add one with `oneflower context add`.")


@context.command()
def show(output: Format = Output.TEXT) -> None:
    """Show the context that commands use, and the file that it is from."""
    chosen = Session.chosen
    value = {**asdict(chosen), "file": Session.contexts.path}
    of_file = f"in {Session.contexts.path}" if chosen.name else f"none of {Session.contexts.path}"
    screen.show_result(output, value, f"{chosen.label}: cloud {chosen.cloud}, {chosen.place} ({of_file})")


@context.command()
def use(name: Name, output: Format = Output.TEXT) -> None:
    """Let commands use this context from now on, unless they are told another one."""
    found = Session.contexts.get(name)
    replace(Session.contexts, current=name).save()
    screen.show_result(output, found, f"Commands use {name} from now on: cloud {found.cloud}, {found.place}.")


@context.command()
def add(
    name: Name,
    cloud: Annotated[CloudName, typer.Option(help="What it is.")],
    home: Annotated[
        Path | None, typer.Option(metavar="DIR", help="State folder of a local cloud; each is a cloud of its own.")
    ] = None,
    oneflow: Annotated[str, typer.Option(metavar="URL", help="OneFlow of an OpenNebula.")] = "",
    xmlrpc: Annotated[str, typer.Option(metavar="URL", help="XML-RPC of an OpenNebula.")] = "",
    auth: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the line user:password, for you only.")
    ] = None,
    output: Format = Output.TEXT,
) -> None:
    """Add a context. The first one is in use from then on."""
    contexts = Session.contexts
    if name in contexts.known:
        raise OneflowerError(
            f"There is a context called {name!r} already.",
            "Remove it first: `oneflower context rm`.",
            ExitCode.CONFLICT,
        )
    made = Context(name, cloud, _path(home), oneflow.rstrip("/"), xmlrpc, _path(auth)).check()
    if made.auth:
        made.session()
    replace(contexts, known={**contexts.known, name: made}, current=contexts.current or name).save()
    screen.show_result(output, made, f"Added {name}: cloud {made.cloud}, {made.place}.")


@context.command("rm")
def remove(name: Name, output: Format = Output.TEXT) -> None:
    """Remove a context. Its cloud stays as it is."""
    contexts = Session.contexts
    gone = contexts.get(name)
    left = {key: value for key, value in contexts.known.items() if key != name}
    replace(contexts, known=left, current="" if contexts.current == name else contexts.current).save()
    screen.show_result(output, gone, f"Removed {name}. Its cloud stays as it is.")


def _path(given: Path | None) -> str:
    return str(given.expanduser().absolute()) if given else ""
