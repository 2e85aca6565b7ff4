"""Many runs of many apps on one federation: what they leave stays within bounds, on disks and in memory."""

from __future__ import annotations

import base64
import contextlib
import os
import sqlite3

import pytest

from tests.flower_apps import write_app

from .conftest import until

pytestmark = pytest.mark.e2e

KEEP, RUNS = 2, 7
MEGABYTES = 6  # of an app; Flower allows ten
CLIENT = """
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()

@app.train()
def train(message, context):
    metrics = MetricRecord({"num-examples": 1, "loss": 0.5})
    return Message(RecordDict({"arrays": message.content["arrays"], "metrics": metrics}), reply_to=message)

@app.evaluate()
def evaluate(message, context):
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1, "loss": 0.5})}), reply_to=message)
"""
SERVER = """
import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
app = ServerApp()

@app.main()
def main(grid, context):
    FedAvg().start(grid, ArrayRecord({"w": Array(np.random.default_rng().normal(size=262144))}), num_rounds=1)
"""


def make_app(folder, number):
    noise = base64.b64encode(os.urandom(MEGABYTES * 2**20)).decode()
    modules = {"client": CLIENT, "server": SERVER, "ballast": f'NOISE = """{noise}"""\n'}
    return write_app(folder, f"app{number}", modules, server="server:app", client="client:app")


def test_many_runs_of_many_apps_stay_within_bounds(newcomer, tmp_path):
    newcomer("up", "lab", "--set", f"FL_KEEP_RUNS={KEEP}")
    link, *nodes = (vm["id"] for vm in newcomer.show("lab")["vms"])
    home = newcomer.machine(link) / "var"

    def known():
        with contextlib.closing(sqlite3.connect(home / "state" / "state.db")) as database:
            return database.execute("SELECT count(*) FROM run").fetchone()[0]

    def measure():
        database = sum(path.stat().st_size for path in (home / "state").glob("state.db*")) / 1e6
        memory = [newcomer.process(node, "flower.main", "supernode").memory_full_info().uss / 1e6 for node in nodes]
        apps = [sum(1 for _ in (newcomer.machine(vm) / "var" / "flwr" / "apps").iterdir()) for vm in (link, *nodes)]
        return database, memory, apps

    samples = []
    for number in range(RUNS):
        newcomer("run", str(make_app(tmp_path / f"app{number}", number)), "-f", "lab")
        until(lambda: known() <= KEEP, 30, "the end of older runs")
        samples.append(measure())
        assert len(list((home / "runs").iterdir())) <= KEEP
    (database, memory, _), (last_database, last_memory, apps) = samples[2], samples[-1]
    # Four more apps would stay in the database, about 8 MB each. One may be about to go.
    assert last_database - database < 3 * MEGABYTES, samples
    # Four more apps would stay in the memory of each SuperNode, about 14 MB each. Its allocator returns memory late.
    assert sum(last_memory) - sum(memory) < len(nodes) * 4 * MEGABYTES, samples
    assert max(apps) <= KEEP + 1
