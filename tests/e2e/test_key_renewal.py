"""SuperNodes change their keys while a run trains: no round lacks one of them, and their places stay.

Worth its seconds: only real Flower shows whether a run goes through while its nodes get other ids.
"""

from __future__ import annotations

import json
import re
import stat

import pytest

from tests.flower_apps import write_app

from .conftest import until

pytestmark = pytest.mark.e2e

APP = """
import time
from pathlib import Path
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

server = ServerApp()
client = ClientApp()

@client.train()
def train(message, context):
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": message.content["arrays"], "metrics": metrics}), reply_to=message)

@server.main()
def main(grid, context):
    def between(server_round, arrays):
        while server_round == 2 and not Path(context.run_config["until"]).exists():
            time.sleep(0.2)
        return MetricRecord({})

    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2)
    strategy.start(grid, ArrayRecord([np.zeros(3)]), num_rounds=4, evaluate_fn=between)
"""


def nodes(user):
    return [vm for vm in user.show("keys")["vms"] if vm["role"] == "supernode"]


def test_nodes_change_their_keys_between_two_rounds_of_a_run(user, tmp_path):
    app = write_app(
        tmp_path / "app", "long", {"apps": APP}, server="apps:server", client="apps:client", config='until=""'
    )
    user("up", "keys", "--supernodes", "2", "--set", "FL_NODE_KEY_LIFETIME=10s")
    before, done = nodes(user), tmp_path / "done"
    process, lines = user.say("run", str(app), "-f", "keys", "-c", f"until='{done}'")
    until(lambda: any("2/4" in line for line in lines) or process.poll() is not None, 60, "the second round")
    during = nodes(user)

    def changed():
        return all(now["node_id"] != then["node_id"] for now, then in zip(nodes(user), during, strict=True))

    until(changed, 60, "other keys")
    done.touch()
    assert process.wait(60) == 0, lines.all()
    [folder] = (user.folder / "oneflower-results").glob("keys-*")
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    assert [(row["round"], row["nodes"], row["failures"]) for row in rows] == [(n, 2, 0) for n in range(1, 5)]
    after = nodes(user)
    assert [vm["partition"] for vm in after] == [vm["partition"] for vm in before]
    for vm in after:
        keys = list((user.machine(vm["id"]) / "var" / "tls").glob("node.key*"))
        assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    assert not re.search(r"Flower ended|Starting it again", user("logs", "keys").stdout)
    user("down", "keys")
