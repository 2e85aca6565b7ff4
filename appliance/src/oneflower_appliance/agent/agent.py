"""The agent that runs in each virtual machine: `oneflower-agent superlink | supernode | boot | status | check | audit`.

It boots its role step by step, then watches over Flower: a process that dies is started again with growing pauses,
READY is withdrawn while it is down, and after too many deaths the agent gives up and publishes why. It is itself
watched over by the machine's init (systemd in an image), which starts it again unless it ended with `EX_CONFIG`.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from oneflower_appliance import __version__
from oneflower_appliance.agent import answers
from oneflower_appliance.agent.backoff import Backoff
from oneflower_appliance.agent.diagnosis import HungError, explain
from oneflower_appliance.agent.flower_process import check_framework, check_installed
from oneflower_appliance.agent.hardware import WriteProbe, check_disk, check_hardware, full_disks
from oneflower_appliance.agent.journal import Health, Journal, Step
from oneflower_appliance.agent.last_error import LastError
from oneflower_appliance.agent.logs import AgentLog
from oneflower_appliance.agent.machine import Machine
from oneflower_appliance.agent.onegate import OneGate, OneGateError
from oneflower_appliance.agent.reporting import part, report, report_for_good, withdraw, withdraw_ready
from oneflower_appliance.agent.systemd import alive, rest
from oneflower_appliance.attributes import ERROR, NOTHING
from oneflower_appliance.context import read_context, read_token
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import private_directory
from oneflower_appliance.log_lines import about
from oneflower_appliance.parameters import PARAMETERS
from oneflower_appliance.previous_disk import check_previous_disk
from oneflower_appliance.process import die_with_parent, use_huge_pages
from oneflower_appliance.removed import REMOVED
from oneflower_appliance.roles import COORDINATOR, NODES, ROLES
from oneflower_appliance.scripts import check_scripts
from oneflower_appliance.settings import ignored, resolve
from oneflower_appliance.volumes import HOME, VARIABLES, check_volumes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

    from oneflower_appliance.agent import superlink, supernode
    from oneflower_appliance.agent.metrics.exporter import Exporter
    from oneflower_appliance.parameter import Level
    from oneflower_appliance.values import Settings

    Role = superlink.SuperLink | supernode.SuperNode

log = logging.getLogger("agent")

KNOWN = {*PARAMETERS, *VARIABLES, "ONEFLOWER_ROLE"}
CONTEXT = Path("/run/one-context")
EX_TEMPFAIL, EX_CONFIG = 75, 78
_DEATHS, _WINDOW = 5, 300.0
_STOP_GRACE = 8.0


class Stopped(BaseException):
    """SIGTERM or SIGINT arrived."""


def _role(name: str) -> tuple[type[Role], tuple[Level, ...]]:
    """Return the class of a role and the levels of its variables. The other role is not imported: it takes memory."""
    if name == COORDINATOR:
        from oneflower_appliance.agent import superlink  # noqa: PLC0415 - only the one that this machine has

        return superlink.SuperLink, superlink.LEVELS
    from oneflower_appliance.agent import supernode  # noqa: PLC0415

    return supernode.SuperNode, supernode.LEVELS


def run_role(name: str, home: Path, context_folder: Path, logs: AgentLog) -> int:
    """Boot and watch over a role until a signal ends it. Returns the exit status."""
    about(role=name)
    if name not in ROLES:
        raise _no_role(name, context_folder)
    private_directory(home)
    journal = Journal(name, home / "status.json")
    role: Role | None = None
    exporter: Exporter | None = None
    onegate: OneGate | None = None
    last = LastError()
    try:
        context = read_context(context_folder)
        onegate = _onegate(context, context_folder)
        if onegate and logs.has_fields:
            with suppress(OneGateError):  # reported by the first step that needs it
                onegate.service()  # from here on, lines have the federation's name
        settings = _settings(name, context)
        logs.set_up(settings, quiet=bool(last))
        machine = _check(Machine(home, context, settings, journal, onegate))
        role = _role(name)[0](machine)
        exporter = _exporter(role, machine)
        if exporter:
            exporter.look()
        _boot(role, machine, last, logs)
        watch_over(role, machine, exporter)
    except Stopped:
        log.info("stopping")
        part(onegate)  # a machine that goes down, or ends its last task, takes no part in what begins now
        if role:
            role.leave()
        return ExitCode.OK
    except OneflowerError as error:
        journal.broken(Health.ERROR, error.sentence, news=last.is_news(error.sentence, journal.failed))
        _stop(role)
        if error.code is not ExitCode.INVALID_INPUT:
            report(onegate, error)
            return EX_TEMPFAIL
        report_for_good(onegate, error)
        return EX_CONFIG
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _stop(role)
        if exporter:
            exporter.close()


def _exporter(role: Role, machine: Machine) -> Exporter | None:
    """Return what gives the machine's metrics to Prometheus, if FL_METRICS_ENABLED says so."""
    if not machine.settings.flag("FL_METRICS_ENABLED"):
        return None
    try:
        from oneflower_appliance.agent.metrics.exporter import Exporter  # noqa: PLC0415 - not imported if it is off
    except ImportError as error:
        line = f"FL_METRICS_ENABLED is YES, and this image lacks {error.name}: it has no metrics. Use a newer image."
        machine.journal.remark([line], "metrics")
        return None
    return Exporter(machine, role)


