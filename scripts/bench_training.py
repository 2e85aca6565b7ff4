"""How fast rounds are, what a checkpoint costs, and how much memory aggregation takes, against Flower alone.

usage: python scripts/bench_training.py [--rounds N] [--repeats N]

The same app runs on hand-started Flower processes through `flwr run` and on a federation through `oneflower run`.
The time of a round is a multiple of three seconds, because Flower's ServerApp and SuperNodes poll that often, and one
poll more or less is chance. The time that a SuperNode has a task, from the message to the reply, can be compared.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from bench import Bench, moment_of, pyproject

from oneflower.local import daemon
from oneflower_appliance.training.checkpoints import Checkpoints, Progress
from oneflower_appliance.training.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MEGABYTES, NODES = 100, 10
APP = {
    "pyproject.toml": pyproject("bench", "bench.apps:server", "bench.apps:client", num_server_rounds=3, megabytes=0),
    "bench/__init__.py": "",
    "bench/apps.py": """
import time
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

server = ServerApp()
client = ClientApp()

@client.train()
def train(message, context):
    metrics = MetricRecord({"train_loss": 0.5, "num-examples": 1})
    return Message(RecordDict({"arrays": message.content["arrays"], "metrics": metrics}), reply_to=message)

@client.evaluate()
def evaluate(message, context):
    return Message(RecordDict({"metrics": MetricRecord({"loss": 0.5, "num-examples": 1})}), reply_to=message)

def stamp(server_round, arrays):
    print(f"STAMP {time.time()}", flush=True)
    return MetricRecord({"loss": 0.5})

@server.main()
def main(grid, context):
    arrays = [np.zeros(262144, dtype=np.float32) for _ in range(max(1, context.run_config["megabytes"]))]
    rounds = context.run_config["num-server-rounds"]
    FedAvg().start(grid, ArrayRecord(arrays), num_rounds=rounds, evaluate_fn=stamp)
