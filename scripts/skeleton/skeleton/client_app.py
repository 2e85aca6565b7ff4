"""What each SuperNode does: describe its data, train, and test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from oneflower_appliance.training import clients
from oneflower_appliance.training.description import answer
from oneflower_appliance.training.secure.node import secure_aggregation_mod
from skeleton import task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

app = ClientApp()


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Report what this node has. `source` and `examples` are always there; the rest is for your server."""

    def look() -> dict[str, object]:
        (rows, _), (held, _) = task.load(context, message)
        return {"source": "diabetes", "examples": len(rows) + len(held), "columns": rows.shape[1]}

    return answer(message, look)


@app.train(mods=[secure_aggregation_mod, clients.privacy_mod])
def train(message: Message, context: Context) -> Message:
    """Train the global model on this node's data."""
    (rows, targets), _ = task.load(context, message)
    config = context.run_config
    rate = clients.learning_rate(config, float(config["learning-rate"]))
    trained = task.train(_arrays(message), rows, targets, _batches(len(rows), message, context), rate)
    metrics = MetricRecord({"train_loss": task.loss_of(trained, rows, targets), "num-examples": len(rows)})
    arrays = ArrayRecord({name: Array(array) for name, array in trained.items()})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Test the global model on data of this node that is never trained on."""
    _, (rows, targets) = task.load(context, message)
    metrics = MetricRecord({"loss": task.loss_of(_arrays(message), rows, targets), "num-examples": len(rows)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _arrays(message: Message) -> task.Arrays:
    return {name: array.numpy() for name, array in message.content.array_records["arrays"].items()}


def _batches(count: int, message: Message, context: Context) -> Iterator[NDArray[np.int64]]:
    rng, size = np.random.default_rng(clients.seed_of(message, context)), int(context.run_config["batch-size"])
    for _ in range(int(context.run_config["local-epochs"])):
        order = rng.permutation(count)
        yield from (order[start : start + size] for start in range(0, count, size))
