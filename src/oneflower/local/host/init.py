"""The init of a machine of the local cloud. It does what systemd does in an image.

It runs as a plain file, with only the standard library, so that it is small and starts quickly. It starts the agent,
and restarts it when it dies, unless the agent says that a retry is pointless. It adopts processes that lose their
parent. On SIGTERM it shuts everything down. When it ends, no process of the machine is left.

usage: init.py [--json FIELDS] COMMAND [ARGUMENT ...]     (`{init}` in an argument becomes this process's id)

With --json it writes its lines as objects (FL_LOG_FORMAT) that have these FIELDS, an object too.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from stat import S_IMODE, S_ISREG

PR_SET_CHILD_SUBREAPER = 36
EX_CONFIG = 78
GRACE = 2.0
LONGEST_PAUSE = 30.0
CONSOLE_LIMIT = 10_000_000
fields = ""  # of each line, if lines are objects: their text, to go on with
CONSOLE_LOOK = 5.0  # seconds between two checks of the console's size


class Init:
    """One machine."""

    def __init__(self, command: list[str]) -> None:
        self._command = [word.replace("{init}", str(os.getpid())) for word in command]
        self._agent: int | None = None
        self._stopping = False
        self._wakeup, write = os.pipe()
        for end in (self._wakeup, write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _stop(self, *_: object) -> None:
        self._stopping = True
        if self._agent is not None:
            os.kill(self._agent, signal.SIGTERM)

    def run(self) -> None:
        """Keep the agent running until SIGTERM."""
        pause = 1.0
        while True:
            started = time.monotonic()
            status = self._run_agent()
            self._clear()
            if self._stopping:
                return
            pause = 1.0 if time.monotonic() - started > 60 else min(pause * 2, LONGEST_PAUSE)
            if status == EX_CONFIG:
                say("the agent refused its settings; waiting to be shut down")
                pause = float("inf")
            else:
                say(f"the agent ended with status {status}; starting it again in {pause:.0f} s")
            if self._rest(pause):
                return

    def _rest(self, seconds: float) -> bool:
        """Wait, and reap children that end. Returns whether SIGTERM came."""
        deadline = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < deadline:
            self._sleep(deadline - time.monotonic())
            self._reap()
        return self._stopping

    def _run_agent(self) -> int:
        agent = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        self._agent = agent.pid
        if self._stopping:
            self._stop()
        while True:
            for pid, status in self._reap():
                if pid == self._agent:
                    self._agent = None
                    agent.returncode = os.waitstatus_to_exitcode(status)
                    return agent.returncode
            self._sleep(60)

    def _sleep(self, seconds: float) -> None:
        select.select([self._wakeup], [], [], min(seconds, CONSOLE_LOOK))
        rotate()
        try:
            while os.read(self._wakeup, 1024):
                pass
        except BlockingIOError:
            pass

    def _reap(self) -> list[tuple[int, int]]:
        ended: list[tuple[int, int]] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ended
            if not pid:
                return ended
            ended.append((pid, status))

    def _clear(self) -> None:
        """Wait a little for the processes that the agent left behind, then end them."""
        deadline = time.monotonic() + GRACE
        while children():
            if time.monotonic() > deadline:
                for pid in children():
                    os.kill(pid, signal.SIGKILL)
            self._sleep(0.02)
            self._reap()


def children() -> list[int]:
    """Return the processes whose parent is this one, zombies included."""
    mine, found = str(os.getpid()), []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as stat:
                    parent = stat.read().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if parent == mine:
                found.append(int(entry))
    return found


def rotate(limit: int = CONSOLE_LIMIT) -> None:
    """Move the file aside to which this process and its children write their errors, once it is longer than the limit.

    All of them have it open for appending. So its end is copied and then it is emptied, and they keep writing to it.
    The copy has what they write meanwhile, too, up to twice the limit.
    """
    descriptor = sys.stderr.fileno()
    try:
        state = os.fstat(descriptor)
        if not S_ISREG(state.st_mode) or state.st_size <= limit:
            return
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        with open(path, "rb") as console, open(f"{path}.1", "wb") as older:
            os.fchmod(older.fileno(), S_IMODE(state.st_mode))
            console.seek(-limit, os.SEEK_END)
            left = 2 * limit
            while chunk := console.read(min(left, 1 << 20)):
                older.write(chunk)
                left -= len(chunk)
    except OSError:
        pass  # the disk is full: what was written before is lost, but new lines can be written
    os.ftruncate(descriptor, 0)


def say(message: str) -> None:
    """Write a line to the console, as `oneflower_appliance.log_lines` describes it."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = f"{now} INFO    init: {message}"
    if fields:
        line = f'{{"time": "{now}", "level": "INFO", "source": "init", "message": "{message}", {fields}}}'
    print(line, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    command = sys.argv[1:]
    if command[0] == "--json":
        fields = command[1].strip("{}")
        command = command[2:]
    Init(command).run()
