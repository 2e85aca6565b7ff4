"""The only module through which the appliance starts other programs: no shell, and no inherited secrets."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_THP_DISABLE = 1, 15, 41
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_MOST_FILES = 65536
_KEPT = ("HOME", "LANG", "LC_ALL", "ONEFLOWER_APP_PACKAGES", "ONEFLOWER_MACHINE", "PATH", "PYTHONPATH", "TZ")


def die_with_parent(parent: int) -> None:
    """Make the kernel end this process when its parent, `parent`, dies. Does nothing except on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise SystemExit("the process that started this one has gone")


def raise_file_limit() -> int:
    """Raise this process's limit of open files as far as allowed, within reason, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return min(soft, _MOST_FILES) if soft != resource.RLIM_INFINITY else _MOST_FILES


def use_huge_pages(*, wanted: bool) -> None:
    """Let this process, and those that it starts, have huge pages, or none. Does nothing except on Linux.

    They make work on large arrays faster. A process that waits for most of its life only occupies more memory with
    them: what it does not use of each.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, int(not wanted), 0, 0, 0)


def name_process(name: str) -> None:
    """Make `ps` and `top` show this process as `name` (its first 15 bytes). Does nothing except on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15])


def call(
    command: Sequence[str], environment: Mapping[str, str] | None = None, *, capture: bool = True
) -> tuple[int, str]:
    """Run a program to its end. Returns its exit status (127 when there is no such program) and what it printed.

    Without `capture` it prints to where this process prints.
    """
    where = subprocess.PIPE if capture else None
    try:
        done = subprocess.run(
            list(command), env=None if environment is None else dict(environment), stdin=subprocess.DEVNULL,
            stdout=where, stderr=subprocess.STDOUT if capture else None, text=True, errors="replace", check=False,
        )  # fmt: skip
    except OSError as error:
        return 127, str(error)
    return done.returncode, done.stdout or ""


class Child:
    """A program whose output is read line by line. Its last lines are kept, to explain why it ended.

    `on_line` receives each line, and may return its text if that is another.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], on_line: Callable[[str], str | None]
    ) -> None:
        inherited = {key: os.environ[key] for key in _KEPT if key in os.environ}
        self._tail: deque[str] = deque(maxlen=40)
        self.ended = threading.Event()
        self._said_all = threading.Event()
        self._process = subprocess.Popen(
            list(command),
            env=inherited | dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._on_line = on_line
        threading.Thread(target=self._wait, name="child-wait", daemon=True).start()
        threading.Thread(target=self._read, name="child-output", daemon=True).start()

    def _read(self) -> None:
        # The pipe stays open while a grandchild holds it, so the end of the output is not the end of the child.
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        with suppress(ValueError, OSError), self._process.stdout as output:
            for line in output:
                plain = _COLOUR.sub("", line).rstrip()
                said = self._on_line(plain)
                self._tail.append(plain if said is None else said)
        self._said_all.set()

    def _wait(self) -> None:
        self._process.wait()
        with suppress(OSError):
            self._input.close()
        self.ended.set()

    @property
    def _input(self) -> IO[str]:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        return self._process.stdin

    def tell(self, line: str) -> None:
        """Write one line to the program's standard input and close it. It is not an error if the program has ended."""
        if not self._input.closed:
            with suppress(BrokenPipeError), self._input as stream:
                stream.write(line + "\n")

    def last_line(self, patience: float = 0.5) -> str:
        """Return its last line that is not empty. Waits for the end of its output, which others may hold open."""
        self._said_all.wait(patience)
        return next((line.strip() for line in reversed(self._tail) if line.strip()), "no output")

    @property
    def pid(self) -> int:
        """Process id, also the id of the process group."""
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the program, but not to what it started. It is not an error if the program has ended."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    @property
    def status(self) -> int | None:
        """Exit status, negative for a signal, None while it runs."""
        return self._process.returncode if self.ended.is_set() else None

    def stop(self, grace: float) -> None:
        """End the program and everything in its group: with SIGTERM, and after `grace` seconds with SIGKILL."""
        if not self.ended.is_set():
            with suppress(ProcessLookupError):
                self._process.terminate()
            self.ended.wait(grace)
        self.tell("")
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.ended.wait(5)
