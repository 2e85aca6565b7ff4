"""`oneflower audit`: who did what, here and on a SuperLink, and whether the logs of it are whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from oneflower import moments
from oneflower.cli import screen
from oneflower.cli.screen import Output
from oneflower.cli.session import Session
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower.cloud import Cloud, Federation
    from oneflower_appliance.audit import Verdict

_OWN, _SUPERLINK = "operator", "SuperLink"
_SHOWN = ("n", "time", "action", "outcome", "by", "before")


def audit(
    name: Annotated[
        str | None, typer.Argument(metavar="[FEDERATION]", help="Name or id of a federation; its SuperLink is asked.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Only what is not older: 30s, 10m, 2h, 1d, or a time (ISO 8601).")
    ] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")] = Output.TEXT,
) -> None:
    """Show who did what to federations, and verify that nothing was changed in the records.

    Exits with 11 if a record was changed or cut; docs/see-it.md says what that shows and what it does not.
    """
    from oneflower.cloud.audit import read_own  # noqa: PLC0415 - as everything of the client

    cloud, start = Session.cloud(), moments.since(since) if since else 0.0
    found = {_OWN: read_own(cloud)}
    federation, missing, unchecked = _find(cloud, name, found[_OWN]), "", None
    if federation is not None:
        try:
            if theirs := federation.audit():
                found[_SUPERLINK] = theirs
            else:
                missing = "Its SuperLink keeps no audit log: it is of an older release."
        except OneflowerError as error:
            unchecked, missing = error, f"Its SuperLink's audit log cannot be fetched. {error.message}"
    elif name:
        missing = f"There is no federation {name!r} any more, and its SuperLink's audit log went with it."
    names: set[str | None] = {name, federation.name if federation else name} if name else set()
    shown = {whose: _chosen(log, start, names if whose == _OWN else set()) for whose, log in found.items()}
    if output is Output.JSON:
        screen.show_json({whose: _as_json(log, shown[whose]) for whose, log in found.items()} | {"missing": missing})
    else:
        _show(found, shown)
    if missing and not unchecked:
        screen.note(missing)
    if broken := [
        f"The audit log of the {whose} is broken. {log.broken}" for whose, log in found.items() if log.broken
    ]:
        raise OneflowerError(" ".join(broken), "Keep a copy of it, and find out who could write it.", ExitCode.TAMPERED)
    if unchecked:
        raise OneflowerError(missing, unchecked.hint, unchecked.code)


def _find(cloud: Cloud, name: str | None, own: Verdict) -> Federation | None:
    """Return the federation; None if none is asked for, or if it is gone and there are entries about it."""
    from oneflower.cloud import Federation  # noqa: PLC0415

    if name is None:
        return None
    try:
        return Federation.find(cloud, name)
    except OneflowerError as error:
        if error.code is ExitCode.NOT_FOUND and any(_is_about(entry, {name}) for entry in own.entries):
            return None
        raise


def _is_about(entry: Mapping[str, Any], names: set[str | None]) -> bool:
    return not names or entry.get("federation") in names or entry.get("service") in names


def _chosen(log: Verdict, start: float, names: set[str | None]) -> list[dict[str, Any]]:
    return [
        entry
        for entry in log.entries
        if _is_about(entry, names) and (moments.seconds_of(str(entry.get("time"))) or 0) >= start
    ]


def _show(found: Mapping[str, Verdict], shown: Mapping[str, list[dict[str, Any]]]) -> None:
    rows = [
        (whose, *(str(entry.get(key, "")) for key in _SHOWN[:-1]), _rest(entry))
        for whose, entries in shown.items()
        for entry in entries
    ]
    if rows:
        screen.show_table(("LOG", "N", "TIME", "ACTION", "OUTCOME", "BY", "MORE"), rows)
    for whose, log in found.items():
        if not log.broken:
            note = f" {log.note}" if log.note else ""
            screen.show_line(
                f"The audit log of the {whose} is whole: {len(log.entries)} entries.{note} Last: {log.head}"
            )


def _rest(entry: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in entry.items() if key not in _SHOWN)


def _as_json(log: Verdict, entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {"entries": entries, "head": str(log.head), "broken": log.broken, "note": log.note}
