"""How fast rounds are, part by part, against stock Flower on the same machine. docs/performance.md explains the table.

usage: python scripts/bench_rounds.py [--repeats N] [--rounds N] [--nodes N ...] [--torch]

The same app runs on hand-started Flower with its default settings and on a federation, in turns. A round is split by
the times that the app records and the times in the logs of the SuperNodes. The last node counts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from bench import Bench, moment_of, pyproject

from oneflower.local import daemon
from oneflower_appliance.use_cases import USE_CASES

_SETTLING, _WATCHED = 8.0, 10.0  # seconds
PARTS = ("node poll", "message pull", "task acquisition", "process start", "imports and input", "app code",
         "result push", "grid poll", "aggregation")  # fmt: skip
PYPROJECT = pyproject("rounds", "rounds.server:app", "rounds.client:app", num_server_rounds=3, stamps="", work=0)
STAMPS = """
import json, os, time

def began():
    with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
        ticks = int(stat.read().rpartition(")")[2].split()[19])
        return time.time() - float(uptime.read().split()[0]) + ticks / os.sysconf("SC_CLK_TCK")

def stamp(context, **values):
    with open(context.run_config["stamps"], "a") as file:
        file.write(json.dumps(values | {"at": time.time()}) + "\\n")
"""
CLIENT = """
import time
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from rounds.stamps import began, stamp

imported = time.time()
app = ClientApp()

def model_of(message):
    model = SGDClassifier(loss="log_loss", random_state=7)
    model.coef_, model.intercept_ = message.content["arrays"].to_numpy_ndarrays()
    model.classes_ = np.arange(10)
    return model

def share(context):
    number, count = context.node_config["partition-id"], context.node_config["num-partitions"]
    images, labels = load_digits(return_X_y=True)
    return images[number::count] / 16, labels[number::count]

def done(message, context, content, began_at):
    stamp(context, what="task", node=context.node_config["partition-id"], kind=message.metadata.message_type,
          process=began(), imported=imported, begin=began_at, end=time.time())
    return Message(RecordDict(content), reply_to=message)

@app.train()
def train(message, context):
    began_at, (images, labels), model = time.time(), share(context), model_of(message)
    if context.run_config["work"]:
        import torch
        matrix = torch.ones(256, 256)
        for _ in range(context.run_config["work"]):
            matrix = torch.tanh(matrix @ matrix)
    model.partial_fit(images, labels, classes=np.arange(10))
    content = {"metrics": MetricRecord({"num-examples": len(labels)})}
    content["arrays"] = ArrayRecord([model.coef_, model.intercept_])
    return done(message, context, content, began_at)

@app.evaluate()
def evaluate(message, context):
    began_at, (images, labels), model = time.time(), share(context), model_of(message)
    metrics = MetricRecord({"num-examples": len(labels), "accuracy": float(model.score(images, labels))})
    return done(message, context, {"metrics": metrics}, began_at)
"""
SERVER = """
import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from rounds.stamps import stamp

app = ServerApp()

@app.main()
def main(grid, context):
    class Stamped(FedAvg):
        def configure_train(self, server_round, arrays, config, grid):
            stamp(context, what="round")
            messages = list(super().configure_train(server_round, arrays, config, grid))
            stamp(context, what="sent", kind="train")
            return messages

        def configure_evaluate(self, server_round, arrays, config, grid):
            messages = list(super().configure_evaluate(server_round, arrays, config, grid))
            stamp(context, what="sent", kind="evaluate")
            return messages

        def aggregate_train(self, server_round, replies):
            replies = list(replies)
            stamp(context, what="replies", kind="train")
            result = super().aggregate_train(server_round, replies)
            stamp(context, what="aggregated", kind="train")
            return result

        def aggregate_evaluate(self, server_round, replies):
            replies = list(replies)
            stamp(context, what="replies", kind="evaluate")
            result = super().aggregate_evaluate(server_round, replies)
            stamp(context, what="aggregated", kind="evaluate", accuracy=result["accuracy"])
            return result

    nodes = len(list(grid.get_node_ids()))
    strategy = Stamped(min_train_nodes=nodes, min_evaluate_nodes=nodes, min_available_nodes=nodes)
    start = ArrayRecord([np.zeros((10, 64)), np.zeros(10)])
    strategy.start(grid, start, num_rounds=context.run_config["num-server-rounds"])
    stamp(context, what="round")
