"""How long a round of a real model takes, against the bytes alone and against stock Flower.

usage: python scripts/bench_models.py [--models A B ...] [--nodes N] [--rounds N] [--stock] [--count]
       [--set NAME=VALUE ...] [-o FILE]

The app adds a constant to each array, so a round is nothing but transfers. `--stock` also runs the same federation with
FL_EXECUTION=stock, in turns. `--count` runs it once more with an access log, and counts the requests of a round.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import re
import socket
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from typing import Self

import psutil
from bench import Bench, pyproject
from bench_rounds import Family

from oneflower.local import daemon
from oneflower_appliance.agent import tls

_STAGES = ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))


def _resnet18() -> list[tuple[int, ...]]:
    """Return the shapes of the 122 arrays of a ResNet-18: 45 MB."""

    def layer(*kernel: int) -> list[tuple[int, ...]]:
        return [kernel, *[(kernel[0],)] * 4, ()]  # a convolution, and its batch normalization with a counter

    shapes = layer(64, 3, 7, 7)
    for before, after, stride in _STAGES:
        shapes += layer(after, before, 3, 3) + layer(after, after, 3, 3)
        shapes += layer(after, before, 1, 1) if stride > 1 else []
        shapes += layer(after, after, 3, 3) + layer(after, after, 3, 3)
    return [*shapes, (1000, 512), (1000,)]


MODELS: dict[str, tuple[str, list[tuple[int, ...]]]] = {
    "S": ("2 arrays, 5 KB", [(10, 64), (10,)]),
    "A": ("400 arrays, 1 MB", [(655,)] * 400),
    "B": ("10 arrays, 100 MB", [(2_500_000,)] * 10),
    "C": ("400 arrays, 100 MB", [(62_500,)] * 400),
    "D": ("ResNet-18: 122 arrays, 45 MB", _resnet18()),
    "L": ("LoRA-like: 300 arrays, 20 MB", [(16_667,)] * 300),
}
APP = {
    "pyproject.toml": pyproject(
        "models", "models.apps:server", "models.apps:client", num_server_rounds=3, shapes="", stamps=""
    ),
    "models/__init__.py": "",
    "models/apps.py": """
import json, pathlib, time
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

server = ServerApp()
client = ClientApp()

@client.train()
def train(message, context):
    given = message.content["arrays"].to_numpy_ndarrays()
    arrays = ArrayRecord([np.asarray(array + np.float32(0.5)) for array in given])
    metrics = MetricRecord({"num-examples": 1, "train_loss": 0.5})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

@client.evaluate()
def evaluate(message, context):
    arrays = message.content["arrays"].to_numpy_ndarrays()
    metrics = MetricRecord({"num-examples": 1, "value": float(sum(array.flat[0] for array in arrays))})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)

@server.main()
def main(grid, context):
    def stamp(**values):
        with open(context.run_config["stamps"], "a") as file:
            file.write(json.dumps(values | {"at": time.time()}) + "\\n")

    class Stamped(FedAvg):
        def configure_train(self, server_round, arrays, config, grid):
            stamp(what="round")
            return super().configure_train(server_round, arrays, config, grid)

        def aggregate_evaluate(self, server_round, replies):
            result = super().aggregate_evaluate(server_round, replies)
            stamp(what="value", value=result["value"])
            return result

    generator = np.random.default_rng(7)
    shapes = json.loads(pathlib.Path(context.run_config["shapes"]).read_text())
    start = ArrayRecord([generator.standard_normal(shape).astype(np.float32) for shape in shapes])
    nodes = len(list(grid.get_node_ids()))
    strategy = Stamped(min_train_nodes=nodes, min_evaluate_nodes=nodes, min_available_nodes=nodes)
    strategy.start(grid, start, num_rounds=context.run_config["num-server-rounds"])
    stamp(what="round")
