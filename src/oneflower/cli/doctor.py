"""The command `doctor`: whether this machine, an OpenNebula or a site can take part in a federation."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oneflower.cli import screen
from oneflower.cli.federations import Set, policy_setting, settings_of
from oneflower.cli.screen import Output
from oneflower.cli.session import Session
from oneflower.opennebula import NAME
from oneflower_appliance.checks import FAIL, OK, WARN, Check, Topic
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Iterator

_GIGABYTE = 10**9
_DISK, _MEMORY = 2, 2  # gigabytes
_FROM_ANYWHERE = (Topic.SUPERLINK, Topic.CERTIFICATE, Topic.CLOCK, Topic.POLICY)


def doctor(
    name: Annotated[str, typer.Option("--name", help="The registration to look at, on OpenNebula.")] = NAME,
    site: Annotated[
        str,
        typer.Option(
            "--site",
            metavar="INVITATION|NAME",
            help="Whether a site can take part: a file with an invitation before it joins, or a service here.",
        ),
    ] = "",
    settings: Set = None,
    policy: Annotated[Path | None, typer.Option(metavar="FILE", help="With --site: what the site allows.")] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")] = Output.TEXT,
) -> None:
    """Check whether this machine, or your OpenNebula, can run a federation, and say what to do if it cannot.

    With --site it also looks at what decides whether a site can take part: the SuperLink's port, the proxy, the CA,
    the clock, the policy, memory, disk, GPU, and the data, which does not leave its machine. --set says how the site
    joins: FL_PROXY, FL_DATA_PATH. Nothing is deployed.
    """
    checks = [Check(OK, "context", _context()), *(_here() if Session.is_local() else _opennebula(name))]
    if site:
        checks += _before_joining(site, settings, policy) if Path(site).is_file() else _of_service(site)
    elif settings or policy:
        raise OneflowerError("--set and --policy belong to --site.", "Give the invitation, too.", ExitCode.USAGE)
    if output is Output.JSON:
        screen.show_json(checks)
    else:
        screen.show_table(("", "CHECK", "RESULT"), [(check.status, check.what, check.detail) for check in checks])
        for check in checks:
            if check.fix:
                screen.show(f"{check.status} {check.what}: {check.fix}")
    if any(check.status == FAIL for check in checks):
        raise typer.Exit(ExitCode.ENVIRONMENT if Session.is_local() else ExitCode.CLOUD)


def _opennebula(name: str) -> Iterator[Check]:
    from oneflower.cloud.checkup import checkup  # noqa: PLC0415 - costs time that --help need not spend

    with closing(Session.cloud()) as cloud:
        yield from checkup(cloud, name)


def _before_joining(invitation: str, given: list[str] | None, policy: Path | None) -> Iterator[Check]:
    """Yield what a SuperNode that joins by an invitation would meet here.

    In the local cloud it would be on this machine. In an OpenNebula each machine looks at the rest when it boots.
    """
    from oneflower.cli.sites import read_invitation  # noqa: PLC0415
    from oneflower.cloud.site_check import check_from_here  # noqa: PLC0415
    from oneflower.runtimes import runtime  # noqa: PLC0415
    from oneflower_appliance.parameters import FLOWER_TESTED, PARAMETERS  # noqa: PLC0415

    settings = settings_of(given) | policy_setting(policy) | {"FL_INVITATION": read_invitation(invitation)}
    if not Session.is_local():
        for check in check_from_here(Path(sys.executable), None, settings, Path.cwd()):
            if check.what in _FROM_ANYWHERE:
                yield replace(check, what=f"from here: {check.what}")
        yield Check(OK, "machines", "each looks at its memory, disk, GPU and data when it boots: doctor --site NAME")
        return
    home = Session.home()
    framework = settings.get("ML_FRAMEWORK") or PARAMETERS["ML_FRAMEWORK"].default
    built = runtime.find(home.runtimes, settings.get("FLOWER_VERSION") or FLOWER_TESTED, framework)
    python, appliance = (built.python, built.appliance) if built else (Path(sys.executable), None)
    for check in check_from_here(python, appliance, settings, home.state):
        yield replace(check, what=f"site: {check.what}")


def _of_service(name: str) -> Iterator[Check]:
    """Yield what the SuperNodes of a service looked at when they booted."""
    from oneflower.cloud import Federation  # noqa: PLC0415
    from oneflower.opennebula import NODES  # noqa: PLC0415

    with closing(Session.cloud()) as cloud:
        status = Federation.find(cloud, name).status()
    for vm in (vm for vm in status.vms if vm.role == NODES):
        if not vm.ready:
            yield Check(FAIL, vm.name, vm.line, f"{screen.program()} show {name}; {screen.program()} logs {name}")
        elif not vm.checks:
            yield Check(WARN, vm.name, "it published no checks: its oneflower is of an older release", "")
        for check in vm.checks:
            yield replace(check, what=f"{vm.name}: {check.what}")


def _here() -> Iterator[Check]:
    """Yield whether this machine can run the local cloud."""
    from oneflower.local import daemon  # noqa: PLC0415
    from oneflower.runtimes import runtime  # noqa: PLC0415
    from oneflower_appliance.parameters import FLOWER_TESTED  # noqa: PLC0415

    home = Session.home()
    yield Check(OK, "Python", sys.version.split()[0])
    yield _system()
    yield _loopback()
    yield from (_folder(what, path) for what, path in (("state folder", home.state), ("runtime folder", home.cache)))
    memory = _available_memory() / _GIGABYTE
    enough = OK if memory > _MEMORY else WARN
    yield Check(enough, "memory", f"{memory:.1f} GB available; a node takes about 0.3 GB")
    built = runtime.find(home.runtimes, FLOWER_TESTED, "sklearn") is not None
    yield Check(
        OK, "runtime", f"Flower {FLOWER_TESTED} + sklearn " + ("is built" if built else "is built on first use")
    )
    if ssh := shutil.which("ssh"):
        yield Check(OK, "ssh", ssh)
    else:
        yield Check(WARN, "ssh", "not found; `run` on OpenNebula needs it", "Install openssh-client.")
    found = daemon.find(home)
    yield Check(OK, "local cloud", f"runs as process {found.pid}" if found else "is started on first use")
    if found:
        from oneflower.cloud.checkup import look_at_federations  # noqa: PLC0415

        with closing(Session.cloud()) as cloud:
            yield from look_at_federations(cloud)


def _system() -> Check:
    if sys.platform == "linux":
        return Check(OK, "operating system", "Linux")
    return Check(
        FAIL, "operating system", sys.platform, "The local cloud needs Linux; OpenNebula can be used from here."
    )


def _loopback() -> Check:
    try:
        with socket.socket() as probe:
            probe.bind(("127.77.77.77", 0))
    except OSError as error:
        return Check(FAIL, "loopback addresses", f"127.77.77.77 cannot be used: {error}", "Allow all of 127.0.0.0/8.")
    return Check(OK, "loopback addresses", "127.0.0.0/8 can be used")


def _folder(what: str, folder: Path) -> Check:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        return Check(FAIL, what, f"{folder} cannot be written", "Change its owner, or set ONEFLOWER_HOME.")
    free = shutil.disk_usage(existing).free / _GIGABYTE
    if free > _DISK:
        return Check(OK, what, f"{folder}, {free:.0f} GB free")
    return Check(FAIL, what, f"{folder}, {free:.0f} GB free", f"{_DISK} GB are needed.")


def _context() -> str:
    """Return which context is in use, and where that cloud is."""
    chosen = Session.chosen
    return f"{chosen.label}: cloud {chosen.cloud}, {chosen.place}"


def _available_memory() -> int:
    import psutil  # noqa: PLC0415

    return int(psutil.virtual_memory().available)