"""


class Sample:
    """The measurements of one run of the app."""

    def __init__(self, stamps: Path, logs: list[Path], cpu: float, idle: Idle) -> None:
        lines = [json.loads(line) for line in stamps.read_text().splitlines()]
        starts = [line["at"] for line in lines if line["what"] == "round"]
        self.rounds = [after - before for before, after in itertools.pairwise(starts)]
        self.accuracies = [line["accuracy"] for line in lines if "accuracy" in line]
        self.cpu = cpu / len(self.rounds)
        self.idle = idle
        self.parts = self._split(lines, [_moments(log) for log in logs])

    def _split(self, lines: list[dict[str, Any]], nodes: list[list[dict[str, float]]]) -> dict[str, float]:
        """Return the seconds of each part of a round, as the median of all rounds but the first."""
        server = [line for line in lines if line["what"] in ("sent", "replies", "aggregated")]
        tasks: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for line in lines:
            if line["what"] == "task":
                tasks[line["node"]].append(line)
        # A log belongs to the partition whose tasks its messages enclose.
        logs = {node: _enclosing(found, nodes) for node, found in tasks.items()}
        phases = [server[index : index + 3] for index in range(0, len(server), 3)]
        split = []
        for number, (sent, replies, aggregated) in enumerate(phases):
            last = max(tasks, key=lambda node: logs[node][number]["sent"])
            task, log = tasks[last][number], logs[last][number]
            moments = [sent["at"], log["receiving"], log["received"], task["process"], log["flower"], task["begin"],
                       task["end"], log["sent"], replies["at"], aggregated["at"]]  # fmt: skip
            split.append([max(0.0, after - before) for before, after in itertools.pairwise(moments)])
        rounds = [[a + b for a, b in zip(*split[index : index + 2], strict=True)] for index in range(0, len(split), 2)]
        return {
            part: statistics.median(values) for part, values in zip(PARTS, zip(*rounds[1:], strict=True), strict=True)
        }


def _moments(log: Path) -> list[dict[str, float]]:
    """Return, for each message in a SuperNode's log, when it came, was complete, had a process, and was answered."""
    words = {"Receiving: ": "receiving", "Received successfully": "received", "Start `flwr-clientapp`": "flower",
             "Sent successfully": "sent"}  # fmt: skip
    found: list[dict[str, float]] = []
    for line in log.read_text().splitlines():
        for word, name in words.items():
            if word in line:
                moment = moment_of(line)
                if name == "receiving":
                    found.append({})
                if found:
                    found[-1].setdefault(name, moment)
    return found


def _enclosing(tasks: list[dict[str, Any]], nodes: list[list[dict[str, float]]]) -> list[dict[str, float]]:
    def fits(messages: list[dict[str, float]]) -> bool:
        return len(messages) == len(tasks) and all(
            message["receiving"] <= task["begin"] and task["end"] <= message["sent"]
            for message, task in zip(messages, tasks, strict=True)
        )

    # If several fit, as they do when nodes work in step, the closest one is right.
    fitting = [messages for messages in nodes if fits(messages)]
    return min(fitting, key=lambda messages: sum(m["sent"] - t["end"] for m, t in zip(messages, tasks, strict=True)))


@dataclass(frozen=True)
class Idle:
    """An idle federation: percent of one core, and MB (proportional set size) of a SuperNode's Flower.

    The agents of a federation, which stock Flower does not have, count for CPU and not for memory.
    """

    cpu: float
    memory: float


