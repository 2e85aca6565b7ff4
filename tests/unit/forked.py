"""Our programs, each run in a process of its own that need not import anything: it is forked from one that only has.

Python starts and imports a program in more time than most runs of it take.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_LOOK_AT_NO_ENVIRONMENT = ["httpx", "pyone", "rich.columns", "rich.markdown", "rich.panel", "rich.table"]
_FORKS.set_forkserver_preload(["oneflower.cli.app", "oneflower.cli.entry", "oneflower.api", *_LOOK_AT_NO_ENVIRONMENT])
_STREAMS = ("stdin", "stdout", "stderr")


def run(module, *arguments, stdin, cwd, env):
    """Run `main` of a module, and return what it said and how it ended, as `subprocess.run` does."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "stdin").write_text(stdin or "")
        process = _FORKS.Process(target=_become, args=(folder, module, arguments, cwd, env))
        process.start()
        process.join()
        said = ((folder / stream).read_text() for stream in _STREAMS[1:])
        return subprocess.CompletedProcess(arguments, process.exitcode, *said)


def _become(folder, module, arguments, cwd, env):
    for number, stream in enumerate(_STREAMS):
        os.dup2(os.open(folder / stream, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - multiprocessing took it away
    sys.argv = [module, *arguments]
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    importlib.import_module(module).main()
