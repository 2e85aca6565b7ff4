"""Several questions to each node, each with a function of its own (`@app.query("variance")`)"""
import time

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


def ask(grid, nodes, what, **config):
    content = RecordDict({"config": ConfigRecord(config)})
    replies = grid.send_and_receive([Message(content, dst_node_id=node, message_type=what) for node in nodes])
    return [reply.content["answer"] for reply in replies]


@app.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < 2:
        time.sleep(0.2)
    means = ask(grid, nodes, "query.mean")
    count = sum(found["n"] for found in means)
    mean = sum(found["sum"] for found in means) / count
    spread = sum(found["squares"] for found in ask(grid, nodes, "query.variance", mean=mean)) / count
    print(f"{count} digits, mean {mean:.4f}, standard deviation {spread ** 0.5:.4f}")

# --- client_app.py
import numpy as np
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from .task import load_data

app = ClientApp()


def labels(context):
    return load_data(context.node_config["partition-id"], context.node_config["num-partitions"])[0][1]


@app.query("mean")
def mean(msg, context):
    y = labels(context)
    return Message(RecordDict({"answer": MetricRecord({"n": len(y), "sum": int(y.sum())})}), reply_to=msg)


@app.query("variance")
def variance(msg, context):
    squares = float(np.square(labels(context) - msg.content["config"]["mean"]).sum())
    return Message(RecordDict({"answer": MetricRecord({"squares": squares})}), reply_to=msg)
