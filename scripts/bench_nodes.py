"""What a SuperLink needs for each of its SuperNodes, in a round and while idle. docs/performance.md explains the table.

usage: PYTHONPATH=. python scripts/bench_nodes.py [--nodes 10 50 ...] [--models S] [--rounds N] [--profile FOLDER]
       [--real] [--far MS] [--sites N] [--turns N]

The SuperLink and its ServerApp are the real ones. The SuperNodes are those of scripts/light_nodes.py, in one process:
what a hundred real ones need would be all that two cores do. `--real` deploys real ones, which train the digits.

`--far` measures rounds of SuperNodes at sites, each behind a line that needs so many milliseconds one way, and behind
the same lines without delay, in turns. With `--real`, they are a coordinator and sites that have joined.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from bench import Bench, ask
from bench_models import APP, MODELS, middle, rounds_of
from bench_rounds import Family
from tests.e2e.networks import Line

from oneflower.local import daemon
from oneflower.process import QUIET_FLOWER
from oneflower_appliance.agent import tls
from oneflower_appliance.formats import join_address, split_address
from oneflower_appliance.orders import (
    EXECUTION_VARIABLE,
    LEVEL_VARIABLE,
    RUNS_VARIABLE,
    CertificateFiles,
    SuperLinkOrders,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ADDRESS, FLEET, CONTROL = "127.66.0.4", 9092, 9093
_SETTLED, _WATCHED = 20.0, 60.0  # seconds: until the start is over, and then for more than one turn of heartbeats


class Federation:
    """A SuperLink of ours, and `nodes` light SuperNodes."""

    def __init__(self, bench: Bench, stack: ExitStack, folder: Path, nodes: int, sites: int = 0) -> None:
        self._bench, self._folder, self._nodes = bench, folder, nodes
        made = tls.make_certificates(folder, [("IP", ADDRESS), ("IP", "127.0.0.1")])
        self.ca = made.ca
        path = f"{bench.runtime.bin}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, **QUIET_FLOWER, "PATH": path, "PYTHONPATH": str(bench.runtime.appliance),
                       "FLWR_HOME": str(folder / "flwr"), RUNS_VARIABLE: str(folder / "runs"),
                       LEVEL_VARIABLE: "INFO", EXECUTION_VARIABLE: "warm"}  # fmt: skip
        (folder / "runs").mkdir()
        orders = SuperLinkOrders(
            fleet=(ADDRESS, FLEET), control=(ADDRESS, CONTROL), database=folder / "state.db", runs=folder / "runs",
            certificates=CertificateFiles(made.ca, made.certificate, made.key), authenticate=False,
        )  # fmt: skip
        command = [str(bench.runtime.python), "-P", "-m", "oneflower_appliance.flower.main", "superlink",
                   "--parent", str(os.getpid())]  # fmt: skip
        log = stack.enter_context((folder / "log").open("w"))
        link = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, stdout=log, stderr=log, text=True)
        stack.callback(_end, link)
        assert link.stdin is not None  # noqa: S101
        with link.stdin as stdin:
            stdin.write(orders.line() + "\n")
        self.link = psutil.Process(link.pid)
        self._context = ssl.create_default_context(cafile=str(made.ca))
        _until(lambda: ask(f"https://{ADDRESS}:{CONTROL}/health", self._context) is not None or self._ended(link))
        self.lines = [Line((ADDRESS, FLEET)) for _ in range(sites)]
        self.light = []
        for host, port in [line.address for line in self.lines] or [(ADDRESS, FLEET)]:
            light = [str(bench.runtime.python), str(Path(__file__).with_name("light_nodes.py")), f"{host}:{port}",
                     str(made.ca), str(nodes // (sites or 1))]  # fmt: skip
            process = subprocess.Popen(light, env=environment, stdout=log, stderr=log)
            stack.callback(_end, process)
            self.light.append(psutil.Process(process.pid))

    def _ended(self, link: subprocess.Popen[str]) -> bool:
        if link.poll() is not None:
            raise SystemExit("The SuperLink ended.\n" + (self._folder / "log").read_text()[-2000:])
        return False

    def online(self) -> int:
        """Return how many SuperNodes are online."""
        nodes = ask(f"https://{ADDRESS}:{CONTROL}/v1/control/list-nodes", self._context, b"")
        return (nodes or b"").count(b"online")

    def idle(self, profile: Path | None) -> float:
        """Return the CPU of the SuperLink in percent of one core while there is nothing to do."""
        time.sleep(_SETTLED)
        before = self._cpu(self.link)
        with self._profiled(profile, "idle"):
            time.sleep(_WATCHED)
        return 100 * (self._cpu(self.link) - before) / _WATCHED

    @staticmethod
    def _cpu(process: psutil.Process) -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    def run(self, model: str, rounds: int, profile: Path | None) -> dict[str, float]:
        """Train; return seconds of a round, and CPU milliseconds for each node and round, by process."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        app, stamps, shapes = write_app(folder, model)
        before, light = self._cpu(self.link), sum(map(self._cpu, self.light))
        watched = _Tasks(self.link)
        with self._profiled(profile, model), watched:
            config = f'num-server-rounds={rounds} stamps="{stamps}" shapes="{shapes}"'
            self._bench.flwr_run(folder, self.ca, app, config, f"{ADDRESS}:{CONTROL}")
        each = 1000 / (self._nodes * rounds)
        seconds, _ = rounds_of(stamps)
        return {
            "seconds": middle(seconds),
            "superlink": each * (self._cpu(self.link) - before),
            "serverapp": each * watched.cpu,
            "nodes": each * (sum(map(self._cpu, self.light)) - light),
        }

    def memory(self) -> float:
        """Return the resident megabytes of the SuperLink."""
        return float(self.link.memory_info().rss) / 1e6

    @contextmanager
    def _profiled(self, profile: Path | None, name: str) -> Iterator[None]:
        """Have py-spy write a profile of the SuperLink, if it is wanted."""
        if profile is None:
            yield
            return
        command = [shutil.which("py-spy") or "py-spy", "record", "-p", str(self.link.pid), "-r", "200", "-f", "raw",
                   "-o", str(profile / f"{name}-{self._nodes}.txt")]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as spy:
            yield
            spy.send_signal(signal.SIGINT)