""",
}


def stamps(text: str) -> list[float]:
    """Return the seconds of each round except the first, which starts processes that stay."""
    times = [float(found) for found in re.findall(r"STAMP ([\d.]+)", text)]
    return [after - before for before, after in itertools.pairwise(times[1:])]


def tasks(log: Path) -> list[float]:
    """Return for how many seconds a SuperNode had each task, by its log."""
    found, received = [], None
    for line in log.read_text().splitlines():
        if "Receiving: " in line or ("Sent successfully" in line and received):
            moment = moment_of(line)
            if received and "Sent" in line:
                found.append(moment - received)
            received = moment if "Receiving" in line else None
    return found


class Rounds:
    """The app, and two ways to run it. Both return the seconds of each round, and of each task on a SuperNode."""

    def __init__(self, bench: Bench, folder: Path, rounds: int) -> None:
        self._bench = bench
        self._rounds = rounds
        self.app = folder / "app"
        for name, text in APP.items():
            path = self.app / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def plain(self) -> tuple[list[float], list[float]]:
        """Use `flwr run`, on processes started by hand."""
        with ExitStack() as stack, tempfile.TemporaryDirectory() as name:
            ca = self._bench.start_by_hand(stack, Path(name))
            text = self._bench.flwr_run(Path(name), ca, self.app, f"num-server-rounds={self._rounds}")
            return stamps(text), [s for log in Path(name).glob("node*/log") for s in tasks(log)]

    def ours(self, megabytes: int = 0) -> tuple[list[float], list[float]]:
        """Use `oneflower run`, on a federation."""
        self._bench.oneflower("up", "rounds")
        try:
            arguments = ("run", str(self.app), "-f", "rounds", "--log", "-r", str(self._rounds))
            text = self._bench.oneflower(*arguments, "-c", f"megabytes={megabytes}", errors=True)[0]
            logs = sorted(self._bench.home.state.glob("machines/*/console.log"))
            return stamps(text), [seconds for log in logs for seconds in tasks(log)]
        finally:
            self._bench.oneflower("down", "rounds")


def arrays(megabytes: int) -> Any:
    """Return a model of that size."""
    from flwr.app import Array, ArrayRecord  # noqa: PLC0415 - Flower is slow to import

    return ArrayRecord({str(n): Array(np.full(262144, n, dtype=np.float32)) for n in range(megabytes)})


def checkpoint() -> tuple[float, float]:
    """Return the seconds for which a checkpoint makes the run wait, and the seconds that it takes in the background."""
    with tempfile.TemporaryDirectory() as name:
        checkpoints, model = Checkpoints(Path(name), 3), arrays(MEGABYTES)
        kept, written = [], []
        for number in range(5):
            started = time.perf_counter()
            checkpoints.save(number, model, Memory(), Progress(5, "1", "FedAvg", {}, {}))
            kept.append(time.perf_counter() - started)
            checkpoints.wait()
            written.append(time.perf_counter() - started)
        return statistics.median(kept), statistics.median(written)


def memory(kind: str) -> float:
    """Return the peak memory of a process that aggregates one round, in MB."""
    command = [sys.executable, __file__, "--aggregate", kind]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def aggregate(kind: str) -> None:
    """Aggregate the models of ten nodes with FedAvg, supervised or not, and print this process's peak memory in MB."""
    from flwr.app import Message, MetricRecord, RecordDict  # noqa: PLC0415
    from flwr.serverapp.strategy import FedAvg  # noqa: PLC0415
    from flwr.supercore.task_identity import TaskIdentity  # noqa: PLC0415

    from oneflower_appliance.flower import internals  # noqa: PLC0415
    from oneflower_appliance.flower.warm.replies import keep_replies_in_files  # noqa: PLC0415
    from oneflower_appliance.training.supervisor import supervise  # noqa: PLC0415

    place: Callable[[], dict[str, bytes]] = dict
    for name in ("_task_id", "_run_id", "_node_id"):
        setattr(TaskIdentity, name, 1)

    class Grid:
        run = SimpleNamespace(run_id=1, override_config={})

        def get_node_ids(self) -> list[int]:
            return list(range(1, NODES + 1))

        def send_and_receive(self, messages: Iterable[Message], **_: Any) -> list[Message]:
            metrics = MetricRecord({"num-examples": 1})
            return [
                fetched(Message(RecordDict({"arrays": arrays(MEGABYTES), "metrics": metrics}), reply_to=message))
                for message in messages
            ]

    def fetched(reply: Message) -> Any:
        """Return a reply as a ServerApp makes it from its objects, which came one by one."""
        root, contents = reply.object_id, place()
        objects = internals.inflatable_objects().get_all_nested_objects(reply)
        del reply
        for name in list(objects):
            contents |= {name: objects.pop(name).deflate()}
        return internals.grid().inflate_object_from_contents(root, contents)

    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:  # /tmp may be in memory
        if kind == "supervised":
            place = keep_replies_in_files(Path(name))
            os.environ["ONEFLOWER_FORM"] = '{"FL_CHECKPOINT_ENABLED": "YES", "FL_CHECKPOINT_INTERVAL": "1"}'
            supervise(Path(name) / "runs", Path(name) / "checkpoints")
        FedAvg(fraction_evaluate=0.0).start(Grid(), arrays(MEGABYTES), num_rounds=2)  # type: ignore[arg-type]
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--aggregate", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.aggregate:
        aggregate(options.aggregate)
        return
    rounds_of: dict[str, list[float]] = {"plain": [], "ours": []}
    tasks_of: dict[str, list[float]] = {"plain": [], "ours": []}
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        rounds = Rounds(bench, Path(name), options.rounds)
        try:
            for number in range(options.repeats):
                print(f"  round times, {number + 1} of {options.repeats} ...", file=sys.stderr)
                for name_of, way in (("plain", rounds.plain), ("ours", rounds.ours)):
                    found = way()
                    rounds_of[name_of] += found[0]
                    tasks_of[name_of] += found[1]
            print(f"  rounds of a model of {MEGABYTES} MB ...", file=sys.stderr)
            large = statistics.median(rounds.ours(MEGABYTES)[0])
        finally:
            bench.oneflower("down", "--all")
            daemon.stop(bench.home)
    plain, ours = (statistics.mean(tasks_of[name]) for name in ("plain", "ours"))
    plain_round, our_round = (statistics.mean(rounds_of[name]) for name in ("plain", "ours"))
    kept, written = checkpoint()
    alone, supervised = memory("plain"), memory("supervised")
    rows = [
        ("a task on a SuperNode, oneflower / plain Flower", f"{ours / plain:.3f}", "<= 1.02",
         f"{ours:.2f} s / {plain:.2f} s; a round {our_round:.1f} s / {plain_round:.1f} s, most of it polls"),
        (f"a checkpoint of {MEGABYTES} MB, as a share of a round", f"{100 * kept / large:.2f} %", "<= 2 %",
         f"{1000 * kept:.1f} ms of {large:.1f} s; written in the background in {written:.2f} s"),
        (f"peak memory of aggregating {NODES} x {MEGABYTES} MB / Flower alone", f"{supervised / alone:.3f}", "<= 1",
         f"{supervised:.0f} MB / {alone:.0f} MB, checkpoints on"),
    ]  # fmt: skip
    print("| what | measured | goal | |\n| --- | --- | --- | --- |")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
