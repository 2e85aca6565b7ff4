"""The SuperExec as a program of its own, which a SuperLink's or SuperNode's process starts and talks to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from typing import IO, TYPE_CHECKING, Any

from oneflower_appliance.flower.superexec import start_in
from oneflower_appliance.flower.warm.watch import TaskWatch

if TYPE_CHECKING:
    from collections.abc import Sequence

_MODULE = f"{__package__}.superexec"


class SuperExecProgram:
    """What this process knows of its SuperExec: the number of its process, 0 if it has none, and its tasks."""

    def __init__(self, role: str) -> None:
        self._role = role
        self.ending = threading.Event()
        self.tasks = TaskWatch()
        self.pid = 0

    def start(self, command: Sequence[str]) -> SuperExecProgram:
        """Be the SuperExec that runs `command`. Flower takes what is returned for the process that it started."""
        raise NotImplementedError

    def replace_in(self, module: Any) -> None:
        """Make one of Flower's modules start this SuperExec instead of its own."""
        start_in(module, lambda command, **_settings: self.start(command))

    def run(self, command: Sequence[str]) -> None:
        """Start the program, and wait for its end."""
        hearing, telling = os.pipe()
        program = [sys.executable, "-P", "-m", _MODULE, self._role, "--parent", str(os.getpid()),
                   "--reports", str(telling)]  # fmt: skip
        with subprocess.Popen(program, stdin=subprocess.PIPE, text=True, pass_fds=[telling]) as process:
            self.pid = process.pid
            os.close(telling)
            self.tasks.listen(hearing)
            assert process.stdin is not None  # noqa: S101 - it is a pipe
            tell(process.stdin, command)
            process.wait()

    def stop(self) -> None:
        """End its process, if it has one."""
        with contextlib.suppress(ProcessLookupError):
            if self.pid:
                os.kill(self.pid, signal.SIGTERM)

    def terminate(self) -> None:
        """End it for good. This and `wait` are what Flower uses of a process that it started."""
        self.ending.set()
        self.stop()

    def wait(self, timeout: float | None = None) -> None:
        """Return at once, because it ends by itself, at the latest with this process."""


def tell(stream: IO[str], command: Sequence[str]) -> None:
    """Tell a SuperExec that waits for it what its command is."""
    with contextlib.suppress(BrokenPipeError), stream:
        stream.write(json.dumps(list(command)) + "\n")
