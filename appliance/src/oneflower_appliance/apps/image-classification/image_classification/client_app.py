"""What each SuperNode does: describe its images, train, and test."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from image_classification import images
from image_classification.models import Arrays, TrainingOptions, framework_of
from oneflower_appliance.training import clients
from oneflower_appliance.training.description import answer
from oneflower_appliance.training.secure.node import secure_aggregation_mod

app = ClientApp()


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Report this node's classes, and how many images it has."""

    def look() -> dict[str, object]:
        images.check_files(context)
        classes = images.own_classes(context)
        train, test = images.load(context, classes or list(images.DIGITS))
        return {
            "source": "own images" if classes else "digits",
            "classes": classes or list(images.DIGITS),
            "shape": list(train.batch(np.zeros(1, dtype=np.int64)).shape[1:]),
            "examples": len(train) + len(test),
        }

    return answer(message, look)


@app.train(mods=[secure_aggregation_mod, clients.privacy_mod])
def train(message: Message, context: Context) -> Message:
    """Train the global model on this node's images."""
    data, _ = _data(message, context)
    trained, loss = framework_of(context.run_config).train(_arrays(message), data, _options(message, context))
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(data)})
    arrays = ArrayRecord({name: Array(array) for name, array in trained.items()})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Test the global model on this node's held-out images."""
    _, data = _data(message, context)
    loss, accuracy = framework_of(context.run_config).evaluate(_arrays(message), data, _options(message, context))
    metrics = MetricRecord({"loss": loss, "accuracy": accuracy, "num-examples": len(data)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _arrays(message: Message) -> Arrays:
    return {name: array.numpy() for name, array in message.content.array_records["arrays"].items()}


def _data(message: Message, context: Context) -> tuple[images.Images, images.Images]:
    return images.load(context, clients.settings_of(message)["classes"])


def _options(message: Message, context: Context) -> TrainingOptions:
    settings = clients.settings_of(message)
    return TrainingOptions(
        model=settings["model"],
        epochs=settings["epochs"],
        batch=int(context.run_config["batch-size"]),
        rate=clients.learning_rate(context.run_config, settings["rate"]),
        mu=clients.proximal_mu(message),
        seed=clients.seed_of(message, context),
    )
