"""OneFlow's policies scale a real federation while it trains: a node joins, and one leaves with nothing of it lost.

Worth its seconds: only real Flower shows whether a task that runs when its machine is removed still counts.
"""

from __future__ import annotations

import json

import pytest

from oneflower.cloud import Cloud, Endpoints
from oneflower.local import daemon
from tests.flower_apps import write_app

from .conftest import until

pytestmark = pytest.mark.e2e

APP = """
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
    print("a training begins", flush=True)
    time.sleep(4)
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": message.content["arrays"], "metrics": metrics}), reply_to=message)

@server.main()
def main(grid, context):
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
    strategy.start(grid, ArrayRecord([np.zeros(3)]), num_rounds=ROUNDS)
"""
BEGUN, ROUNDS = "a training begins", 6
APP = APP.replace("ROUNDS", str(ROUNDS))
GROW, SHRINK = "FL_BUSY > 0", "FL_BUSY < 0.5"
ONE = [word for name in ("AVAILABLE", "FIT", "EVALUATE") for word in ("--set", f"FL_MIN_{name}_CLIENTS=1")]


def nodes(user, name):
    return [vm["id"] for vm in user.show(name)["vms"] if vm["role"] == "supernode"]


def trainings(user):
    """How many tasks were begun, by the consoles of the machines: of those that run, and of the one that left."""
    consoles = [*user.home.logs.glob("*supernode*"), *(user.home.state / "machines").glob("*/console.log")]
    return sum(path.read_text().count(BEGUN) for path in consoles)


@pytest.fixture
def scaled(user):
    policies = (f"{GROW} : +1 period=0 times=1 cooldown=0", f"{SHRINK} : -1 period=0 times=1 cooldown=90")
    when = [word for policy in policies for word in ("--when", policy)]
    user("up", "scaled", "-n", "1", "--autoscale", "1:2", *when, *ONE)
    yield "scaled"
    user("down", "scaled")


def test_a_policy_adds_a_node_that_trains_and_removes_one_whose_running_task_counts(user, scaled, tmp_path):
    app = write_app(tmp_path / "sleepy", "sleepy", {"apps": APP}, server="apps:server", client="apps:client")
    process, lines = user.say("run", str(app), "-f", scaled)

    def happens(condition, what):
        until(lambda: process.poll() is not None or condition(), 60, what)
        assert process.poll() is None, lines.all()

    happens(lambda: user.show(scaled)["supernodes"] == 2, "the load that the node publishes, and the policy")
    happens(lambda: any("2/2" in line for line in lines), "a round with the node that joined")
    # Both train again now. They say of themselves that they are idle, and OneFlow removes the older one in its task.
    found = daemon.find(user.home)
    cloud = Cloud(Endpoints(found.oneflow, found.xmlrpc, found.auth, direct=True), None)
    older, younger = nodes(user, scaled)
    try:
        for vm in (older, younger):
            cloud.core.set_vm_attribute(vm, "FL_BUSY", "0")
    finally:
        cloud.close()
    until(lambda: user.show(scaled)["state"] == "COOLDOWN", 40, "the end of the older node")
    assert nodes(user, scaled) == [younger]
    assert process.wait(60) == 0, lines.all()
    [folder] = (user.folder / "oneflower-results").glob("scaled-*")
    rounds = json.loads((folder / "metrics.json").read_text())["rows"]
    assert [(row["round"], row["failures"]) for row in rounds] == [(number, 0) for number in range(1, ROUNDS + 1)]
    assert sum(row["nodes"] for row in rounds) == trainings(user), "each task that was begun counts"
