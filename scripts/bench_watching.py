"""What metrics and the record of each node cost, in a federation that has both against one that has neither.

usage: python scripts/bench_watching.py [--rounds N] [--repeats N] [--nodes N] [--every SECONDS]

Both federations run the same app in turns. One has FL_METRICS_ENABLED and is asked every `--every` seconds, 1 by
default: exporters measure no more often. In the other, the app takes the record of each node out of its ServerApp. The
app also measures the record alone: the CPU time of the thread that writes it. What an answer of all exporters costs all
processes is measured while both federations are idle: Prometheus usually wants one in 15 s.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
from bench import Bench, pyproject
from bench_rounds import Family

from oneflower.local import daemon

_PORT, _IDLE = 9101, 20.0  # seconds
_USUAL = 15.0  # seconds between two questions of Prometheus, as `oneflower metrics render` configures it
APP = {
    "pyproject.toml": pyproject(
        "watching", "watching.apps:server", "watching.apps:client", num_server_rounds=3, stamps="", record=1
    ),
    "watching/__init__.py": "",
    "watching/apps.py": """
import functools, json, pathlib, time
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from oneflower_appliance.training import message_run, traffic
from oneflower_appliance.training.node_record import NodeRecord, Told

server = ServerApp()
client = ClientApp()
spent = [0.0, 0.0]  # seconds in the record: of CPU time, and in all