class RealFederation:
    """A federation of real SuperNodes on the local cloud."""

    def __init__(self, bench: Bench, nodes: int) -> None:
        self._bench, self._nodes = bench, nodes
        _, self.seconds, _ = bench.oneflower("up", "nodes", "--supernodes", str(nodes), "--max-vms", str(nodes))
        vms = json.loads(bench.oneflower("show", "nodes", "-o", "json")[0])["vms"]
        self._link, *self._others = [Family(f"={bench.home.machine(vm['id'])}\n") for vm in vms]
        self._all = Family(f"{bench.home.state / 'machines'}/")

    def idle(self) -> tuple[float, float]:
        """Return the CPU of the SuperLink's machine and of one node's, in percent of a core."""
        time.sleep(_SETTLED)
        link, total = self._link.cpu(), self._all.cpu()
        time.sleep(_WATCHED)
        link, total = self._link.cpu() - link, self._all.cpu() - total
        return 100 * link / _WATCHED, 100 * (total - link) / self._nodes / _WATCHED

    def run(self, rounds: int) -> tuple[float, float, float]:
        """Train; return seconds of a round, and CPU ms for each node and round, of the SuperLink and of the nodes."""
        link, total = self._link.cpu(), self._all.cpu()
        said, _, _ = self._bench.oneflower(
            "run", "image-classification", "-f", "nodes", "-r", str(rounds), "-q", "-o", "json"
        )
        taken = [row["seconds"] for row in json.loads(said)["rows"]]
        link, total = self._link.cpu() - link, self._all.cpu() - total
        each = 1000 / (self._nodes * rounds)
        return statistics.median(taken[1:]), each * link, each * (total - link)

    def memory(self) -> float:
        """Return the MB (proportional set size) of all processes of a node, on average."""
        nodes = sum(process.memory_full_info().pss for other in self._others[:3] for process in other.processes())
        return float(nodes) / len(self._others[:3]) / 1e6

    def remove(self) -> None:
        """Remove it."""
        self._bench.oneflower("down", "nodes")


def real(nodes: int, rounds: int) -> str:
    """Return a line of the table of real SuperNodes."""
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        try:
            federation = RealFederation(bench, nodes)
            link, node = federation.idle()
            memory = federation.memory()
            seconds, of_link, of_node = federation.run(rounds)
            federation.remove()
        finally:
            bench.oneflower("down", "--all")
            daemon.stop(bench.home)
    cells = (f"{federation.seconds:.0f} s", f"{seconds:.2f} s", f"{of_link:.0f}", f"{of_node:.0f}", f"{link:.2f} %",
             f"{node:.2f} %", f"{memory:.0f} MB")  # fmt: skip
    return f"| {nodes} | {' | '.join(cells)} |"