def _boot(role: Role, machine: Machine, last: LastError, logs: AgentLog) -> None:
    """Run the boot steps. What the last boot failed with stays published until its step is over."""
    steps = role.steps()
    place = next((number for number, step in enumerate(steps, 1) if step.name == last.step), 0)

    def withdraw_all() -> str:
        if machine.onegate is not None:
            machine.insist(withdraw)
        if last:
            last.forget()
            logs.set_up(machine.settings)  # what comes now is news again
        return "it has come further than the last time" if place else "what an earlier boot published"

    if machine.onegate is not None and place:
        machine.insist(withdraw_ready)
    steps.insert(place, Step("withdraw", withdraw_all))
    machine.journal.run(steps)


def _stop(role: Role | None) -> None:
    if role is not None and role.child is not None:
        role.child.stop(_STOP_GRACE)


def _onegate(context: Mapping[str, str], folder: Path) -> OneGate | None:
    endpoint = context.get("ONEGATE_ENDPOINT")
    return OneGate(endpoint, read_token(folder), context.get("VMID", "")) if endpoint else None


def _no_role(name: str, context_folder: Path) -> OneflowerError:
    error = OneflowerError(
        f"ONEFLOWER_ROLE is {name!r} in the context; expected superlink or supernode.",
        "Instantiate the VM through oneflower's service template.",
    )
    with suppress(OneflowerError):
        report_for_good(_onegate(read_context(context_folder), context_folder), error)
    return error


def _settings(name: str, context: Mapping[str, str]) -> Settings:
    """Return the settings of a role. Raises `OneflowerError` for a variable that this image does not know, too."""
    ours = sorted(key for key in context if key.startswith(("FL_", "ONEFLOWER_")))
    if unknown := [key for key in ours if key not in KNOWN and key not in REMOVED]:
        raise OneflowerError(
            f"The context sets {', '.join(unknown)}, which this image does not know. Its oneflower is {__version__}.",
            "If the names are right, the template is of another version than the image: register the image of the same "
            "version.",
        )
    return resolve({key: value for key, value in context.items() if key in PARAMETERS}, _role(name)[1])


def _check(machine: Machine) -> Machine:
    """Check what Flower needs, before it starts. Raises `OneflowerError`."""
    settings = machine.settings
    check_previous_disk()
    check_hardware()
    check_disk(machine.home)
    check_installed(settings.text("FLOWER_VERSION"))
    if "FL_USE_CASE" in settings:  # of a SuperNode
        check_framework(settings.text("FL_USE_CASE"), settings.text("ML_FRAMEWORK"))
    check_scripts()
    check_volumes(machine.context)
    if gone := [key for key in sorted(machine.context) if key in REMOVED]:
        log.info("The context sets %s, without effect: no longer variables, see docs/parameters.md.", ", ".join(gone))
    for line in ignored(settings):
        log.info("%s", line)
    return machine


