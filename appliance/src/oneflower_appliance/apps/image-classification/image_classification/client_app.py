"""What each SuperNode does: train and evaluate on its own share."""

from __future__ import annotations

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from image_classification import task

app = ClientApp()


def _share(context: Context) -> task.Split:
    config, run = context.node_config, context.run_config
    if "partition-id" not in config or "num-partitions" not in config:
        raise ValueError("This node has no partition: set FL_NODE_CONFIG='partition-id=0 num-partitions=2' on it.")
    data, _ = task.load(int(run["seed"]))
    number, count = int(config["partition-id"]), int(config["num-partitions"])
    return task.partition(data, number, count, float(run["dirichlet-alpha"]), int(run["seed"]))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global model on this node's share."""
    data = _share(context)
    arrays = message.content.array_records["arrays"].to_numpy_ndarrays()
    seed = int(context.run_config["seed"]) + int(context.node_config["partition-id"])
    loss = task.train(arrays, data, int(context.run_config["local-epochs"]), seed)
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(data.digits)})
    return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the global model on this node's share."""
    data = _share(context)
    loss, accuracy = task.evaluate(message.content.array_records["arrays"].to_numpy_ndarrays(), data)
    metrics = MetricRecord({"loss": loss, "accuracy": accuracy, "num-examples": len(data.digits)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
