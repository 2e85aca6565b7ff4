"""A line that is cut while a model and a reply are on their way: no reply is lost, and little is sent twice."""

from __future__ import annotations

import json
import threading
import time

import pytest

from tests.flower_apps import write_app

from .conftest import until
from .test_networks import fed, line, proxy  # noqa: F401 - fixtures

pytestmark = pytest.mark.e2e

ARRAYS = 8  # of 4 MB: two bundles
SIZE = ARRAYS * 4_000_000
BUNDLE = 20_000_000  # what one request carries at most: 16 MiB, and the array with which that is exceeded
NODES = 2
APP = f"""
import time
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

server = ServerApp()
client = ClientApp()

def work(context, what):
    with open(context.run_config["notes"], "a") as file:
        file.write(what + "\\n")
    time.sleep(context.run_config["busy"])

@client.train()
def train(message, context):
    work(context, "train")
    more = np.float32(1 + context.node_config["partition-id"])
    arrays = ArrayRecord([array + more for array in message.content["arrays"].to_numpy_ndarrays()])
    return Message(RecordDict({{"arrays": arrays, "metrics": MetricRecord({{"num-examples": 1}})}}), reply_to=message)

@client.evaluate()
def evaluate(message, context):
    work(context, "evaluate")
    first = float(message.content["arrays"].to_numpy_ndarrays()[0][0])
    return Message(RecordDict({{"metrics": MetricRecord({{"num-examples": 1, "loss": first}})}}), reply_to=message)

@server.main()
def main(grid, context):
    # No two arrays are equal, on any node: what a SuperLink has already is not sent.
    start = ArrayRecord([np.arange(1_000_000, dtype=np.float32) * (number + 1) for number in range({ARRAYS})])
    FedAvg(min_train_nodes=2, min_evaluate_nodes=2, min_available_nodes=2).start(grid, start, num_rounds=2)
"""


def test_a_cut_of_a_minute_costs_no_reply_and_what_has_arrived_is_not_sent_again(user, fed, line, tmp_path):  # noqa: F811
    config = 'notes = ""\nbusy = 0.0\n'
    app = write_app(tmp_path / "app", "large", {"apps": APP}, server="apps:server", client="apps:client", config=config)
    notes = tmp_path / "notes"
    notes.touch()
    line.rate = 16_000_000
    before = dict(line.carried)

    def carried(way):
        return line.carried[way] - before[way]

    process = user.start("run", str(app), "-f", fed, "-o", "json", "-c", f"notes='{notes}' busy=2.0")
    output = []
    reader = threading.Thread(target=lambda: output.append(process.communicate()[0]))
    reader.start()
    try:
        phases = [  # when it is cut, for how many seconds, and whether the ends are told
            (lambda: carried("from") > SIZE, 3, True),
            (lambda: carried("to") > SIZE, 60, False),
        ]
        for begins, seconds, told in phases:
            until(lambda now=begins: now() or output, 120, "a phase of the run")
            assert not output, output
            with line.is_cut(silently=not told):
                time.sleep(seconds)
    finally:
        reader.join()
        line.rate = 0
    assert process.returncode == 0, output[0]
    rows = json.loads(output[0][output[0].index("\n{") :])["rows"]
    assert [(row["nodes"], row.get("faults", [])) for row in rows] == [(NODES, [])] * 2
    assert rows[-1]["loss"] == pytest.approx(3.0), "two rounds, each with the mean of 1 and 2"
    # Each model goes out three times to each node: what was evaluated is trained next. Each cut costs a bundle at most.
    assert 3 * NODES * SIZE < carried("from") < 3 * NODES * SIZE + 2 * NODES * BUNDLE
    assert 2 * NODES * SIZE < carried("to") < 2 * NODES * SIZE + NODES * BUNDLE
