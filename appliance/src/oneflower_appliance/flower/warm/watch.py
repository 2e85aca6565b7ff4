"""How the processes of tasks end: the SuperExec reports it to the SuperLink or SuperNode that it serves.

Flower itself learns that a task's process died when a heartbeat is missed, a minute later. The SuperExec is their
parent and knows at once. It reports through a pipe, one JSON object per line: `{"pid", "token"}` when a task began,
`{"pid", "how"}` when it ended; `how` is empty if the task completed. When the pipe ends, or an object is empty, the
SuperExec is dead, and the tasks that it left are watched from here. After an empty object, another one reports.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from oneflower_appliance.flower.confinement import WHY

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("flwr")

DONE = 113  # the exit status of a task that completed; if an app exits, with 0 for example, it is another
_GRACE = 2.0  # seconds between asking a task to end and ending it


class Reports:
    """The SuperExec's end of the pipe. Its methods may be called by a signal handler."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def began(self, pid: int, token: str) -> None:
        """Report that a task has a process."""
        self._say({"pid": pid, "token": token})

    def ended(self, pid: int, status: int) -> None:
        """Report how a task's process ended; a negative status is a signal."""
        if status in WHY:
            self._say({"pid": pid, "how": WHY[status]})
            return
        how = f"was ended by signal {-status}" if status < 0 else f"ended with exit status {status}"
        self._say({"pid": pid, "how": "" if status == DONE else how})

    def left(self) -> None:
        """Report that the SuperExec is dead, and that another one takes its place."""
        self._say({})

    def _say(self, event: dict[str, object]) -> None:
        with suppress(OSError):  # then nobody is left to report to
            os.write(self.pipe, (json.dumps(event) + "\n").encode())


class TaskWatch:
    """The other end: the tasks that have a process now. `on_death` gets the token of one that died, and how.

    `tokens` has the token of each task by the number of its process.
    """

    def __init__(self) -> None:
        self.on_death: Callable[[str, str], None] = lambda _token, _how: None
        self.tokens: dict[int, str] = {}
        self._lock = threading.Lock()

    def listen(self, pipe: int) -> None:
        """Read the reports of one SuperExec until it is dead. Returns at once."""
        threading.Thread(target=self._listen, args=(pipe,), name="tasks", daemon=True).start()

    def _listen(self, pipe: int) -> None:
        ours: set[int] = set()
        with os.fdopen(pipe) as stream:
            for line in stream:
                event = json.loads(line)
                if "token" in event:
                    ours.add(event["pid"])
                    with self._lock:
                        self.tokens[event["pid"]] = event["token"]
                elif not event:
                    self._take_over(ours)
                else:
                    ours.discard(event["pid"])
                    self._over(event["pid"], event["how"])
        self._take_over(ours)

    def _take_over(self, tasks: set[int]) -> None:
        """Watch the tasks of a SuperExec that is dead. `tasks` is empty then."""
        while tasks:
            threading.Thread(target=self._await, args=(tasks.pop(),), name="orphan", daemon=True).start()

    def _await(self, pid: int) -> None:
        """Watch a task whose SuperExec died. Only its new parent knows how it ends."""
        with suppress(ProcessLookupError):
            _wait_for(os.pidfd_open(pid), None)
        self._over(pid, "ended early")

    def _over(self, pid: int, how: str) -> None:
        with self._lock:
            token = self.tokens.pop(pid, "")
        if token and how:
            log.error("The process of a task (%d) %s.", pid, how)
            self.on_death(token, how)

    def end_all(self) -> None:
        """End every task: with SIGTERM, then with SIGKILL. Their deaths are not reported, because they are expected."""
        with self._lock:
            pids, self.tokens = list(self.tokens), {}
        for pid in pids:
            with suppress(ProcessLookupError):
                found = os.pidfd_open(pid)
                signal.pidfd_send_signal(found, signal.SIGTERM)
                if not _wait_for(os.dup(found), _GRACE):
                    signal.pidfd_send_signal(found, signal.SIGKILL)
                os.close(found)


def _wait_for(process: int, seconds: float | None) -> bool:
    """Wait for the end of a process, given as a pidfd, which is then closed. Returns whether it has ended."""
    try:
        return bool(select.select([process], [], [], seconds)[0])
    finally:
        os.close(process)
