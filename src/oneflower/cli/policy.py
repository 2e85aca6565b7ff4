"""Commands over what a site allows: `policy`, `trust`, and `sign`, by which apps are allowed by who signed them."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oneflower.cli import screen
from oneflower.cli.screen import Output
from oneflower.cli.session import Session
from oneflower.cli.steps import step
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.log_lines import moment
from oneflower_appliance.parameters import FLOWER_TESTED

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from oneflower.cloud.site_folder import SiteFolder
    from oneflower_appliance.app_bundle import Bundle

policy = typer.Typer(help="What this site allows on its SuperNodes.", no_args_is_help=True)
trust = typer.Typer(help="Who may sign apps for this site.", no_args_is_help=True)

Format = Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")]
File = Annotated[
    Path | None,
    typer.Option("--policy", metavar="FILE", help="The policy; usually ~/.config/oneflower/site/policy.toml."),
]
Release = Annotated[str, typer.Option("--flower-version", help="The release of Flower that bundles the app.")]
App = Annotated[str, typer.Argument(metavar="APP", help="Folder of the app, a bundle (.fab) or a pre-built app.")]
AppOrHash = Annotated[
    str,
    typer.Argument(metavar="APP", help="As `policy asks` prints its content hash; or its folder, bundle or name."),
]


@policy.callback()
def _policy() -> None:
    """What this site allows on its SuperNodes."""


@trust.callback()
def _trust() -> None:
    """Who may sign apps for this site."""


@policy.command()
def example(output: Format = Output.TEXT) -> None:
    """Print a policy with every key and what it means."""
    from oneflower_appliance.site_policy import EXAMPLE  # noqa: PLC0415 - costs time that --help need not spend

    screen.show_result(output, {"policy": EXAMPLE}, EXAMPLE.rstrip("\n"))


@policy.command()
def check(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="The policy, in TOML.")] = None,
    output: Format = Output.TEXT,
) -> None:
    """Check a policy, with the signers and approved apps beside it. Every error is listed."""
    from oneflower.cloud.site_folder import SiteFolder  # noqa: PLC0415
    from oneflower_appliance.site_policy import SitePolicy  # noqa: PLC0415

    folder = SiteFolder(file)
    found = SitePolicy.parse(folder.text())
    said = {
        "file": str(folder.path),
        "digest": found.digest,
        "apps": found.apps,
        "signers": [signer.name for signer in found.signers],
        "hashes": sorted(found.hashes),
        "hours": str(found.hours or ""),
        "privacy": str(found.privacy or ""),
        "task": str(found.task or ""),
    }
    lines = [f"{folder.path} is valid. Policy {found.summary}."]
    lines += [f"  signer {signer.name} {signer.fingerprint}" for signer in found.signers]
    lines += [f"  app {content}" for content in sorted(found.hashes)]
    lines += [f"  hours {found.hours}"] if found.hours else []
    lines += [f"  privacy {found.privacy}"] if found.privacy else []
    lines += [f"  task {found.task}"] if found.task else []
    screen.show_result(output, said, "\n".join(lines))


@policy.command("hash")
def content_hash(app: App, flower_version: Release = FLOWER_TESTED, output: Format = Output.TEXT) -> None:
    """Print the content hash of an app, which a policy can list."""
    bundle = _bundle(app, flower_version)
    screen.show_result(output, {"app": bundle.label, "content": bundle.content_hash}, bundle.content_hash)


@policy.command()
def asks(output: Format = Output.TEXT) -> None:
    """List the apps that wait for an approval on this site's SuperNodes."""
    from oneflower.cloud.asks import SiteMachines  # noqa: PLC0415

    with closing(Session.cloud()) as cloud:
        found = SiteMachines(cloud).waiting()
    if output is Output.JSON:
        screen.show_json([{"service": one.service, "machine": one.machine, **asdict(one.ask)} for one in found])
    elif found:
        columns = ("APP", "CONTENT", "ON", "RUN", "SINCE")
        rows = [
            (one.ask.app, one.ask.content[:12], f"{one.service}/{one.machine}", one.ask.run, moment(one.ask.since))
            for one in found
        ]
        screen.show_table(columns, rows)
    else:
        screen.say("No app waits for an approval.")


@policy.command()
def budget(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of the federation or site.")] = None,
    output: Format = Output.TEXT,
) -> None:
    """Show what the SuperNodes of this site have spent of their privacy budgets, in all and by run."""
    from oneflower.cloud import Federation  # noqa: PLC0415

    with closing(Session.cloud()) as cloud:
        vms = [vm for vm in Federation.find(cloud, name).status().vms if vm.budget]
    largest = max((vm.budget.epsilon for vm in vms if vm.budget), default=0.0)
    if output is Output.JSON:
        nodes = [{"machine": vm.name, "node": vm.node_id, **asdict(vm.budget)} for vm in vms if vm.budget]
        screen.show_json({"epsilon": largest, "nodes": nodes})
        return
    if not vms:
        screen.say("No SuperNode here has a policy with [privacy].")
        return
    rows = [
        (vm.name, one.run, one.updates, f"{one.epsilon:.3g}", one.last)
        for vm in vms if vm.budget
        for one in vm.budget.runs
    ]  # fmt: skip
    for vm in vms:
        screen.show_line(f"{vm.name}: {vm.budget.sentence if vm.budget else ''}")
    if rows:
        screen.show_table(("MACHINE", "RUN", "UPDATES", "EPSILON", "LAST"), rows)
    screen.show_line(f"The site has spent epsilon {largest:.3g}, if no person is in the data of two nodes.")


