"""Starts the SuperExec of a SuperLink or SuperNode again when it dies.

Stock Flower starts it once. A SuperLink without a SuperExec answers every request and starts no task: a new run waits,
and nobody is told why. Stock Flower's SuperExec ends when its request is refused, as it is by a database that is
locked for long. With warm execution, `warm.superexec` takes care of it.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger("flwr")

COMMAND = "flower-superexec"
ENDED = "The SuperExec ended; it is started again. Running tasks continue."
PAUSE = 1.0  # seconds between two starts


def start_in(module: Any, start: Callable[..., Any]) -> None:
    """Make one of Flower's modules call `start(command, **settings)` where it starts a SuperExec with `subprocess`."""
    module.subprocess = _Subprocess(start)


class _Subprocess:
    """Stands for the module `subprocess` in one of Flower's modules."""

    def __init__(self, start: Callable[..., Any]) -> None:
        self._start = start

    def Popen(self, command: Sequence[str], **settings: Any) -> Any:  # noqa: N802 - its name in that module
        start = self._start if command[0] == COMMAND else subprocess.Popen
        return start(command, **settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)


class StockSuperExec:
    """Flower's own SuperExec, which is started again until `terminate`."""

    def __init__(self, command: Sequence[str], **settings: Any) -> None:
        self._command, self._settings = command, settings
        self._ending = threading.Event()
        self._process = self._started()
        threading.Thread(target=self._look_after, name="superexec", daemon=True).start()

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, **self._settings)

    def _look_after(self) -> None:
        while True:
            self._process.wait()
            if self._ending.is_set():
                return
            log.warning(ENDED)
            time.sleep(PAUSE)
            self._process = self._started()

    def terminate(self) -> None:
        """End it. This and `wait` are what Flower uses of a process that it started."""
        self._ending.set()
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it has ended. Raises `subprocess.TimeoutExpired` after `timeout` seconds."""
        self._process.wait(timeout)
