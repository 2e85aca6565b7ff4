"""Federated k-means in a loop of its own, with files in a folder and a chart made of text"""
#: config = {clusters = 3, iterations = 3, seed = 7}
import json
import os
import random
import time

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    random.seed(config["seed"])
    rng = np.random.default_rng(config["seed"])
    centers = rng.uniform(size=(config["clusters"], 64))
    os.makedirs("clusters/history", exist_ok=True)
    while len(list(grid.get_node_ids())) < 2:
        time.sleep(0.2)
    for number in range(config["iterations"]):
        content = RecordDict({"centers": ArrayRecord({"c": Array(centers)})})
        replies = list(grid.send_and_receive(
            [Message(content, dst_node_id=node, message_type=MessageType.TRAIN) for node in grid.get_node_ids()]
        ))
        sums = sum(reply.content["found"]["sums"].numpy() for reply in replies)
        counts = sum(reply.content["found"]["counts"].numpy() for reply in replies)
        centers = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centers)
        print(f"\niteration {number}")
        for cluster, count in enumerate(counts.astype(int)):
            print(f"  {cluster} {'#' * (count // 40)} {count}")
        with open(f"clusters/history/{number}.json", "w") as file:
            json.dump(counts.tolist(), file)
    np.savetxt("clusters/centers.csv", centers, "%.6f", delimiter=",")

# --- client_app.py
import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from .task import load_data

app = ClientApp()


@app.train()
def train(msg, context):
    (x, _), _ = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    centers = msg.content["centers"]["c"].numpy()
    nearest = np.linalg.norm(x[:, None] - centers, axis=2).argmin(axis=1)
    sums = np.stack([x[nearest == number].sum(axis=0) for number in range(len(centers))])
    counts = np.bincount(nearest, minlength=len(centers)).astype(float)
    found = ArrayRecord({"sums": Array(sums), "counts": Array(counts)})
    return Message(RecordDict({"found": found}), reply_to=msg)
