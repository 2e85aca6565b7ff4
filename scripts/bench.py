"""Measure speed on real processes, as ratios within one run. docs/performance.md explains the table.

usage: python scripts/bench.py [--repeats N] [-o FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

import psutil

import oneflower_appliance
from oneflower.local import daemon
from oneflower.local.home import LocalHome
from oneflower.process import QUIET_FLOWER
from oneflower.runtimes import runtime
from oneflower_appliance.agent import tls
from oneflower_appliance.log_lines import moment
from oneflower_appliance.parameters import FLOWER_TESTED

ADDRESS = "127.66.0.2"
APPLIANCE = str(Path(oneflower_appliance.__file__).parents[1])


def pyproject(name: str, server: str, client: str, **config: str | int) -> str:
    """Return the pyproject.toml of a Flower app: its components, and its run config."""
    settings = "".join(f"{key.replace('_', '-')} = {json.dumps(value)}\n" for key, value in config.items())
    return f"""
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "{name}"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr>=1.41", "numpy"]
[tool.flwr.app]
publisher = "oneflower"
[tool.flwr.app.components]
serverapp = "{server}"
clientapp = "{client}"
[tool.flwr.app.config]
{settings}"""


class Bench:
    """One user with a fresh home, a working folder for what commands save, and the shared runtime."""

    def __init__(self, folder: Path, framework: str = "sklearn") -> None:
        self.home = LocalHome(folder / "home", LocalHome.of_user().cache)
        self.runtime = runtime.ensure(self.home.runtimes, FLOWER_TESTED, framework)
        self.environment = {**os.environ, "ONEFLOWER_HOME": str(self.home.state)}
        # Without compiled files Python would compile every module at every start, which is not how people run commands.
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self._folder = folder

    def oneflower(self, *arguments: str, errors: bool = False) -> tuple[str, float, float]:
        """Run a command; return its output (with stderr if wanted), wall seconds and CPU seconds."""
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        command = [str(Path(sys.executable).parent / "oneflower"), *arguments]
        done = subprocess.run(
            command, cwd=self._folder, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return done.stdout + (done.stderr if errors else ""), time.monotonic() - started, cpu

    def by_hand(self) -> float:
        """Start the same Flower processes with TLS in the best order; return seconds until both nodes are online."""
        with ExitStack() as stack, tempfile.TemporaryDirectory(dir=self._folder) as name:
            started = time.monotonic()
            self.start_by_hand(stack, Path(name))
            return time.monotonic() - started

    def start_by_hand(self, stack: ExitStack, folder: Path, count: int = 2) -> Path:
        """Start a SuperLink and SuperNodes, wait until all are online, and return the CA to trust.

        The output of each goes to the file `log` in its own folder.
        """
        made = tls.make_certificates(folder, [("IP", ADDRESS)])
        link = ["--ssl-ca-certfile", str(made.ca), "--ssl-certfile", str(made.certificate),
                "--ssl-keyfile", str(made.key)]  # fmt: skip
        self._start(stack, folder, "flower-superlink", "--host", ADDRESS, "--port", "9092",
                    "--database", str(folder / "state.db"), "--disable-runtime-dependency-installation",
                    *link)  # fmt: skip
        context = ssl.create_default_context(cafile=str(made.ca))
        _until(lambda: ask(f"https://{ADDRESS}:9092/health", context) is not None)
        for number in range(count):
            self._start(stack, folder / f"node{number}", "flower-supernode", "--superlink", f"{ADDRESS}:9092",
                        "--root-certificates", str(made.ca), "--host", "127.0.0.1", "--port", str(19094 + number),
                        "--node-config", f"partition-id={number} num-partitions={count}")  # fmt: skip
        nodes = f"https://{ADDRESS}:9092/v1/control/list-nodes"
        _until(lambda: (ask(nodes, context, b"") or b"").count(b"online") == count)
        return made.ca

    def flwr_run(self, folder: Path, ca: Path, app: Path, config: str, address: str = f"{ADDRESS}:9092") -> str:
        """Run an app with `flwr run` on a SuperLink that was started by hand, and return the output."""
        home = folder / "client"
        home.mkdir()
        (home / "config.toml").write_text(f'[superlink.x]\naddress = "{address}"\nroot-certificates = "{ca}"\n')
        done = subprocess.run(
            [self.runtime.bin / "flwr", "run", app, "x", "--stream", "--run-config", config],
            env={**os.environ, **QUIET_FLOWER, "FLWR_HOME": str(home)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout + done.stderr

    def _start(self, stack: ExitStack, folder: Path, program: str, *arguments: str) -> None:
        folder.mkdir(exist_ok=True)
        path = f"{self.runtime.bin}{os.pathsep}{os.environ['PATH']}"
        ours = {"PATH": path, "FLWR_HOME": str(folder / "flwr"), "PYTHONPATH": APPLIANCE}
        output = stack.enter_context((folder / "log").open("w"))
        command = [self.runtime.bin / program, *arguments]
        process = subprocess.Popen(
            command,
            env={**os.environ, **QUIET_FLOWER, **ours},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        threading.Thread(target=_stamp, args=(process.stdout, output), daemon=True).start()
        stack.callback(_end, process)

    def ready_to_start(self) -> float:
        """Return milliseconds from just before the SuperLink's READY to the start of the last SuperNode's machine.

        The daemon writes a machine's token immediately before it starts the machine's first process.
        """
        status = json.loads(self.oneflower("show", "bench", "-o", "json")[0])
        link, *nodes = [self.home.machine(vm["id"]) for vm in status["vms"]]
        text = (link / "console.log").read_text()
        line = next(line for line in text.splitlines() if "answer: Fleet API" in line)
        answered = moment_of(line)
        return 1000 * (max((node / "context" / "token.txt").stat().st_mtime for node in nodes) - answered)

    def idle_daemon(self, seconds: float) -> tuple[float, float]:
        """Return CPU percent and resident MB of the daemon while a federation is idle."""
        found = daemon.find(self.home)
        assert found is not None  # noqa: S101
        process = psutil.Process(found.pid)
        process.cpu_percent()
        time.sleep(seconds)
        return process.cpu_percent(), process.memory_info().rss / 1e6


def moment_of(line: str) -> float:
    """Return when a line was written, in seconds of the epoch: it begins with its time, as all lines of machines do."""
    return datetime.fromisoformat(line.split(" ", 1)[0]).timestamp()


def _stamp(lines: IO[str], output: IO[str]) -> None:
    """Write each line with its time, as an agent does."""
    with suppress(ValueError), lines:
        for line in lines:
            output.write(f"{moment()} {line}")
            output.flush()


def _end(process: subprocess.Popen[str]) -> None:
    family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in family[1:]:
        with suppress(psutil.Error):
            psutil.Process(pid).kill()


def ask(url: str, context: ssl.SSLContext, body: bytes | None = None) -> bytes | None:
    """Return the answer to a request, or None if there is none."""
    headers = {"Content-Type": "application/protobuf", "Accept": "application/protobuf"} if body is not None else {}
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310 - https by construction
    try:
        with urllib.request.urlopen(request, context=context, timeout=5) as answer:  # noqa: S310
            content: bytes = answer.read()
            return content
    except (OSError, urllib.error.URLError):
        return None


def _until(condition: object) -> None:
    deadline = time.monotonic() + 120
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, help="also write the figures as JSON")
    options = parser.parse_args()
    figures: dict[str, list[float]] = {name: [] for name in ("hand", "up", "gate", "down", "help", "cpu", "memory")}
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        try:
            for number in range(options.repeats):
                print(f"  round {number + 1} of {options.repeats} ...", file=sys.stderr)
                figures["help"].append(bench.oneflower("--help")[2])
                figures["hand"].append(bench.by_hand())
                figures["up"].append(bench.oneflower("up", "bench")[1])
                figures["gate"].append(bench.ready_to_start())
                cpu, memory = bench.idle_daemon(10)
                figures["cpu"].append(cpu)
                figures["memory"].append(memory)
                figures["down"].append(bench.oneflower("down", "bench")[1])
        finally:
            bench.oneflower("down", "--all")
            daemon.stop(bench.home)
    middle = {name: statistics.median(values) for name, values in figures.items()}
    rows = [
        ("`up` with 2 SuperNodes, until RUNNING / the same by hand", f"{middle['up'] / middle['hand']:.2f}", "<= 1.25",
         f"{middle['up']:.1f} s / {middle['hand']:.1f} s"),
        ("from the SuperLink's READY to the start of its SuperNodes' machines", f"{middle['gate']:.0f} ms",
         "<= 200 ms", ""),
        ("`down`, 1 SuperLink and 2 SuperNodes", f"{middle['down']:.1f} s", "<= 3 s", "the whole command"),
        ("`oneflower --help`", f"{middle['help']:.2f} s CPU", "<= 0.3 s", ""),
        ("local daemon, idle", f"{middle['cpu']:.1f} %, {middle['memory']:.0f} MB", "< 1 %, <= 80 MB", "of one core"),
    ]  # fmt: skip
    print("| what | measured | goal | |\n| --- | --- | --- | --- |")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    if options.output:
        options.output.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