def measured(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        cpu, since = time.thread_time(), time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[0] += time.thread_time() - cpu
            spent[1] += time.perf_counter() - since
    return call

def replace(recording):
    for owner, name, nothing in (
        (NodeRecord, "add", lambda *args, **kwargs: None), (NodeRecord, "save", lambda *args: None),
        (NodeRecord, "close_round", lambda *args: None), (message_run, "told_in", lambda *args: Told()),
        (traffic, "_size_of", lambda *args: 0),
    ):
        setattr(owner, name, measured(getattr(owner, name)) if recording else nothing)

def reply(message, more=None):
    metrics = MetricRecord({"num-examples": 10, **{f"metric{number}": number / 7 for number in range(5)}})
    return Message(RecordDict({"metrics": metrics, **(more or {})}), reply_to=message)

@client.train()
def train(message, context):
    return reply(message, {"arrays": ArrayRecord([a + 1 for a in message.content["arrays"].to_numpy_ndarrays()])})

@client.evaluate()
def evaluate(message, context):
    return reply(message)

def private():
    lines = pathlib.Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1000

@server.main()
def main(grid, context):
    replace(context.run_config["record"])
    begun = []

    class Stamped(FedAvg):
        def configure_train(self, server_round, arrays, config, grid):
            begun.append(time.time())
            return super().configure_train(server_round, arrays, config, grid)

    nodes = len(list(grid.get_node_ids()))
    strategy = Stamped(min_train_nodes=nodes, min_evaluate_nodes=nodes, min_available_nodes=nodes)
    start = ArrayRecord([np.zeros((10, 64)), np.zeros(10)])
    strategy.start(grid, start, num_rounds=context.run_config["num-server-rounds"])
    begun.append(time.time())
    found = {"begun": begun, "cpu": spent[0], "seconds": spent[1], "memory": private()}
    pathlib.Path(context.run_config["stamps"]).write_text(json.dumps(found))
""",
}


class Asking(threading.Thread):
    """Asks each exporter again and again, as Prometheus does, until it is told to end."""

    def __init__(self, addresses: list[str], every: float) -> None:
        super().__init__(daemon=True)
        self._addresses, self._every, self._over = addresses, every, threading.Event()
        self.times = 0

    def run(self) -> None:
        """Ask."""
        with httpx.Client(trust_env=False) as client:
            while not self._over.wait(self._every):
                for address in self._addresses:
                    client.get(f"http://{address}:{_PORT}/metrics").raise_for_status()
                self.times += 1

    def end(self) -> None:
        """End, and fail if nothing was asked."""
        self._over.set()
        self.join()
        if not self.times:
            raise SystemExit("The exporters do not answer.")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class Side:
    """A federation of its own cloud. If `watched`, it has metrics and the record; otherwise neither."""

    def __init__(self, folder: Path, options: argparse.Namespace, *, watched: bool) -> None:
        folder.mkdir()
        self._folder, self._options, self._watched = folder, options, watched
        self.bench = Bench(folder)
        for name, content in APP.items():
            path = folder / "app" / name
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text(content)
        metrics = "YES" if watched else "NO"
        self.bench.oneflower("up", "lab", "-n", str(options.nodes), "--set", f"FL_METRICS_ENABLED={metrics}")
        self._family = Family(str(self.bench.home.state / "machines"))
        status = json.loads(self.bench.oneflower("show", "lab", "-o", "json")[0])
        self._addresses = [vm["ip"] for vm in status["vms"]]

    def run(self) -> dict[str, float]:
        """Train once. Returns seconds of a round, CPU seconds of a round, and those of its parts."""
        stamps, rounds = self._folder / f"stamps-{time.time()}", self._options.rounds
        config = [f"num-server-rounds={rounds}", f"record={int(self._watched)}", f"stamps={stamps}"]
        asking = Asking(self._addresses, self._options.every) if self._watched else None
        cpu = self._family.cpu()
        with asking or nullcontext():
            self.bench.oneflower("run", "app", "-f", "lab", *(word for pair in config for word in ("-c", pair)))
        used = self._family.cpu() - cpu
        said: dict[str, Any] = json.loads(stamps.read_text())
        seconds = [after - before for before, after in itertools.pairwise(said["begun"])]
        return {
            "round": statistics.median(seconds), "cpu": used / rounds,
            "record cpu": said["cpu"] / rounds, "record seconds": said["seconds"] / rounds,
            "ServerApp": said["memory"], "agent": self._memory_of_agents(),
        }  # fmt: skip

    def answer(self) -> float:
        """Return the CPU seconds that one answer of all its exporters costs all its processes, while it is idle."""
        before = self._family.cpu()
        time.sleep(_IDLE)
        quiet = self._family.cpu()
        asking = Asking(self._addresses, 1.0)
        with asking:
            time.sleep(_IDLE)
        return ((self._family.cpu() - quiet) - (quiet - before)) / asking.times

    def _memory_of_agents(self) -> float:
        found = []
        for process in self._family.processes():
            with suppress(psutil.Error):
                if "oneflower_appliance.agent" in process.cmdline():
                    found.append(process.memory_full_info().uss)
        return statistics.mean(found) / 1e6


def compare(answer: float, plain: list[dict[str, float]], watched: list[dict[str, float]]) -> None:
    """Print the table."""
    before, after = ({name: statistics.median(run[name] for run in runs) for name in runs[0]}
                     for runs in (plain, watched))  # fmt: skip
    pairs = {name: [on[name] / off[name] for off, on in zip(plain, watched, strict=True)] for name in ("round", "cpu")}
    print("| | neither | both | | goal |\n| --- | --- | --- | --- | --- |")
    for name, what in (("round", "a round"), ("cpu", "CPU time of a round")):
        apart = f"ratios of the pairs {min(pairs[name]):.2f} to {max(pairs[name]):.2f}"
        middle = statistics.median(pairs[name])
        print(f"| {what} | {before[name]:.3f} s | {after[name]:.3f} s | {middle:.3f}; {apart} | <= 1.02 |")
    busy = before["cpu"] / before["round"]  # CPU seconds in a second of training
    for what, seconds, share in (
        ("CPU time of an answer of all exporters, one in 15 s", answer, answer / _USUAL / busy),
        ("record, CPU time of a round", after["record cpu"], after["record cpu"] / before["cpu"]),
        ("record, seconds of a round", after["record seconds"], after["record seconds"] / before["round"]),
    ):
        print(f"| {what} | | {1000 * seconds:.2f} ms | {100 * share:.2f} % | <= 2 % |")
    for name in ("agent", "ServerApp"):
        more = after[name] - before[name]
        print(f"| memory of {name} | {before[name]:.1f} MB | {after[name]:.1f} MB | {more:+.1f} MB | <= 10 MB |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="how often metrics are asked for")
    options = parser.parse_args()
    sides: list[Side] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            sides.extend(Side(folder / f"watched{watched:d}", options, watched=watched) for watched in (False, True))
            for side in sides:
                side.run()  # what is done once, such as the installation of the app
            turns = []
            for number in range(options.repeats):
                turns.append([side.run() for side in (sides if number % 2 else sides[::-1])])
                if not number % 2:
                    turns[-1].reverse()
                off, on = turns[-1]
                print(f"  {number + 1} of {options.repeats}: {off['round']:.3f}, {on['round']:.3f} s", file=sys.stderr)
            answer = statistics.median(sides[1].answer() for _ in range(3))
        finally:
            for side in sides:
                side.bench.oneflower("down", "--all")
                daemon.stop(side.bench.home)
    compare(answer, *([turn[index] for turn in turns] for index in (0, 1)))


if __name__ == "__main__":
    main()