class FarSites:
    """A coordinator, and sites of real SuperNodes on the local cloud, each behind a line of its own."""

    def __init__(self, bench: Bench, folder: Path, nodes: int, sites: int) -> None:
        self._bench, self._folder = bench, folder
        bench.oneflower("up", "hub", "--kind", "coordinator", "--set", "FL_CERT_EXTRA_SAN=IP:127.0.0.1")
        host, port = split_address(json.loads(bench.oneflower("show", "hub", "-o", "json")[0])["endpoint"])
        self.lines = [Line((host, port)) for _ in range(sites)]
        each = str(nodes // sites)
        for number, line in enumerate(self.lines):
            invitation = folder / f"site{number}.invitation"
            bench.oneflower("invite", "hub", "--site", f"site{number}", "--nodes", each, "--approve", "--endpoint",
                            join_address(line.address), "--file", str(invitation))  # fmt: skip
            bench.oneflower("join", str(invitation), "--supernodes", each)

    def run(self, model: str, rounds: int, _profile: None) -> dict[str, float]:
        """Train; return seconds of a round."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        app, stamps, shapes = write_app(folder, model)
        self._bench.oneflower("run", str(app), "-f", "hub", "-c", f"num-server-rounds={rounds}",
                              "-c", f"stamps={stamps}", "-c", f"shapes={shapes}")  # fmt: skip
        return {"seconds": middle(rounds_of(stamps)[0])}


def write_app(folder: Path, model: str) -> tuple[Path, Path, Path]:
    """Write the app into a folder; return where it is, where it notes its rounds, and the shapes of the model."""
    app, stamps, shapes = folder / "app", folder / "stamps", folder / "shapes"
    (app / "models").mkdir(parents=True)
    for name, text in APP.items():
        (app / name).write_text(text)
    shapes.write_text(json.dumps(MODELS[model][1]))
    return app, stamps, shapes


class _Tasks:
    """The CPU seconds of the ServerApp, which is a process below the SuperLink's SuperExec."""

    def __init__(self, link: psutil.Process) -> None:
        self._link, self.cpu = link, 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            for process in self._link.children(recursive=True):
                try:
                    if process.name() == "flwr-serverapp":
                        times = process.cpu_times()
                        self.cpu = max(self.cpu, times.user + times.system)
                except psutil.Error:
                    continue

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def _until(condition: object) -> None:
    deadline = time.monotonic() + 300
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.2)


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def far(options: argparse.Namespace) -> None:
    """Print how long rounds take with sites behind lines that need `options.far` ms one way, and 0 ms, in turns."""
    print(
        "| model | sites | SuperNodes | a round, 0 ms | {} ms one way | ratio |\n|{}".format(options.far, " --- |" * 6)
    )
    for nodes in options.nodes:
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            bench, folder = Bench(Path(name)), Path(name)
            if options.real:
                stack.callback(daemon.stop, bench.home)
                stack.callback(bench.oneflower, "down", "--all")
                federation: Federation | FarSites = FarSites(bench, folder, nodes, options.sites)
            else:
                federation = Federation(bench, stack, folder, nodes, options.sites)
                _until(lambda: federation.online() == nodes)  # noqa: B023 - it is called here
            for model in options.models:
                taken: dict[float, list[float]] = {0.0: [], options.far / 1000: []}
                for _ in range(options.turns):
                    for delay, seconds in taken.items():
                        for line in federation.lines:
                            line.delay = delay
                        seconds.append(federation.run(model, options.rounds, None)["seconds"])
                near, away = map(statistics.median, taken.values())
                print(
                    f"| {model} | {options.sites} | {nodes} | {near:.2f} s | {away:.2f} s | {away / near:.2f} |",
                    flush=True,
                )
                print(taken, file=sys.stderr)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--nodes", type=int, nargs="*", default=[10, 50, 100])
    parser.add_argument("--models", nargs="*", choices=MODELS, default=["S"], help="several: only with --far")
    parser.add_argument("--rounds", type=int, default=5, help="0: only while idle")
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="profiles of the SuperLink, by py-spy")
    parser.add_argument("--real", action="store_true", help="real SuperNodes")
    parser.add_argument("--far", type=float, metavar="MS", help="only rounds, with sites so far away, one way")
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    if options.far:
        far(options)
        return
    if options.real:
        print("| SuperNodes | up | a round | SuperLink's machine, ms of CPU for each node and round | a node's | "
              "the SuperLink's machine while idle | a node's | memory of a node |\n|" + " --- |" * 8)  # fmt: skip
        for nodes in options.nodes:
            print(real(nodes, options.rounds), flush=True)
        return
    print(f"| {options.models[0]}, SuperNodes | a round | SuperLink, ms of CPU for each node and round | ServerApp | "
          "the SuperLink while idle | its memory |\n|" + " --- |" * 6, flush=True)  # fmt: skip
    for nodes in options.nodes:
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            federation = Federation(Bench(Path(name)), stack, Path(name), nodes)
            log = Path(name) / "log"
            try:
                _until(lambda: federation.online() == nodes)  # noqa: B023 - it is called here
                idle = federation.idle(options.profile)
                found = federation.run(options.models[0], options.rounds, options.profile) if options.rounds else {}
            except BaseException:
                print(log.read_text()[-3000:], file=sys.stderr)
                raise
            round_ = [f"{found[what]:.2f}" for what in ("seconds", "superlink", "serverapp")] if found else [""] * 3
            print("| " + " | ".join((str(nodes), *round_, f"{idle:.2f} %", f"{federation.memory():.0f} MB")) + " |",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
