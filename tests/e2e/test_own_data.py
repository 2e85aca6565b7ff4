"""An app that names a data set of the Hub trains on the nodes' own copies of it, without a way to the Hub."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytestmark = pytest.mark.e2e

PROJECT = """
[project]
name = "flowers"
version = "1.0.0"
dependencies = ["flwr>=1.41", "flwr-datasets>=0.5", "scikit-learn"]
[tool.flwr.app]
publisher = "somebody"
[tool.flwr.app.components]
serverapp = "flowers.app:server"
clientapp = "flowers.app:client"
"""

APP = """
import numpy as np
from datasets import load_dataset
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr_datasets import FederatedDataset
from flwr_datasets.partitioner import IidPartitioner
from sklearn.linear_model import LogisticRegression

client = ClientApp()
server = ServerApp()

def reply(message, **content):
    return Message(RecordDict(content), reply_to=message)

@client.train()
def train(message, context):
    number, count = context.node_config["partition-id"], context.node_config["num-partitions"]
    flowers = FederatedDataset(dataset="acme/flowers", partitioners={"train": IidPartitioner(count)})
    mine = flowers.load_partition(number).with_format("numpy")
    model = LogisticRegression().fit(mine["petal"][:].reshape(-1, 1), mine["label"][:])
    metrics = MetricRecord({"num-examples": len(mine)})
    return reply(message, arrays=ArrayRecord([model.coef_, model.intercept_]), metrics=metrics)

@client.evaluate()
def evaluate(message, context):
    test = load_dataset("acme/flowers", split="test").with_format("numpy")
    slope, offset = message.content["arrays"].to_numpy_ndarrays()
    right = ((test["petal"][:] * slope[0, 0] + offset[0] > 0) == (test["label"][:] == 1)).mean()
    return reply(message, metrics=MetricRecord({"accuracy": float(right), "num-examples": len(test)}))

@server.main()
def main(grid, context):
    arrays = ArrayRecord([np.zeros((1, 1)), np.zeros(1)])
    held_out = load_dataset("acme/held-out", split="train").with_format("numpy")

    def check(server_round, arrays):
        slope, offset = arrays.to_numpy_ndarrays()
        right = ((held_out["petal"][:] * slope[0, 0] + offset[0] > 0) == (held_out["label"][:] == 1)).mean()
        return MetricRecord({"accuracy": float(right)})

    FedAvg().start(grid=grid, initial_arrays=arrays, num_rounds=1, evaluate_fn=check)
"""


def test_an_app_with_flwr_datasets_reads_its_data_set_from_the_data_folder(user):
    app, data, rng = user.folder / "app", user.folder / "data", np.random.default_rng(4)
    own = user.folder / "superlink"  # which has another data set than the nodes
    (app / "flowers").mkdir(parents=True)
    (app / "pyproject.toml").write_text(PROJECT)
    (app / "flowers" / "__init__.py").touch()
    (app / "flowers" / "app.py").write_text(APP)
    for path in (data / "acme" / "flowers", own / "acme" / "held-out"):
        path.mkdir(parents=True)
    for split, rows in (("train", 101), ("test", 50), ("held-out", 40)):
        labels = np.arange(rows) % 2
        table = np.column_stack([rng.normal(size=rows) + 5 * labels, labels])
        path = data / "acme" / "flowers" / f"{split}.csv"
        if split == "held-out":
            path = own / "acme" / split / "train.csv"
        np.savetxt(path, table, ("%.3f", "%d"), delimiter=",", header="petal,label", comments="")
    before = sorted([*data.rglob("*"), *own.rglob("*")])
    user("up", "lab", "--set", f"FL_DATA_PATH={data}", "--set", f"FL_SERVER_DATA_PATH={own}")
    try:
        done = json.loads(user("run", "app", "-f", "lab", "--install", "-o", "json").stdout)
    finally:
        user("down", "lab")
    [row] = done["rows"]
    assert (row["nodes"], row["failures"]) == (2, 0)
    assert row["metrics"]["evaluate"]["accuracy"] > 0.95
    assert row["metrics"]["server"]["accuracy"] > 0.9
    assert not done["more"], "the data of the SuperLink are not a result"
    assert sorted([*data.rglob("*"), *own.rglob("*")]) == before
