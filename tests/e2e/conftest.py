"""Real federations: real Flower processes, real TLS. One cloud for the session, one federation for most tests."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from oneflower.local import daemon
from oneflower.local.home import LocalHome
from oneflower.local.host.processes import MARK
from oneflower_appliance.parameters import FLOWER_TESTED

RELEASE = os.environ.get("ONEFLOWER_TEST_FLOWER", FLOWER_TESTED)  # of Flower, which all federations here run


class Lines:
    """What a command prints, line by line while it runs."""

    def __init__(self, stream):
        self._lines = []
        self._reader = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._reader.start()

    def _read(self, stream):
        with stream:
            for line in stream:
                self._lines.append(line)

    def __iter__(self):
        return iter(list(self._lines))

    def all(self):
        """Everything, once the command has ended."""
        self._reader.join(60)
        return "".join(self._lines)


class User:
    """A user at the command line, with their own home. The runtime is shared through the cache.

    `within` begins each of their commands: with it, they and their machines are in a network namespace.
    """

    def __init__(self, folder: Path, within=()):
        self.folder = folder
        self._within = within
        self.home = LocalHome(folder / "home", LocalHome.of_user().cache)
        self.environment = {**os.environ, "ONEFLOWER_HOME": str(self.home.state), "NO_COLOR": "1"}

    def command(self, *arguments):
        setting = ("--set", f"FLOWER_VERSION={RELEASE}") if arguments[0] in {"up", "demo"} else ()
        program = [sys.executable, "-c", "from oneflower.cli import main; main()"]
        return [*self._within, *program, *arguments, *setting]

    def __call__(self, *arguments, code=0, **environment):
        done = subprocess.run(
            self.command(*arguments),
            capture_output=True, text=True, check=False, cwd=self.folder, env={**self.environment, **environment},
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done

    def start(self, *arguments):
        return subprocess.Popen(
            self.command(*arguments),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.folder, env=self.environment,
        )  # fmt: skip

    def say(self, *arguments):
        """Start a command, and return it with the lines that it prints."""
        process = self.start(*arguments)
        return process, Lines(process.stdout)

    def show(self, name):
        return json.loads(self("show", name, "-o", "json").stdout)

    def is_ready(self, name):
        status = self.show(name)
        return (
            status["state"] == "RUNNING"
            and len(status["vms"]) == status["supernodes"] + 1
            and all(vm["ready"] for vm in status["vms"])
        )

    def client(self, status):
        """An HTTPS client that trusts only the CA of a federation."""
        ca = self.machine(status["vms"][0]["id"]) / "var" / "tls" / "ca.crt"
        return httpx.Client(verify=ssl.create_default_context(cafile=ca), trust_env=False)

    def machine(self, number):
        return self.home.machine(number)

    def processes(self, number=None):
        """All processes of one machine, or of all machines."""
        wanted = str(self.machine(number)) if number is not None else str(self.home.state)
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                mark = process.environ().get(MARK, "")
                if mark and (mark == wanted if number is not None else mark.startswith(wanted + "/")):
                    found.append(process)
        return found

    def process(self, number, *words, without=()):
        """The one process of a machine whose command line has all of `words` and none of `without`.

        A process that it forked, and that never became another program, has the same command line.
        """
        found = []
        for process in self.processes(number):
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if all(word in line for word in words) and not any(word in line for word in without):
                    found.append(process)
        numbers = {process.pid for process in found}
        found = [process for process in found if process.ppid() not in numbers]
        assert len(found) == 1, [p.cmdline() for p in found]
        return found[0]

    def leave(self):
        try:
            self("down", "--all")
        finally:
            daemon.stop(self.home)
        assert self.processes() == []


def until(condition, limit, what="it"):
    deadline = time.monotonic() + limit
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {limit} s"
        time.sleep(0.25)
    return result


@pytest.fixture(scope="session")
def user(tmp_path_factory):
    somebody = User(tmp_path_factory.mktemp("user"))
    yield somebody
    somebody.leave()


@pytest.fixture
def newcomer(tmp_path):
    somebody = User(tmp_path)
    yield somebody
    somebody.leave()


def _deploy(user):
    user("up", "fed", "--set", "FL_NUM_ROUNDS=2", "--set", "FL_METRICS_ENABLED=YES")
    return "fed"


@pytest.fixture(scope="session")
def _shared(user):
    return _deploy(user)


@pytest.fixture
def fed(user, _shared):
    """A federation of one SuperLink and two SuperNodes, shared by many tests and complete at the start of each.

    After a test has scaled it, a node may have a partition that is none of the first two: then it is deployed again.
    """
    until(lambda: user.is_ready(_shared), 60, "the recovery from the test before")
    nodes = [vm for vm in user.show(_shared)["vms"] if vm["role"] == "supernode"]
    if sorted((vm["partition"], vm["partitions"]) for vm in nodes) != [("0", "2"), ("1", "2")]:
        user("down", _shared)
        _deploy(user)
    return _shared