def watch_over(role: Role, machine: Machine, exporter: Exporter | None = None) -> NoReturn:
    """Start Flower again whenever it ends or hangs. Raises `OneflowerError` when it ends too often.

    It also does when the machine's disk takes no more writes: what a run comes to would be lost.
    """
    probe = WriteProbe(machine.home)
    deaths: deque[float] = deque(maxlen=_DEATHS)
    pauses = Backoff(first=0.5, cap=30, jitter=0).delays()
    while True:
        assert role.child is not None  # noqa: S101 - the start step made it
        alive()
        probe.look()
        if exporter:
            exporter.look()
        machine.journal.remark(full_disks(machine.home, machine.context), "disk")
        try:
            pause = role.tick()  # which may start Flower again
            if not role.child.ended.wait(pause):
                continue
            cause = role.diagnose(explain(role.child))
        except HungError as hung:
            cause = hung
        role.child.stop(0)
        now = time.monotonic()
        if deaths and now - deaths[-1] > _WINDOW:
            pauses = Backoff(first=0.5, cap=30, jitter=0).delays()
        deaths.append(now)
        if len(deaths) == _DEATHS and now - deaths[0] < _WINDOW:
            raise OneflowerError(
                f"Flower ended {_DEATHS} times within {_WINDOW / 60:.0f} minutes. {cause.message}",
                cause.hint,
                ExitCode.ENVIRONMENT,
            )
        machine.journal.broken(Health.ERROR, f"{cause.message} Starting it again.")
        report(machine.onegate, cause)
        rest(next(pauses))
        machine.journal.run(role.restart_steps())
        machine.publish({ERROR.name: NOTHING})


def _on_signal(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Stopped


def main() -> None:
    """Entry point of `oneflower-agent`."""
    parser = argparse.ArgumentParser(prog="oneflower-agent", description=__doc__.split("\n\n", maxsplit=1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("boot", "boot the role that the context names (ONEFLOWER_ROLE)"),
        (COORDINATOR, "boot a SuperLink and watch over it"),
        (NODES, "boot a SuperNode and watch over it"),
        ("audit", "print the audit log of this machine, and say whether it is whole"),
        ("status", "say how the agent on this machine is: done, degraded, error, each with its cause"),
        ("check", "look at what keeps this machine from taking part as a SuperNode, without starting anything"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--home", type=Path, default=HOME, help="where the appliance keeps its state")
        if name in answers.COMMANDS:
            command.add_argument("--json", action="store_true", help="print it as JSON")
        if name not in ("status", "audit"):
            command.add_argument("--context", type=Path, default=CONTEXT, help="folder of context.sh and token.txt")
        if name not in answers.COMMANDS:
            command.add_argument("--parent", type=int, help="end when this process ends")
    options = parser.parse_args()
    if options.command in answers.COMMANDS:
        sys.exit(answers.answer(options))
    last, logs = LastError(), AgentLog(options.context)
    try:
        os.umask(0o077)
        signal.signal(signal.SIGTERM, _on_signal)
        signal.signal(signal.SIGINT, _on_signal)
        logs.set_up(quiet=bool(last))
        if options.parent:
            die_with_parent(options.parent)
        use_huge_pages(wanted=False)
        name = options.command
        if name == "boot":
            name = read_context(options.context).get("ONEFLOWER_ROLE", "")
        sys.exit(run_role(name, options.home, options.context, logs))
    except Stopped:
        sys.exit(ExitCode.OK)
    except OneflowerError as error:
        logs.give_up(error, news=last.is_news(error.sentence))
        sys.exit(error.code)


if __name__ == "__main__":
    main()
