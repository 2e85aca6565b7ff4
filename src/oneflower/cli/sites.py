"""Commands over other sites of a federation: inviting them, letting them in, suspending and removing them."""

from __future__ import annotations

import stat
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oneflower import moments
from oneflower.cli import screen
from oneflower.cli.federations import Set, Timeout, deploy, policy_setting, settings_of
from oneflower.cli.screen import Output
from oneflower.cli.session import Session
from oneflower.opennebula import NAME, ServiceKind
from oneflower.printable import counted
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oneflower.cloud.sites import SiteNode, Sites, SiteStatus
    from oneflower_appliance.invitation import Invitation

Name = Annotated[str, typer.Argument(metavar="FEDERATION", help="Name or id of the federation.")]
Site = Annotated[str, typer.Argument(metavar="SITE", help="A site, such as north, or one of its nodes: north/2.")]
Keys = Annotated[list[str] | None, typer.Option("--key", help="Only the node with this fingerprint. Repeatable.")]
Format = Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")]


def _sites(name: str | None) -> Sites:
    from oneflower.cloud import Federation  # noqa: PLC0415 - as everything of the client

    return Federation.find(Session.cloud(), name).sites


def invite(
    name: Name,
    site: Annotated[list[str], typer.Option("--site", help="What the site is called here. Repeatable.")],
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="How many SuperNodes each may have.")] = 1,
    expires: Annotated[str, typer.Option("--expires", help="When it can no longer be used first: 12h, 7d.")] = "7d",
    approve: Annotated[bool, typer.Option("--approve", help="Admit them without a further question.")] = False,
    endpoint: Annotated[
        str, typer.Option("--endpoint", help="host:port where the site reaches the SuperLink, if it is another one.")
    ] = "",
    file: Annotated[
        Path | None, typer.Option("--file", help="Write it here, for you only; into a folder as SITE.invitation.")
    ] = None,
    output: Format = Output.TEXT,
) -> None:
    """Invite other sites: print for each a text with which its machines ask to join. It holds a secret."""
    seconds, files, found, made = moments.duration(expires, "--expires"), _files(site, file), _sites(name), []
    until = float(f"{datetime.now(UTC).timestamp() + seconds:.0f}")
    try:
        for each, place in files.items():
            invitation = found.invite(each, nodes, seconds, approves=approve, endpoint=endpoint)
            if place is not None:
                _write(place, invitation.text())
            made.append((invitation, place))
            if output is Output.TEXT:
                _show_invitation(invitation, each, place, until)
    finally:  # an invitation that was made is shown, also if the next one fails
        if output is Output.JSON:
            screen.show_json([_described(invitation, place, until) for invitation, place in made])
    if output is Output.TEXT:
        answer = "They are admitted at once." if approve else f"Then see who asks: {screen.program()} sites {name}"
        screen.say(f"Send each site its invitation over a channel that others cannot read. {answer}")


def _files(sites: Sequence[str], file: Path | None) -> dict[str, Path | None]:
    """Return where each invitation is to be written. Raises `OneflowerError`."""
    if len(set(sites)) < len(sites):
        raise OneflowerError("A site is named twice.", "Name each site once.", ExitCode.USAGE)
    if file is None:
        return dict.fromkeys(sites)
    if file.is_dir():
        return {site: file / f"{site}.invitation" for site in sites}
    if len(sites) == 1:
        return {sites[0]: file}
    raise OneflowerError(
        f"{file} is not a folder, and there is an invitation for each of {len(sites)} sites.",
        "Name a folder that exists, such as `--file .`: there each is written to a file of its own.",
        ExitCode.USAGE,
    )


def _described(invitation: Invitation, file: Path | None, until: float) -> dict[str, Any]:
    said = {"site": invitation.site, "nodes": invitation.nodes, "endpoint": invitation.endpoint, "ca": invitation.ca}
    return said | {"expires": until} | ({"file": str(file)} if file else {"invitation": invitation.text()})


