"""What each SuperNode does: say what it has, train on its normal rows, and count how its rows score."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from anomaly_detection import tables
from anomaly_detection.models import Arrays, Floats, TrainingOptions, framework_of, scores
from anomaly_detection.scores import histogram
from oneflower_appliance.training import clients
from oneflower_appliance.training.description import answer

app = ClientApp()


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Report the columns and rows of this node, and the sums from which the scale of all nodes follows."""

    def look() -> dict[str, object]:
        table = tables.load(context)
        normal, _ = table.split(int(context.run_config["seed"]))
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


@app.train(mods=[clients.privacy_mod])
def train(message: Message, context: Context) -> Message:
    """Train the global autoencoder on this node's normal rows."""
    normal, _ = _data(message, context)
    config = context.run_config
    options = TrainingOptions(
        epochs=int(config["local-epochs"]),
        batch=int(config["batch-size"]),
        rate=clients.learning_rate(config, float(config["learning-rate"])),
        mu=clients.proximal_mu(message),
        seed=clients.seed_of(message, context),
    )
    trained, loss = framework_of(config).train(_arrays(message), normal, options)
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(normal)})
    arrays = ArrayRecord({name: Array(array) for name, array in trained.items()})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the held-out rows and the normal training rows, and count the scores in bins."""
    normal, test = _data(message, context)
    framework, arrays = framework_of(context.run_config), _arrays(message)
    found = scores(framework, arrays, test.features)
    usual = found[test.labels == 0]
    metrics = MetricRecord(
        {
            "loss": float(usual.mean()) if len(usual) else 0.0,
            "normal": histogram(usual),
            "anomalous": histogram(found[test.labels == 1]),
            "trained": histogram(scores(framework, arrays, normal)),
            "num-examples": len(found),
        }
    )
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _arrays(message: Message) -> Arrays:
    return {name: array.numpy() for name, array in message.content.array_records["arrays"].items()}


def _data(message: Message, context: Context) -> tuple[Floats, tables.Table]:
    """Return the normal rows to train on and the table to test on, both on the scale that all nodes share."""
    settings = clients.settings_of(message)
    mean, scale = np.asarray(settings["mean"]), np.asarray(settings["scale"])
    normal, test = tables.load(context).split(int(context.run_config["seed"]))
    return (normal - mean) / scale, tables.Table(test.columns, (test.features - mean) / scale, test.labels, test.source)
