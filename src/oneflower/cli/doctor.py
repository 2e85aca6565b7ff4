"""The command `doctor`: whether this machine can run a federation."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from oneflower.cli import screen
from oneflower.cli.screen import Output
from oneflower.cli.session import Session
from oneflower.opennebula import NAME
from oneflower_appliance.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

_GIGABYTE = 10**9
_DISK, _MEMORY = 2, 2  # gigabytes

_Row = tuple[str, str, str]


def doctor(
    name: Annotated[str, typer.Option("--name", help="The registration to look at, on OpenNebula.")] = NAME,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")] = Output.TEXT,
) -> None:
    """Check whether this machine, or your OpenNebula, can run a federation, and say what to do if it cannot."""
    if not Session.is_local():
        _show_opennebula(name, output)
        return
    checks = list(_checks())
    if output is Output.JSON:
        screen.show_json([{"status": status, "what": what, "detail": detail} for status, what, detail in checks])
    else:
        screen.show_table(("", "CHECK", "RESULT"), checks)
    if any(status == "fail" for status, _, _ in checks):
        raise typer.Exit(ExitCode.ENVIRONMENT)


def _show_opennebula(name: str, output: Output) -> None:
    from oneflower.cloud.checkup import FAIL, OK, Check, checkup  # noqa: PLC0415

    with closing(Session.cloud()) as cloud:
        checks = [Check(OK, "context", _context()), *checkup(cloud, name)]
    if output is Output.JSON:
        screen.show_json(checks)
    else:
        rows = [(check.status, check.what, check.detail) for check in checks]
        screen.show_table(("", "CHECK", "RESULT"), rows)
        for check in checks:
            if check.fix:
                screen.show(f"{check.status} {check.what}: {check.fix}")
    if any(check.status == FAIL for check in checks):
        raise typer.Exit(ExitCode.CLOUD)


def _checks() -> Iterator[_Row]:
    from oneflower.local import daemon  # noqa: PLC0415
    from oneflower.runtimes import runtime  # noqa: PLC0415
    from oneflower_appliance.parameters import FLOWER_TESTED  # noqa: PLC0415

    home = Session.home()
    yield "ok", "context", _context()
    yield "ok", "Python", sys.version.split()[0]
    if sys.platform == "linux":
        yield "ok", "operating system", "Linux"
    else:
        yield (
            "fail",
            "operating system",
            f"{sys.platform}: the local cloud needs Linux; OpenNebula can be used from here",
        )
    try:
        with socket.socket() as probe:
            probe.bind(("127.77.77.77", 0))
        yield "ok", "loopback addresses", "127.0.0.0/8 can be used"
    except OSError as error:
        yield "fail", "loopback addresses", f"127.77.77.77 cannot be used: {error}"
    for what, folder in (("state folder", home.state), ("runtime folder", home.cache)):
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(existing).free / _GIGABYTE
        if not os.access(existing, os.W_OK):
            yield "fail", what, f"{folder} cannot be written: change its owner or set ONEFLOWER_HOME"
        else:
            status = "ok" if free > _DISK else "fail"
            yield status, what, f"{folder}, {free:.0f} GB free" + ("" if status == "ok" else f"; {_DISK} GB are needed")
    memory = _available_memory() / _GIGABYTE
    yield ("ok" if memory > _MEMORY else "warn"), "memory", f"{memory:.1f} GB available; a node takes about 0.3 GB"
    built = runtime.find(home.runtimes, FLOWER_TESTED, "sklearn") is not None
    yield "ok", "runtime", f"Flower {FLOWER_TESTED} + sklearn " + ("is built" if built else "is built on first use")
    ssh = shutil.which("ssh")
    yield ("ok", "ssh", ssh) if ssh else ("warn", "ssh", "not found; `run` on OpenNebula needs it (openssh-client)")
    found = daemon.find(home)
    yield "ok", "local cloud", f"runs as process {found.pid}" if found else "is started on first use"
    if found:
        from oneflower.cloud.checkup import look_at_federations  # noqa: PLC0415

        with closing(Session.cloud()) as cloud:
            yield from (
                (each.status, each.what, f"{each.detail}. {each.fix}".rstrip(". "))
                for each in look_at_federations(cloud)
            )


def _context() -> str:
    """Return which context is in use, and where that cloud is."""
    chosen = Session.chosen
    return f"{chosen.label}: cloud {chosen.cloud}, {chosen.place}"


def _available_memory() -> int:
    import psutil  # noqa: PLC0415

    return int(psutil.virtual_memory().available)