def _show_invitation(invitation: Invitation, site: str, file: Path | None, until: float) -> None:
    count, until_when = counted(invitation.nodes, "node"), _day(until)
    place = f"The invitation is in {file}. " if file else ""
    screen.say(
        f"{site} may ask with {count}, for the first time until {until_when}. {place}"
        f"At the site: oneflower join {file.name if file else 'FILE'}"
    )
    if file is None:
        screen.show(invitation.text())


def _write(file: Path, text: str) -> None:
    from oneflower_appliance.files import write_atomic  # noqa: PLC0415

    write_atomic(file, f"{text}\n")


def sites(
    name: Annotated[str | None, typer.Argument(metavar="[FEDERATION]", help="Name or id of the federation.")] = None,
    output: Format = Output.TEXT,
) -> None:
    """Show the other sites of a federation: who asks to join, with which key, and who takes part."""
    found = _sites(name).all()
    if output is Output.JSON:
        screen.show_json(list(found))
        return
    if not found:
        screen.say("No other site was invited. Invite one with `oneflower invite`.")
        return
    rows = [
        (node.name, node.standing, _online(node), node.fingerprint, node.address, node.node or "-")
        for site in found
        for node in site.nodes
    ]
    if rows:
        screen.show_table(("NODE", "STANDING", "ONLINE", "KEY", "ASKED FROM", "NODE ID"), rows)
    for site in found:
        screen.show_line(_line(site))
    for node in (node for site in found for node in site.nodes if node.warning):
        screen.note(node.warning)
    if asking := [site for site in found if site.asking]:
        keys = " ".join(f"--key {node.fingerprint}" for site in asking for node in site.asking)
        screen.say(
            f"Ask {', '.join(site.name for site in asking)} whether their machines show the same keys. Then: "
            f"{screen.program()} approve {name or 'FEDERATION'} {keys}"
        )


def _online(node: SiteNode) -> str:
    return "yes" if node.online else f"no, since {node.heard[:16].replace('T', ' ')}" if node.heard else "no"


def _line(site: SiteStatus) -> str:
    joined = len(site.nodes) - len(site.asking)
    how = "its invitation was revoked"
    if site.open and joined:
        how = "its invitation is in use"
    elif site.open:
        how = f"its invitation can be used until {_day(site.expires)}"
        if site.expires < datetime.now(UTC).timestamp():
            how = f"its invitation expired on {_day(site.expires)}"
    more = "; it is suspended" if site.suspended else ""
    return f"{site.name}: {joined} of {counted(site.places, 'node')}, {how}{more}"


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def approve(
    name: Name,
    site: Annotated[
        list[str] | None, typer.Argument(metavar="[SITE]...", help="Sites, or nodes of them; not needed with --key.")
    ] = None,
    key: Keys = None,
    everybody: Annotated[bool, typer.Option("--all", help="All that ask now, whatever their keys.")] = False,
    output: Format = Output.TEXT,
) -> None:
    """Let nodes of other sites take part: those that ask, and those that were suspended.

    Each site shows the keys with which its machines ask. Name those: somebody who stole an invitation has another one.
    Ends when they are online, or says which are not after 20 seconds.
    """
    if everybody and (site or key):
        raise OneflowerError("--all is for everybody.", "Leave out the sites and --key, or --all.", ExitCode.USAGE)
    if not (site or key or everybody):
        raise OneflowerError(
            "It is not said who is to take part.",
            f"Name sites, keys (--key) or --all. See who asks: `{screen.program()} sites {name}`.",
            ExitCode.USAGE,
        )
    found = _sites(name)
    changed = found.approve(site or [], key or ())
    who = ", ".join(site) if site else "the sites"
    _show(output, changed, "take part", f"Nobody of {who} asks, and nobody is suspended.")
    if away := found.wait_online(changed):
        screen.note(f"Not online yet: {', '.join(away)}. See `{screen.program()} sites {name}`.")


