"""Flower's processes, as the agent starts them and waits for their first answer.

Nothing here imports Flower: it runs in processes of its own, which `prepare` starts and of which `flower/` knows the
rest.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from oneflower_appliance.agent import packages
from oneflower_appliance.agent.authority import CA, TLS_FOLDER
from oneflower_appliance.agent.diagnosis import explain
from oneflower_appliance.agent.hardware import is_emulated
from oneflower_appliance.agent.systemd import alive
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import write_atomic
from oneflower_appliance.log_lines import Joiner
from oneflower_appliance.orders import (
    CA_VARIABLE,
    EXECUTION_VARIABLE,
    FORMAT_VARIABLE,
    LEVEL_VARIABLE,
    RUNS_VARIABLE,
    WIRE_VARIABLE,
)
from oneflower_appliance.run_folder import RUNS
from oneflower_appliance.use_cases import FRAMEWORKS, NO_USE_CASE

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower_appliance.process import Child
    from oneflower_appliance.values import Settings

START_LIMIT = 180.0  # seconds
_EMULATED = 5  # times as much, where the processor is emulated: one on a busy host was seen to need more
_PULSE = 0.05


def check_installed(version: str) -> None:
    """Raise `OneflowerError` unless the Flower installed here is `version`."""
    try:
        installed = importlib.metadata.version("flwr")
    except importlib.metadata.PackageNotFoundError:
        installed = "none"
    if installed != version:
        raise OneflowerError(
            f"FLOWER_VERSION asks for Flower {version}; this machine carries {installed}.",
            "Use the image that was built for that release, or leave FLOWER_VERSION at its default.",
            ExitCode.ENVIRONMENT,
        )


def check_framework(use_case: str, framework: str) -> None:
    """Raise `OneflowerError` unless the framework is installed here that the use case of the form trains with."""
    if use_case == NO_USE_CASE or importlib.util.find_spec(FRAMEWORKS[framework].package):
        return
    raise OneflowerError(
        f"FL_USE_CASE={use_case} trains with {framework} (ML_FRAMEWORK), which this machine does not carry.",
        f"Use the image of the variant {framework}, or choose the framework of this image.",
        ExitCode.ENVIRONMENT,
    )


def environment(home: Path, settings: Settings) -> dict[str, str]:
    """Return the environment of Flower's processes, whose state lives in `home`."""
    bin_folder = home / "bin"
    # Flower starts its helpers by name: ours come first, then those of this interpreter's environment.
    path = os.pathsep.join([str(bin_folder), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {
        "FLWR_HOME": str(home / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
        "PATH": path,
        RUNS_VARIABLE: str(home / RUNS),
        LEVEL_VARIABLE: settings.text("FL_LOG_LEVEL"),
        FORMAT_VARIABLE: settings.text("FL_LOG_FORMAT"),
        EXECUTION_VARIABLE: settings.text("FL_EXECUTION"),
        **({CA_VARIABLE: str(home / TLS_FOLDER / CA)} if settings.flag("FL_TLS_ENABLED") else {}),
        WIRE_VARIABLE: settings.text("FL_WIRE_DTYPE"),
    } | packages.environment(home, settings)


def install_helpers(home: Path) -> None:
    """Put our `flwr-serverapp` and `flwr-clientapp` before Flower's, which do more before they do the same."""
    room = f"{__package__.rpartition('.')[0]}.flower"
    for name in ("serverapp", "clientapp"):
        script = f"#!{sys.executable}\nfrom {room}.{name} import main\nmain()\n"
        write_atomic(home / "bin" / f"flwr-{name}", script, 0o755)


def prepare(role: str) -> list[str]:
    """Return the command line of a process that gets ready to be a SuperLink or a SuperNode and waits for orders."""
    return [sys.executable, "-P", "-m", "oneflower_appliance.flower.main", role, "--parent", str(os.getpid())]


class FlowerLog:
    """Passes the lines of one Flower process, and of those that it starts, on to the log."""

    def __init__(self) -> None:
        self._joiner = Joiner()

    def __call__(self, line: str) -> str:
        """Pass on a line. Returns what it says in the end, which explains why a process ended."""
        found = self._joiner.take(line, "flower")
        if found is None:
            return ""
        level = logging.getLevelNamesMapping()[found["level"]]
        logging.getLogger("flower").log(level, "%s", found["message"], extra={"entry": found})
        return (found.get("exception") or found["message"]).rpartition("\n")[2]


def wait_for(child: Child | None, done: Callable[[], bool], what: str) -> None:
    """Wait until `done`; connection errors mean not yet. Raises `OneflowerError` when Flower ends or time is up."""
    assert child is not None  # noqa: S101 - started by the step before
    limit = START_LIMIT * (_EMULATED if is_emulated() else 1)
    deadline = time.monotonic() + limit
    reason = "no connection"
    while time.monotonic() < deadline:
        alive()
        try:
            if done():
                return
        except OSError as error:
            reason = str(error)
        if child.ended.wait(_PULSE):
            raise explain(child)
    raise OneflowerError(
        f"{what} within {limit:.0f} s: {reason}.",
        "The machine may be too small or too busy: give it two cores and 2 GB, and look at the agent's log.",
        ExitCode.TIMEOUT,
    )
