"""Federated analytics: a histogram from all nodes, in a CSV file"""
import csv
import time

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < 2:
        time.sleep(0.2)
    content = RecordDict({"ask": ConfigRecord({"bins": 10})})
    messages = [Message(content, dst_node_id=node, message_type=MessageType.QUERY) for node in nodes]
    replies = grid.send_and_receive(messages, timeout=120)
    counts = [sum(found) for found in zip(*(reply.content["counts"]["labels"] for reply in replies))]
    print("labels:", counts)
    with open("histogram.csv", "w", newline="") as file:
        csv.writer(file).writerows(enumerate(counts))

# --- client_app.py
import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from .task import load_data

app = ClientApp()


@app.query()
def query(msg, context):
    (_, y), _ = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    counts = np.bincount(y, minlength=msg.content["ask"]["bins"]).tolist()
    return Message(RecordDict({"counts": ConfigRecord({"labels": counts})}), reply_to=msg)