class Family:
    """The processes of one federation: they have a mark in their environment."""

    def __init__(self, mark: str) -> None:
        self._mark = mark

    def processes(self) -> list[psutil.Process]:
        """Return them."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if self._mark in "".join(f"{k}={v}\n" for k, v in process.environ().items()):
                    found.append(process)
        return found

    def cpu(self) -> float:
        """Return the CPU seconds that they and their ended children have used."""
        total = 0.0
        for process in self.processes():
            with suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def idle(self, nodes: int) -> Idle:
        """Watch it for a while in which it is idle and nothing is still starting."""
        time.sleep(_SETTLING)
        before = self.cpu()
        time.sleep(_WATCHED)
        return Idle(100 * (self.cpu() - before) / _WATCHED, self._memory_of_a_node(nodes))

    def _memory_of_a_node(self, nodes: int) -> float:
        total = 0.0
        for process in self.processes():
            with suppress(psutil.Error):
                words = " ".join(process.cmdline())
                if "supernode" in words or ("superexec" in words and "9092" not in words):
                    total += process.memory_full_info().pss
        return total / nodes / 1e6


class Rounds:
    """The app, and two ways to run it."""

    def __init__(self, bench: Bench, folder: Path, rounds: int, work: int, framework: str) -> None:
        self._bench, self._folder = bench, folder
        self._config = f"num-server-rounds={rounds} work={work}"
        self._framework = framework
        self._app = folder / "app"
        (self._app / "rounds").mkdir(parents=True, exist_ok=True)
        (self._app / "pyproject.toml").write_text(PYPROJECT)
        for name, text in (("__init__", ""), ("stamps", STAMPS), ("client", CLIENT), ("server", SERVER)):
            (self._app / "rounds" / f"{name}.py").write_text(text)

    def stock(self, nodes: int) -> Sample:
        """Use `flwr run`, on processes started by hand."""
        with ExitStack() as stack, tempfile.TemporaryDirectory(dir=self._folder) as name:
            ca = self._bench.start_by_hand(stack, Path(name), nodes)
            family = Family(name)
            idle, cpu, stamps = family.idle(nodes), family.cpu(), Path(name) / "stamps"
            self._bench.flwr_run(Path(name), ca, self._app, f'{self._config} stamps="{stamps}"')
            return Sample(stamps, sorted(Path(name).glob("node*/log")), family.cpu() - cpu, idle)

    def ours(self, nodes: int, execution: str = "warm") -> Sample:
        """Use `oneflower run`, on a federation."""
        settings = (f"FL_EXECUTION={execution}", f"ML_FRAMEWORK={self._framework}")
        wanted = [word for setting in settings for word in ("--set", setting)]
        self._bench.oneflower("up", "rounds", "--supernodes", str(nodes), *wanted)
        try:
            family = Family(str(self._bench.home.state / "machines"))
            idle, cpu = family.idle(nodes), family.cpu()
            stamps = self._folder / f"stamps-{time.time()}"
            config = [word for pair in (*self._config.split(), f"stamps={stamps}") for word in ("-c", pair)]
            self._bench.oneflower("run", str(self._app), "-f", "rounds", *config)
            logs = [log for log in self._bench.home.state.glob("machines/*/console.log") if _moments(log)]
            return Sample(stamps, logs, family.cpu() - cpu, idle)
        finally:
            self._bench.oneflower("down", "rounds")


def whole(bench: Bench, folder: Path) -> tuple[float, float]:
    """Return the seconds from nothing to a trained model: by hand with stock Flower, and `oneflower demo`."""
    started = time.monotonic()
    with ExitStack() as stack, tempfile.TemporaryDirectory(dir=folder) as name:
        ca = bench.start_by_hand(stack, Path(name))
        bench.flwr_run(Path(name), ca, USE_CASES["image-classification"].folder, "num-server-rounds=3")
        by_hand = time.monotonic() - started
    return by_hand, bench.oneflower("demo", "--save", str(folder / "results"))[1]


def compare(rounds: Rounds, nodes: int, repeats: int) -> tuple[list[Sample], list[Sample]]:
    """Run the app both ways, in turns."""
    stock, ours = [], []
    for number in range(repeats):
        print(f"  1+{nodes} nodes, {number + 1} of {repeats} ...", file=sys.stderr)
        stock.append(rounds.stock(nodes))
        ours.append(rounds.ours(nodes))
        print(f"    {middle(stock[-1:]):.1f} s, {middle(ours[-1:]):.2f} s a round", file=sys.stderr)
    return stock, ours


def middle(samples: list[Sample]) -> float:
    """Return the median seconds of a round."""
    return statistics.median(seconds for sample in samples for seconds in sample.rounds)


def table(nodes: int, stock: list[Sample], ours: list[Sample], goal: str) -> None:
    """Print the results."""
    print(f"\n### 1+{nodes} nodes\n\n| | stock Flower | oneflower | ratio | goal |\n| --- | --- | --- | --- | --- |")

    def row(what: str, unit: str, values: tuple[float, float], wanted: str = "") -> None:
        before, after = values
        ratio = f"{after / before:.3f}" if before > 0.005 else ""
        print(f"| {what} | {before:.2f} {unit} | {after:.2f} {unit} | {ratio} | {wanted} |")

    both = (stock, ours)
    row("**a round**", "s", (middle(stock), middle(ours)), goal)
    for part in PARTS:
        row(part, "s", tuple(statistics.median(s.parts[part] for s in found) for found in both))
    row("CPU time of a round", "s", tuple(statistics.median(s.cpu for s in found) for found in both), "<= 1/5")
    row("idle: memory of a SuperNode", "MB", tuple(statistics.median(s.idle.memory for s in found) for found in both),
        "<= 1.1")  # fmt: skip
    row("idle: CPU of all", "%", tuple(statistics.median(s.idle.cpu for s in found) for found in both), "<= 1")
    runs = [sample.accuracies for sample in (*stock, *ours)]
    apart = max(abs(a - b) for found in runs for a, b in zip(found, runs[0], strict=True))
    # Replies are summed in the order of their arrival, so with three or more nodes the last digits vary.
    print(f"\nAccuracy of every round, in every run: {f'at most {apart:.4f} apart' if apart else 'the same'}.")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--nodes", type=int, nargs="*", default=[2, 10])
    parser.add_argument(
        "--torch", type=int, default=0, metavar="N", help="only an app of PyTorch, with N steps a round"
    )
    options = parser.parse_args()
    framework = "pytorch" if options.torch else "sklearn"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = Bench(folder, framework)
        rounds = Rounds(bench, folder, options.rounds, options.torch, framework)
        try:
            for nodes in options.nodes:
                found = compare(rounds, nodes, options.repeats)
                table(nodes, *found, "<= 1" if options.torch else "<= 1/10" if nodes <= 2 else "<= 1/5")
            if not options.torch:
                pairs = [whole(bench, folder) for _ in range(options.repeats)]
                by_hand, demo = (statistics.median(values) for values in zip(*pairs, strict=True))
                print(f"\nFrom nothing to a model, 3 rounds: {demo:.1f} s; by hand with stock Flower {by_hand:.1f} s; "
                      f"ratio {demo / by_hand:.3f}, goal <= 1/3.")  # fmt: skip
        finally:
            bench.oneflower("down", "--all")
            daemon.stop(bench.home)


if __name__ == "__main__":
    main()
