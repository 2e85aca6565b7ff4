"""The commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from click.core import ParameterSource

from oneflower.cli import (
    apps,
    audit,
    bundle,
    cache,
    doctor,
    federations,
    images,
    local,
    logs,
    marketplace,
    metrics,
    page,
    policy,
    registration,
    rotation,
    shown,
    sites,
    templates,
    track,
    training,
    upgrade,
)
from oneflower.cli import (
    context as contexts,
)
from oneflower.cli.session import CloudName, Session

app = typer.Typer(
    suggest_commands=False,  # click does it
    name="oneflower",
    help="Federated learning with Flower: the same federation on OpenNebula and on this machine.",
    epilog="Start with `oneflower demo`. Exit codes: docs/exit-codes.md.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:  # noqa: FBT001 - how typer hands it over
    if value:
        from oneflower import __version__  # noqa: PLC0415

        typer.echo(f"oneflower {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    cloud: Annotated[
        CloudName | None, typer.Option(envvar="ONEFLOWER_CLOUD", help="Where federations live; usually local.")
    ] = None,
    chosen: Annotated[
        str,
        typer.Option("--context", envvar="ONEFLOWER_CONTEXT", help="A cloud by its name: `oneflower context ls`."),
    ] = "",
    config: Annotated[
        Path | None,
        typer.Option(
            "--cloud-config",
            envvar="ONEFLOWER_CLOUD_CONFIG",
            help="File with the contexts; usually ~/.config/oneflower/clouds.toml.",
        ),
    ] = None,
    _debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Federated learning with Flower: the same federation on OpenNebula and on this machine."""
    typed = {name for name in ("cloud", "chosen") if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if len(typed) == 1:  # what is typed counts before the environment
        cloud, chosen = (cloud, "") if "cloud" in typed else (None, chosen)
    Session.choose(config, chosen, cloud)


_START, _OPERATE, _SITES, _SITE = "Start here", "Operate a federation", "With other sites", "Operate a site"

app.command(rich_help_panel=_START)(training.demo)
app.command(rich_help_panel=_START)(federations.up)
app.command(rich_help_panel=_START)(apps.new)
app.command(rich_help_panel=_START)(training.run)
app.command(rich_help_panel=_START)(training.model)
app.command("down", rich_help_panel=_START)(federations.down)
app.command(rich_help_panel=_OPERATE)(page.ui)
app.command("ls", rich_help_panel=_OPERATE)(shown.list_all)
app.command(rich_help_panel=_OPERATE)(shown.show)
app.command(rich_help_panel=_OPERATE)(logs.logs)
app.command(rich_help_panel=_OPERATE)(audit.audit)
app.command(rich_help_panel=_OPERATE)(track.track)
app.command(rich_help_panel=_OPERATE)(federations.scale)
app.command(rich_help_panel=_OPERATE)(federations.recover)
app.command(rich_help_panel=_OPERATE)(upgrade.upgrade)
app.command(rich_help_panel=_OPERATE)(training.connect)
app.add_typer(metrics.metrics, name="metrics", rich_help_panel=_OPERATE)
app.command(rich_help_panel=_SITES)(sites.invite)
app.command(rich_help_panel=_SITES)(sites.join)
app.command(rich_help_panel=_SITES)(sites.uninvite)
app.command("sites", rich_help_panel=_SITES)(sites.sites)
app.command(rich_help_panel=_SITES)(sites.approve)
app.command(rich_help_panel=_SITES)(sites.suspend)
app.command(rich_help_panel=_SITES)(sites.remove)
app.command("rotate", rich_help_panel=_OPERATE)(rotation.rotate)
app.command(rich_help_panel=_SITE)(bundle.bundle)
app.command(rich_help_panel=_SITE)(registration.register)
app.command(rich_help_panel=_SITE)(registration.unregister)
app.command(rich_help_panel=_SITE)(templates.render)
app.command(rich_help_panel=_SITE)(templates.validate)
app.command(rich_help_panel=_SITE)(doctor.doctor)
app.command(rich_help_panel=_START)(policy.sign)
app.add_typer(policy.policy, name="policy", rich_help_panel=_SITE)
app.add_typer(policy.trust, name="trust", rich_help_panel=_SITE)
app.add_typer(marketplace.marketplace, name="marketplace", rich_help_panel=_SITE)
app.add_typer(contexts.context, name="context", rich_help_panel=_SITE)
app.add_typer(local.local, name="local", rich_help_panel=_SITE)
app.add_typer(cache.cache, name="cache", rich_help_panel=_SITE)
app.add_typer(images.image, name="image", rich_help_panel=_SITE)