def suspend(name: Name, site: Site, output: Format = Output.TEXT) -> None:
    """Let nodes of a site take no part until they are approved again. What they send is refused at once."""
    changed = _sites(name).suspend(site)
    _show(output, changed, "are suspended", f"No node of {site} takes part; newcomers will not either.")


def remove(name: Name, site: Site, key: Keys = None, output: Format = Output.TEXT) -> None:
    """Remove nodes of a site for good, or refuse those that ask. A whole site goes with its invitation."""
    changed = _sites(name).remove(site, key or ())
    _show(output, changed, "are removed", f"{site} is removed; it had no nodes.")


def uninvite(
    name: Name,
    site: Annotated[str, typer.Argument(metavar="SITE", help="The site whose invitation to revoke.")],
    output: Format = Output.TEXT,
) -> None:
    """Revoke an invitation, and forget who asked by it. Nodes that were approved stay."""
    kept = _sites(name).uninvite(site)
    _show(
        output, kept, "stay", f"The invitation of {site} is revoked.", before=f"The invitation of {site} is revoked. "
    )


def _show(output: Output, names: list[str], what: str, nobody: str, before: str = "") -> None:
    words = {"take part": "takes part", "are suspended": "is suspended", "are removed": "is removed", "stay": "stays"}
    said = f"{before}{', '.join(names)} {words[what] if len(names) == 1 else what}." if names else nobody
    screen.show_result(output, {"nodes": names}, said)


def join(
    invitation: Annotated[str, typer.Argument(help="The file with the invitation, or - for standard input.")],
    supernodes: Annotated[
        int | None, typer.Option("--supernodes", "-n", min=1, help="How many SuperNodes; usually all it is for.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the service here; usually that of the site.")] = "",
    settings: Set = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What these SuperNodes allow: `oneflower policy example`.")
    ] = None,
    template: Annotated[str, typer.Option(help="Name of the federations' registered service template.")] = NAME,
    timeout: Timeout = 86400,
    output: Format = Output.TEXT,
) -> None:
    """Join a federation elsewhere: deploy SuperNodes here that ask its SuperLink, with keys that never leave them.

    It shows the keys that ask, and waits until the coordinator's operator has approved them. Ctrl-C leaves them asking.
    """
    from oneflower.cloud.names import check_name  # noqa: PLC0415 - as everything of the client
    from oneflower_appliance.invitation import Invitation  # noqa: PLC0415

    text = read_invitation(invitation)
    found = Invitation.parse(text)
    name = check_name(name or found.site)
    number = found.nodes if supernodes is None else supernodes
    given = {"FL_SUPERLINK_ADDRESS": found.endpoint} | settings_of(settings) | policy_setting(policy)
    cloud = Session.cloud(ServiceKind.SITE.template_name(template))
    limits = (1, max(number, found.nodes))
    federation = deploy(cloud, name, number, given | {"FL_INVITATION": text}, limits, timeout, keep=True)
    status = federation.status()
    screen.show_result(
        output,
        status,
        f"{name} has joined: {counted(status.supernodes, 'SuperNode')} of the SuperLink {status.endpoint}.",
    )


def read_invitation(source: str) -> str:
    """Return the text of an invitation: from a file, or from standard input if it is `-`.

    Raises `OneflowerError`, also for the text itself: every user of this machine can read the arguments of a program.
    """
    from oneflower_appliance.invitation import Invitation  # noqa: PLC0415

    if source.startswith("oneflower-invitation"):
        raise OneflowerError(
            "An invitation holds a secret, and other users can see what a command is called with.",
            "Put it into a file that only you can read, or pass it to standard input: `oneflower join -`.",
            ExitCode.USAGE,
        )
    try:
        if source == "-":
            text = sys.stdin.read(8192)
        else:
            path = Path(source)
            text = path.read_text(encoding="utf-8")[:8192]
            if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                screen.note(f"Other users of this machine may read {path}: `chmod 600 {path}`.")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text"
        raise OneflowerError(f"Cannot read the invitation in {source}: {reason}.", "", ExitCode.NOT_FOUND) from error
    return Invitation.parse(text).text()