""",
}


class Sample:
    """What one run of the app took: `seconds` and CPU seconds a round, peak MB of a process, what the model gave."""

    def __init__(self, stamps: Path, cpu: float, peak: float) -> None:
        rounds, self.values = rounds_of(stamps)
        self.seconds = middle(rounds)
        self.first = rounds[0]
        self.cpu = cpu / len(rounds)
        self.peak = peak


def rounds_of(stamps: Path) -> tuple[list[float], list[float]]:
    """Return the seconds of each round, and what the new model of each gave, from what an app noted."""
    lines = [json.loads(line) for line in stamps.read_text().splitlines()]
    starts = [line["at"] for line in lines if line["what"] == "round"]
    rounds = [after - before for before, after in itertools.pairwise(starts)]
    return rounds, [line["value"] for line in lines if line["what"] == "value"]


def middle(rounds: list[float]) -> float:
    """Return the median seconds of the rounds after the first."""
    return statistics.median(rounds[1:])


def size_of(model: str) -> int:
    """Return the bytes of a model."""
    return 4 * sum(math.prod(shape) for shape in MODELS[model][1])


class Models:
    """The app, on federations of `nodes` SuperNodes."""

    def __init__(self, bench: Bench, folder: Path, nodes: int, rounds: int) -> None:
        self._bench, self._folder, self._nodes, self._rounds = bench, folder, nodes, rounds
        self._app = folder / "app"
        (self._app / "models").mkdir(parents=True)
        for name, text in APP.items():
            (self._app / name).write_text(text)

    def run(self, model: str, *settings: str) -> Sample:
        """Deploy a federation with these settings, train a model, and remove it."""
        wanted = [word for setting in settings for word in ("--set", setting)]
        self._bench.oneflower("up", "models", "--supernodes", str(self._nodes), *wanted)
        try:
            family = Family(str(self._bench.home.state / "machines"))
            before, stamps = family.cpu(), self._folder / f"stamps-{time.time()}"
            shapes = self._folder / "shapes"
            shapes.write_text(json.dumps(MODELS[model][1]))
            with Peak(family) as peak:
                self._bench.oneflower("run", str(self._app), "-f", "models", "-c",
                                      f"num-server-rounds={self._rounds}", "-c", f"stamps={stamps}",
                                      "-c", f"shapes={shapes}")  # fmt: skip
            return Sample(stamps, family.cpu() - before, peak.megabytes)
        finally:
            self._requests = self._count()
            self._bench.oneflower("down", "models")

    def requests(self, model: str) -> Counter[str]:
        """Return the requests of a run, by kind, from the access logs of another run."""
        self.run(model, "FL_LOG_LEVEL=DEBUG")
        return self._requests

    def _count(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for log in self._bench.home.state.glob("machines/*/console.log"):
            text = log.read_text(errors="replace")
            where = "task to SuperNode" if "SuperNode ID" in text else "task to SuperLink"
            for api, call in re.findall(r'"POST /v1/(fleet|runtime)/([a-z-]+)', text):
                found[f"{where if api == 'runtime' else 'SuperNode to SuperLink'}: {call}"] += 1
        return found


class Peak:
    """Watches the processes of a family while a model is trained: the largest resident set of one of them."""

    def __init__(self, family: Family) -> None:
        self._family, self._over = family, threading.Event()
        self.megabytes = 0.0
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(1):
            for process in self._family.processes():
                try:
                    self.megabytes = max(self.megabytes, process.memory_info().rss / 1e6)
                except psutil.Error:
                    continue

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def plain(size: int, nodes: int, folder: Path) -> float:
    """Return the seconds in which `nodes` processes get `size` bytes, send as many, and get them again.

    That is what a round of training and evaluation moves. Each node has a TLS connection of its own. Each end computes
    the SHA-256 of what it gets.
    """
    made = tls.make_certificates(folder, [("IP", "127.0.0.1")])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    content = b"\x5a" * size
    with socket.create_server(("127.0.0.1", 0)) as listener:
        clients = [
            get_context("fork").Process(target=_node, args=(listener.getsockname(), made.ca, size))
            for _ in range(nodes)
        ]
        for client in clients:
            client.start()
        connections = [context.wrap_socket(listener.accept()[0], server_side=True) for _ in clients]
        started = time.monotonic()
        threads = [threading.Thread(target=_serve, args=(connection, content)) for connection in connections]
        for one in (*threads, *clients):
            if isinstance(one, threading.Thread):
                one.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - started
        for client in clients:
            client.join()
            if client.exitcode:
                raise RuntimeError("the plain transfer failed")
    return seconds


def _serve(connection: ssl.SSLSocket, content: bytes) -> None:
    with connection:
        connection.sendall(content)
        _hash(connection, len(content))
        connection.sendall(content)
        connection.recv(1)  # the node has hashed it all


def _node(address: tuple[str, int], ca: Path, size: int) -> None:
    context = ssl.create_default_context(cafile=str(ca))
    with context.wrap_socket(socket.create_connection(address), server_hostname="127.0.0.1") as connection:
        content = _hash(connection, size)
        connection.sendall(content)
        _hash(connection, size)
        connection.sendall(b"x")


def _hash(connection: ssl.SSLSocket, size: int) -> bytes:
    found, digest = bytearray(size), hashlib.sha256()
    view, done = memoryview(found), 0
    while done < size:
        got = connection.recv_into(view[done:], 1 << 20)
        if not got:
            raise EOFError
        digest.update(view[done : done + got])
        done += got
    return bytes(found)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--models", nargs="*", choices=MODELS, default=["A", "B", "C", "D", "L"])
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--stock", action="store_true", help="also FL_EXECUTION=stock, in turns")
    parser.add_argument("--count", action="store_true", help="also the requests of a round, by part")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="variables of the federations")
    parser.add_argument("-o", "--output", type=Path, help="also write the figures as JSON")
    options = parser.parse_args()
    figures = {}
    print("| model, 1+{} | a round | the first | the bytes alone | ratio | stock | ratio | CPU s a round | peak of a "
          "process |\n|{}".format(options.nodes, " --- |" * 9), flush=True)  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = Bench(folder)
        models = Models(bench, folder, options.nodes, options.rounds)
        try:
            for model in options.models:
                title = MODELS[model][0]
                bytes_alone = min(plain(size_of(model), options.nodes, folder) for _ in range(3))
                ours = models.run(model, *options.set)
                stock = models.run(model, *options.set, "FL_EXECUTION=stock") if options.stock else None
                if stock and stock.values != ours.values:
                    raise SystemExit(f"{title}: the results differ: {ours.values}, stock {stock.values}")
                versus = (f"{stock.seconds:.1f} s", f"{ours.seconds / stock.seconds:.3f}") if stock else ("", "")
                cells = (f"{model}: {title}", f"{ours.seconds:.2f} s", f"{ours.first:.2f} s", f"{bytes_alone:.2f} s",
                         f"{ours.seconds / bytes_alone:.1f}", *versus, f"{ours.cpu:.1f}",
                         f"{ours.peak:.0f} MB")  # fmt: skip
                print("| " + " | ".join(cells) + " |", flush=True)
                figures[model] = {"seconds": ours.seconds, "plain": bytes_alone, "cpu": ours.cpu, "peak": ours.peak,
                                  "stock": stock.seconds if stock else None}  # fmt: skip
                if options.count:
                    for what, count in sorted(models.requests(model).items()):
                        print(f"  {count / options.rounds:8.1f}  {what}", file=sys.stderr)
        finally:
            bench.oneflower("down", "--all")
            daemon.stop(bench.home)
    if options.output:
        options.output.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