@policy.command()
def approve(
    app: AppOrHash,
    file: File = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    flower_version: Release = FLOWER_TESTED,
    output: Format = Output.TEXT,
) -> None:
    """Show the files of an app and what changed since the last one that was approved, and approve it.

    SuperNodes that ask (`apps = "ask"`) allow it within seconds.
    """
    from oneflower.cloud.asks import SiteMachines  # noqa: PLC0415
    from oneflower.cloud.site_folder import SiteFolder, changed_lines, differences  # noqa: PLC0415

    folder = SiteFolder(file)
    site = SiteMachines(Session.cloud())
    bundle = site.bundle(app) or _bundle(app, flower_version)
    old = folder.before(bundle)
    since = "since the last one that was approved" if old else "of which none was approved before"
    screen.say(f"{bundle.label}, {since}. Content {bundle.content_hash}")
    for name, how in differences(old, bundle):
        screen.say(f"  {how:8} {name}")
    for line in changed_lines(old, bundle) if old else ():
        screen.say(line)
    if not yes:
        if not sys.stdin.isatty():
            raise OneflowerError("Nobody was asked, so nothing was approved.", "Say `--yes`.", ExitCode.USAGE)
        if not typer.confirm("Approve it?", err=True):
            raise OneflowerError("It was not approved.", "", ExitCode.CONFLICT)
    done, machines = site.approve(folder, bundle)
    now = f"Now on {', '.join(machines)}, and on" if machines else "On"
    text = f"Approved {done.app}. {now} SuperNodes that are deployed with this policy from now on."
    screen.show_result(output, {**asdict(done), "machines": machines}, text)


@policy.command("ls")
def list_approved(file: File = None, output: Format = Output.TEXT) -> None:
    """List the apps that were approved."""
    from oneflower.cloud.site_folder import SiteFolder  # noqa: PLC0415

    found = SiteFolder(file).approved()
    if output is Output.JSON:
        screen.show_json(found)
    elif found:
        screen.show_table(("APP", "CONTENT", "BY", "AT"), [(one.app, one.content, one.by, one.at) for one in found])
    else:
        screen.say("No app was approved.")


@trust.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the signer, like alice@example.org.")],
    key: Annotated[Path, typer.Argument(metavar="KEY.pub", help="The signer's public key.")],
    file: File = None,
    output: Format = Output.TEXT,
) -> None:
    """Trust a signer: apps that they signed may run where the policy asks for signed apps."""
    from oneflower.cloud.site_folder import SiteFolder  # noqa: PLC0415

    try:
        line = key.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise OneflowerError(f"{key} cannot be read: {error}.", "Name a public key.", ExitCode.NOT_FOUND) from error
    if "PRIVATE KEY" in line:
        raise OneflowerError(f"{key} is a private key.", f"Name its public key: {key}.pub.")
    folder = SiteFolder(file)
    with _recorded("trust.add", folder, signer=name) as more:
        signer = folder.trust(f"{name} {line}")
        more["key"] = signer.fingerprint
    said = {"name": signer.name, "key": signer.fingerprint}
    screen.show_result(output, said, f"{signer.name} is trusted: {signer.fingerprint}")


@trust.command("ls")
def list_signers(file: File = None, output: Format = Output.TEXT) -> None:
    """List the signers that are trusted."""
    from oneflower.cloud.site_folder import SiteFolder  # noqa: PLC0415

    found = SiteFolder(file).signers()
    if output is Output.JSON:
        screen.show_json([{"name": one.name, "key": one.fingerprint, "kind": one.kind} for one in found])
    elif found:
        screen.show_table(("NAME", "KEY", "KIND"), [(one.name, one.fingerprint, one.kind) for one in found])
    else:
        screen.say("No signer is trusted.")


@trust.command("rm")
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the signer.")],
    file: File = None,
    output: Format = Output.TEXT,
) -> None:
    """Trust a signer no longer. SuperNodes that are deployed from now on refuse what only they signed."""
    from oneflower.cloud.site_folder import SiteFolder  # noqa: PLC0415

    folder = SiteFolder(file)
    with _recorded("trust.remove", folder, signer=name):
        count = folder.distrust(name)
    screen.show_result(output, {"name": name, "keys": count}, f"{name} is not trusted any more (keys: {count}).")


def sign(
    app: Annotated[Path, typer.Argument(metavar="APP", help="Folder of the app.")] = Path(),
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="SSH key, or the public key of one in an agent; usually ~/.ssh/id_ed25519."),
    ] = None,
    flower_version: Release = FLOWER_TESTED,
    output: Format = Output.TEXT,
) -> None:
    """Sign an app with an SSH key, so that sites can tell whose it is and that nobody changed it."""
    from oneflower.cloud import app_signing  # noqa: PLC0415

    done = app_signing.sign(app, key, lambda: _bundle(str(app), flower_version))
    screen.show_result(
        output, done, f"Signed {done.app} with {done.keys[-1]}. It is in {done.file}, and travels with the app."
    )


def _recorded(action: str, folder: SiteFolder, **more: str) -> AbstractContextManager[dict[str, str]]:
    """Record in the operator's audit log what is done here to a policy."""
    from oneflower.cloud.audit import recorded  # noqa: PLC0415
    from oneflower.clouds import audit_of  # noqa: PLC0415

    said: dict[str, Any] = {"policy": str(folder.path), **more}
    return recorded(audit_of(Session.home()), screen.say, action, **said)


def _bundle(app: str, version: str) -> Bundle:
    """Return the bundle of an app. Flower builds it, in a runtime of this machine."""
    from oneflower.api import bundled  # noqa: PLC0415

    with step("bundling the app") as steps:
        return bundled(app, version, steps.notify)
