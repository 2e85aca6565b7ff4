"""Boot steps as objects, and the status file that says how far they came.

A role is a list of steps. Each step does one thing, says in a few words what it did, and raises `OneflowerError` when
it cannot; nothing after it runs then, and READY is never published. The status file is replaced atomically at every
change, so `oneflower-agent status` and people can trust it while the agent works.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from oneflower_appliance.agent.systemd import alive, tell
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import SHARED, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

log = logging.getLogger(__name__)


class Health(StrEnum):
    """What `oneflower-agent status` reports. Degraded works, but something that was asked for is missing."""

    STARTING = "starting"
    DONE = "done"
    DEGRADED = "degraded"
    ERROR = "error"


@dataclass(frozen=True)
class Step:
    """One boot step; `action` returns what it did in a few words."""

    name: str
    action: Callable[[], str]


@dataclass
class StepRecord:
    """What became of a step."""

    name: str
    outcome: str = "running"
    seconds: float = 0.0
    detail: str = ""


@dataclass
class Status:
    """The whole state of the agent, as written to status.json."""

    role: str
    health: Health = Health.STARTING
    ready: bool = False
    causes: list[str] = field(default_factory=list)
    steps: list[StepRecord] = field(default_factory=list)
    updated: str = ""


class Journal:
    """Keeps the status file of one agent."""

    def __init__(self, role: str, path: Path) -> None:
        self._path = path
        self._remarks: dict[str, list[str]] = {}
        self.status = Status(role)
        self._is_written = False
        self.restarts = -1  # how often Flower was started again: its steps run once before
        self._write()

    def run(self, steps: Iterable[Step]) -> None:
        """Run `steps` in order. The first failure is recorded and raised."""
        self._set(Health.STARTING, [])
        self.restarts += 1
        self.status.steps = []
        for step in steps:
            record = StepRecord(step.name)
            self.status.steps.append(record)
            self._write()
            started = time.monotonic()
            try:
                record.detail = step.action()
                record.outcome = "done"
            except OneflowerError as error:
                record.outcome, record.detail = "failed", error.sentence
                raise
            finally:
                record.seconds = round(time.monotonic() - started, 3)
                if record.outcome == "running":
                    record.outcome = "interrupted"
                self._write()
                log.info("%s: %s (%.2f s)", step.name, record.detail or record.outcome, record.seconds)
        self.ready()

    def remark(self, lines: Iterable[str], about: str = "settings", *, logged: bool = False) -> None:
        """Keep `lines` about something as the causes for which a ready machine counts as degraded.

        They are logged, unless they are in the log already.
        """
        before, self._remarks[about] = self._remarks.get(about, []), list(lines)
        if self._remarks[about] == before:
            return
        for line in () if logged else self._remarks[about]:
            log.warning("%s", line)
        if self.status.ready:
            self.ready()

    def waiting(self, cause: str) -> None:
        """Say what a step is waiting for."""
        if self.status.causes != [cause]:
            log.warning("%s", cause)
            self._set(self.status.health, [cause])

    def ready(self) -> None:
        """Record that READY is published."""
        self.status.ready = True
        causes = [line for lines in self._remarks.values() for line in lines]
        self._set(Health.DEGRADED if causes else Health.DONE, causes)

    @property
    def failed(self) -> str:
        """The name of the step that failed, if one did."""
        return next((step.name for step in self.status.steps if step.outcome == "failed"), "")

    def broken(self, health: Health, cause: str, *, news: bool = True) -> None:
        """Record that the machine is not ready (any more), and why. It is an error in the log only if it is `news`."""
        log.log(logging.ERROR if news else logging.INFO, "%s", cause)
        self.status.ready = False
        self._set(health, [cause])

    def _set(self, health: Health, causes: Iterable[str]) -> None:
        self.status.health = health
        self.status.causes = list(causes)
        tell(f"STATUS={health}" + "".join(f": {cause}" for cause in self.status.causes[:1]))
        self._write()

    def _write(self) -> None:
        """Write the status file. A disk that is full or read-only must not keep the agent from saying so elsewhere."""
        alive()
        self.status.updated = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            write_atomic(self._path, json.dumps(asdict(self.status), indent=1) + "\n", SHARED)
        except OneflowerError as error:
            log.info("%s", error.sentence)  # what is wrong with the disk is an error of the boot or of the watch
            with suppress(OSError):
                self._path.unlink(missing_ok=True)  # what it says is not so any more
            return
        if not self._is_written:
            tell("READY=1")  # to systemd: from here on the status file is that of this agent, and not of an earlier one
            self._is_written = True


def read_status(home: Path) -> dict[str, Any]:
    """Return the content of the status file under `home`. Raises `OneflowerError` when there is none."""
    try:
        content: dict[str, Any] = json.loads((home / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OneflowerError(
            f"No agent has run here: {home / 'status.json'} cannot be read.",
            "Start one with `oneflower-agent superlink` or `oneflower-agent supernode`.",
            ExitCode.NOT_FOUND,
        ) from error
    return content
