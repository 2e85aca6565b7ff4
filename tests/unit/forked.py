"""Our programs, each run in a process of its own that need not import anything: it is forked from one that only has.

Starting Python and importing a program takes longer than most runs of it.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_LOOK_AT_NO_ENVIRONMENT = ["httpcore", "httpx", "pyone", "rich.columns", "rich.markdown", "rich.panel", "rich.table"]
_OURS = [
    "oneflower.api",
    "oneflower.cli.app",
    "oneflower.cli.entry",
    "oneflower.local.daemon",
    "oneflower_appliance.agent.agent",
]
_FORKS.set_forkserver_preload([*_OURS, *_LOOK_AT_NO_ENVIRONMENT])
_STREAMS = ("stdin", "stdout", "stderr")


class Forked:
    """A process that runs `main` of a module. Its streams are files of these names in `folder`.

    What it starts with the Python that it runs in itself, it starts with `python`.
    """

    def __init__(self, module, *arguments, folder, stdin="", cwd=".", env=os.environ, python=sys.executable):
        (folder / "stdin").write_text(stdin)
        self._process = _FORKS.Process(target=_become, args=(folder, module, arguments, cwd, dict(env), python))
        self._process.start()

    def wait(self, seconds=None):
        """Return how it ended. Raises `TimeoutError` if it has not by then."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise TimeoutError
        return self._process.exitcode

    def send_signal(self, number):
        if self._process.is_alive():
            os.kill(self._process.pid, number)

    def end(self):
        """Ask it to end, and see to it."""
        self.send_signal(signal.SIGTERM)
        try:
            self.wait(10)
        except TimeoutError:
            self.send_signal(signal.SIGKILL)
            self.wait()


def run(module, *arguments, stdin=None, **settings):
    """Run `main` of a module, and return what it said and how it ended, as `subprocess.run` does."""
    with tempfile.TemporaryDirectory() as name:
        ended = Forked(module, *arguments, folder=Path(name), stdin=stdin or "", **settings).wait()
        said = [(Path(name) / stream).read_text() for stream in _STREAMS[1:]]
        return subprocess.CompletedProcess(arguments, ended, *said)


def _become(folder, module, arguments, cwd, env, python):
    for number, stream in enumerate(_STREAMS):
        os.dup2(os.open(folder / stream, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - multiprocessing took it away
    sys.argv = [module, *arguments]
    sys.executable = python
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    importlib.import_module(module).main()
