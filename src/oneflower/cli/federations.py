"""Commands over the life of a federation."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oneflower.cli import screen
from oneflower.cli.screen import Output
from oneflower.cli.session import Session
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oneflower.cloud import Federation, FederationStatus

Name = Annotated[str | None, typer.Argument(help="Name or id of the federation; may be left out when there is one.")]
Format = Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds to wait at most.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Set a variable (docs/parameters.md); @FILE for certificates. Repeatable."
    ),
]
Supernodes = Annotated[int, typer.Option("--supernodes", "-n", help="How many SuperNodes.")]

HEALING = 60.0  # seconds that a running federation is given to mend itself before a failure counts


def pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """Split NAME=VALUE texts. Raises `OneflowerError` naming the first that is none."""
    found: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise OneflowerError(f"{option} {text!r} is not of the form NAME=VALUE.", "", ExitCode.USAGE)
        found[name] = value
    return found


def settings_of(texts: Iterable[str] | None) -> dict[str, str]:
    """Split the values of --set; a certificate or key may be given as @FILE, which keeps it out of process lists."""
    from oneflower_appliance.parameters import PARAMETERS, Kind  # noqa: PLC0415

    given = pairs(texts or (), "--set")
    for name, value in given.items():
        if value.startswith("@") and name in PARAMETERS and PARAMETERS[name].kind is Kind.TEXT64:
            try:
                given[name] = base64.b64encode(Path(value[1:]).read_bytes()).decode()
            except OSError as error:
                raise OneflowerError(
                    f"{name}: cannot read {value[1:]}: {error.strerror}.", "", ExitCode.NOT_FOUND
                ) from error
    return given


def up(
    name: Annotated[str, typer.Argument(help="What to call it.")] = "federation",
    supernodes: Supernodes = 2,
    settings: Set = None,
    min_vms: Annotated[int, typer.Option(help="Never fewer SuperNodes than this.")] = 2,
    max_vms: Annotated[int, typer.Option(help="Never more SuperNodes than this.")] = 10,
    keep: Annotated[bool, typer.Option("--keep", help="Leave what is there when it fails or is interrupted.")] = False,
    timeout: Timeout = 600,
    output: Format = Output.TEXT,
) -> None:
    """Deploy a federation: one SuperLink, then its SuperNodes, and wait until every one of them is ready."""
    federation, status = deploy(name, supernodes, settings_of(settings), (min_vms, max_vms), timeout, keep=keep)
    screen.show_result(
        output,
        status,
        f"Federation {federation.name} is ready: SuperLink {status.endpoint}, {status.supernodes} SuperNodes.\n"
        f"Train with: oneflower run image-classification --federation {federation.name}",
    )


def deploy(
    name: str, supernodes: int, settings: dict[str, str], limits: tuple[int, int], timeout: float, *, keep: bool
) -> tuple[Federation, FederationStatus]:
    """Deploy and wait; on failure or Ctrl-C take down again what was begun, unless `keep`."""
    from oneflower.cloud import Federation  # noqa: PLC0415
    from oneflower_appliance.parameters import Bounds, remarks, resolve  # noqa: PLC0415

    least, most = limits
    wanted = settings.get("FL_MIN_AVAILABLE_CLIENTS", "")
    # A federation must not be scaled below what a round needs, so its own lower bound follows that setting.
    if wanted.isdigit() and least < int(wanted) <= supernodes:
        least = int(wanted)
    bounds = Bounds(least, most, supernodes)
    resolved = resolve(settings, bounds=bounds)
    for remark in remarks(resolved):
        screen.say(f"Note: {remark}")
    if Session.is_local():
        prepare_runtime(resolved["FLOWER_VERSION"], resolved["ML_FRAMEWORK"])
    cloud = Session.cloud()
    federation = Federation.deploy(cloud, Session.template(), name, settings, bounds)
    try:
        with screen.DeployProgress(f"deploying {name} with {supernodes} SuperNodes") as progress:
            return federation, federation.wait_ready(timeout, progress.update)
    except BaseException:
        if keep:
            screen.say(
                f"Left as it is (--keep). Look with `oneflower logs {name}`; remove with `oneflower down {name}`."
            )
        else:
            _show_consoles(federation)
            with screen.step(f"rolling back: removing {name}"):
                federation.delete()
        raise


def prepare_runtime(version: str, framework: str) -> None:
    """Build the runtime of the local cloud if it is not there yet."""
    from oneflower.local import runtime  # noqa: PLC0415
    from oneflower.local.home import LocalHome  # noqa: PLC0415

    home = LocalHome.of_user()
    if runtime.find(home, version, framework) is None:
        with screen.step(f"building the runtime Flower {version} + {framework}, once"):
            runtime.ensure(home, version, framework)


def list_all(output: Format = Output.TEXT) -> None:
    """List the federations."""
    from oneflower.cloud import Federation  # noqa: PLC0415

    found = [federation.status() for federation in Federation.all(Session.cloud())]
    if output is Output.JSON:
        screen.show_json(found)
    elif found:
        rows = [(s.id, s.name, s.state, f"{_ready(s)}/{len(s.vms)}", s.supernodes, s.endpoint or "-") for s in found]
        screen.show_table(("ID", "NAME", "STATE", "READY", "SUPERNODES", "SUPERLINK"), rows)
    else:
        screen.say("There is no federation. Deploy one with `oneflower up`.")


def _ready(status: FederationStatus) -> int:
    return sum(vm.ready for vm in status.vms)


def _find(name: str | None) -> Federation:
    from oneflower.cloud import Federation  # noqa: PLC0415

    return Federation.find(Session.cloud(), name)


def show(name: Name = None, output: Format = Output.TEXT) -> None:
    """Show a federation: its state, its machines, its endpoint."""
    status = _find(name).status()
    if output is Output.JSON:
        screen.show_json(status)
        return
    screen.show(
        f"{status.name} (service {status.id}): {status.state}, {_ready(status)} of {len(status.vms)} machines ready"
    )
    screen.show(
        f"SuperLink {status.endpoint or 'not ready'}, Control API {status.control or '-'}, "
        f"Flower {status.version or '-'}"
    )
    rows = [
        (vm.id, vm.name, vm.state, "yes" if vm.ready else "no", vm.ip, vm.partition or "-", vm.node_id or "-", vm.error)
        for vm in status.vms
    ]
    screen.show_table(("VM", "NAME", "STATE", "READY", "ADDRESS", "PARTITION", "NODE", "ERROR"), rows)


def logs(
    name: Name = None,
    vm: Annotated[str | None, typer.Option(help="Only this machine, by name or id.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-l", min=1, help="Lines of each machine's console.")] = 40,
    output: Format = Output.TEXT,
) -> None:
    """Show the service's log, what each machine says of itself, and (local cloud) the machines' consoles."""
    status = _find(name).status()
    shown = [found for found in status.vms if vm in (None, found.name, str(found.id))]
    if vm is not None and not shown:
        raise OneflowerError(
            f"{status.name} has no machine {vm!r}.",
            f"It has {', '.join(found.name for found in status.vms)}.",
            ExitCode.NOT_FOUND,
        )
    consoles = {found.name: _console(found.id, lines) for found in shown}
    if output is Output.JSON:
        screen.show_json({"service": status.log, "vms": status.vms, "consoles": consoles})
        return
    if vm is None:
        for line in status.log:
            screen.show(f"service: {line}")
        for found in status.vms:
            screen.show(f"{found.name}: {'ready' if found.ready else found.error or found.state}")
    for machine_name, text in consoles.items():
        for line in text:
            screen.show(f"{machine_name} | {line}")


def _console(number: int, lines: int) -> list[str]:
    if not Session.is_local():
        return []
    from oneflower.local.home import LocalHome  # noqa: PLC0415

    path = LocalHome.of_user().machine(number) / "console.log"
    return path.read_text(errors="replace").splitlines()[-lines:] if path.exists() else []


def _show_consoles(federation: Federation) -> None:
    """Print the end of the console of each machine that failed, before it is removed."""
    try:
        failed = [vm for vm in federation.status().vms if vm.error and not vm.ready]
    except OneflowerError:
        return
    for vm in failed:
        for line in _console(vm.id, 15):
            screen.say(f"{vm.name} | {line}")


def scale(
    name: Annotated[str, typer.Argument(help="Name or id of the federation.")],
    supernodes: Annotated[int, typer.Argument(min=0, help="How many SuperNodes it shall have.")],
    timeout: Timeout = 600,
    output: Format = Output.TEXT,
) -> None:
    """Change the number of SuperNodes, within min_vms and max_vms. On the way down the oldest go."""
    federation = _find(name)
    going = federation.scale(supernodes)
    if going:
        screen.say(f"Removing the oldest: {', '.join(vm.name for vm in going)}.")
    with screen.DeployProgress(f"scaling {federation.name} to {supernodes} SuperNodes") as progress:
        status = federation.wait_ready(timeout, progress.update, HEALING)
    screen.show_result(output, status, f"Federation {federation.name} has {status.supernodes} SuperNodes.")


def recover(name: Name = None, timeout: Timeout = 600, output: Format = Output.TEXT) -> None:
    """Try again what failed, and wait until every machine is ready."""
    federation = _find(name)
    status = federation.status()
    if not status.ready:
        if status.state not in ("RUNNING", "WARNING"):
            federation.recover()
        with screen.DeployProgress(f"recovering {federation.name}") as progress:
            status = federation.wait_ready(timeout, progress.update, HEALING)
    screen.show_result(output, status, f"Federation {federation.name} is ready.")


def down(
    name: Name = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove every federation.")] = False,
    timeout: Timeout = 120,
) -> None:
    """Remove a federation and all its machines. Removing one that is gone is not an error."""
    from oneflower.cloud import Federation  # noqa: PLC0415

    cloud = Session.cloud()
    if everything:
        doomed = list(Federation.all(cloud))
    else:
        try:
            doomed = [Federation.find(cloud, name)]
        except OneflowerError as error:
            if error.code is not ExitCode.NOT_FOUND:
                raise
            screen.say(f"There is no federation {name!r}: nothing to do." if name else "There is no federation.")
            return
    for federation in doomed:
        with screen.step(f"removing {federation.name}"):
            federation.delete(timeout)
