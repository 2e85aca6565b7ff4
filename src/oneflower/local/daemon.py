"""Find the running daemon, or start one."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oneflower.local.build import build_id
from oneflower.process import launch
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import no_room

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oneflower.local.home import LocalHome

_START_LIMIT = 30.0
_PULSE = 0.02


@dataclass(frozen=True)
class Daemon:
    """Where the local cloud listens, and which credentials it accepts (`user:password`)."""

    pid: int
    xmlrpc: str
    oneflow: str
    onegate: str
    auth: str
    pace: str
    image: str | None  # what containers (a folder) or virtual machines (a file) boot from; None for process trees


def find(home: LocalHome) -> Daemon | None:
    """Return the running daemon, if there is one."""
    record = _record(home)
    return _daemon(record) if record and _running(home) else None


def connect(home: LocalHome) -> Daemon:
    """Return the running daemon. Start one if there is none; replace one of another version, and keep its machines."""
    home.make()
    record = _record(home)
    if record and _running(home):
        if record["build"] == build_id():
            return _daemon(record)
        stop(home)
    return start(home)


def start(home: LocalHome, options: Sequence[str] = ()) -> Daemon:
    """Start a daemon and return it when it answers. Raises `OneflowerError` with the reason if it does not."""
    for file in (home.record, home.failure):
        file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "oneflower.local.server", str(home.state), str(home.cache), *options]
    pid = launch(command, home.log)
    deadline = time.monotonic() + _START_LIMIT
    while time.monotonic() < deadline and not _failed(pid):
        if (record := _record(home)) and _running(home):
            return _daemon(record)
        time.sleep(_PULSE)
    # On a full disk it cannot write the reason, or writes an empty file.
    left = home.failure.read_text(encoding="utf-8") if home.failure.exists() else ""
    reason = no_room(home.state) or left or "no answer"
    raise OneflowerError(f"The local cloud did not start: {reason}", f"Its log is {home.log}.", ExitCode.ENVIRONMENT)


def _failed(pid: int) -> bool:
    """Whether the daemon has ended with an error. It ends without one if another daemon is starting."""
    try:
        return os.waitpid(pid, os.WNOHANG)[1] != 0
    except ChildProcessError:
        return False


def stop(home: LocalHome) -> bool:
    """Stop the daemon; machines keep running. Returns whether there was one."""
    record = _record(home)
    if record is None or not _running(home):
        return False
    with suppress(ProcessLookupError):
        os.kill(record["pid"], signal.SIGTERM)
    deadline = time.monotonic() + _START_LIMIT
    while _running(home):
        if time.monotonic() > deadline:
            raise OneflowerError("The local cloud does not stop.", f"Its process is {record['pid']}.", ExitCode.TIMEOUT)
        time.sleep(_PULSE)
    return True


def _running(home: LocalHome) -> bool:
    """Whether a daemon holds the lock. The lock is released when its process ends, however it ends."""
    try:
        with home.lock.open("r") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
    except OSError:
        pass
    return False


def _record(home: LocalHome) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(home.record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record


def _daemon(record: dict[str, Any]) -> Daemon:
    return Daemon(**{name: record[name] for name in Daemon.__dataclass_fields__})
