"""What each SuperNode does: say what it has, train on its rows, and count how its rows score."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from anomaly_detection import tables
from anomaly_detection.models import Arrays, detector_of
from anomaly_detection.scores import histogram
from oneflower_appliance.training import clients
from oneflower_appliance.training.description import answer
from oneflower_appliance.training.secure.node import secure_aggregation_mod

app = ClientApp()


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Report the columns and rows of this node, and the sums from which the scale of all nodes follows."""

    def look() -> dict[str, object]:
        table = tables.load(context, message)
        trained, _ = table.split(int(context.run_config["seed"]))
        normal = trained.normal
        return {
            "source": table.source,
            "columns": list(table.columns),
            "examples": len(table.labels),
            "anomalies": int(table.labels.sum()),
            "_rows": len(normal),
            "_sums": normal.sum(axis=0).tolist(),
            "_squares": (normal**2).sum(axis=0).tolist(),
        }

    return answer(message, look)


@app.train(mods=[secure_aggregation_mod, clients.privacy_mod])
def train(message: Message, context: Context) -> Message:
    """Train the global model on this node's rows."""
    rows, _ = _data(message, context)
    detector = detector_of(context.run_config)
    trained, loss = detector.train(_arrays(message), rows, message, clients.seed_of(message, context))
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(rows.normal)})
    arrays = ArrayRecord({name: Array(array) for name, array in trained.items()})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the held-out rows and the normal training rows, and count the scores in bins."""
    rows, test = _data(message, context)
    detector, arrays = detector_of(context.run_config), _arrays(message)
    found = detector.scores(arrays, test.features)
    metrics = MetricRecord(
        {
            "loss": detector.loss(found, test.labels),
            "normal": histogram(found[test.labels == 0]),
            "anomalous": histogram(found[test.labels == 1]),
            "trained": histogram(detector.scores(arrays, rows.normal)),
            "num-examples": len(found),
        }
    )
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _arrays(message: Message) -> Arrays:
    return {name: array.numpy() for name, array in message.content.array_records["arrays"].items()}


def _data(message: Message, context: Context) -> tuple[tables.Table, tables.Table]:
    """Return the rows to train on and to test on, on the scale that all nodes share if the model needs one."""
    settings = clients.settings_of(message)
    table = tables.load(context, message)
    if "scale" in settings:
        table = table.scaled(np.asarray(settings["mean"]), np.asarray(settings["scale"]))
    return table.split(int(context.run_config["seed"]))
