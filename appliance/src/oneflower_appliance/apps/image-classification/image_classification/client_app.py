"""What each SuperNode does: describe its images, train, and test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from image_classification import images
from image_classification.models import Arrays, Framework, TrainingOptions, framework_of
from oneflower_appliance.orders import FINE_TUNED
from oneflower_appliance.training import clients
from oneflower_appliance.training.description import answer
from oneflower_appliance.training.personal import Personal, keep_model
from oneflower_appliance.training.secure.node import secure_aggregation_mod

app = ClientApp()


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Report this node's classes, and how many images it has."""

    def look() -> dict[str, object]:
        images.check_files(context)
        classes = images.own_classes(context)
        train, test = images.load(context, classes or list(images.DIGITS), message)
        return {
            "source": "own images" if classes else "digits",
            "classes": classes or list(images.DIGITS),
            "shape": list(train.batch(np.zeros(1, dtype=np.int64)).shape[1:]),
            "examples": len(train) + len(test),
        }

    return answer(message, look)


@app.train(mods=[secure_aggregation_mod, clients.privacy_mod])
def train(message: Message, context: Context) -> Message:
    """Train the global model on this node's images. Its personal layers stay here, if it has any."""
    data, _ = _data(message, context)
    framework, own = framework_of(context.run_config), Personal(context, clients.settings_of(message))
    whole = _arrays(message, context, framework, own, data)
    trained, loss = framework.train(whole, data, _options(message, context))
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(data)})
    arrays = ArrayRecord({name: Array(array) for name, array in own.keep(trained).items()})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Test the global model on this node's held-out images.

    After the last round the node may train it further for itself, and tests that model, too. It stays here.
    """
    train, data = _data(message, context)
    settings, options = clients.settings_of(message), _options(message, context)
    framework, own = framework_of(context.run_config), Personal(context, settings)
    arrays = _arrays(message, context, framework, own, train)
    loss, accuracy = framework.evaluate(arrays, data, options)
    metrics = MetricRecord({"loss": loss, "accuracy": accuracy, "num-examples": len(data)})
    if epochs := clients.fine_tune_epochs(message, context):
        arrays, _ = framework.train(arrays, train, replace(options, epochs=epochs, mu=0.0))
        tuned = framework.evaluate(arrays, data, options)
        metrics[f"{FINE_TUNED}loss"], metrics[f"{FINE_TUNED}accuracy"] = tuned
    if epochs or (own.any and clients.is_last_round(message)):
        keep_model(arrays)
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _arrays(message: Message, context: Context, framework: Framework, own: Personal, data: images.Images) -> Arrays:
    """Return the whole model: what the message has, and what is this node's own."""
    sent = {name: array.numpy() for name, array in message.content.array_records["arrays"].items()}
    if not own.any:
        return sent
    settings, shape = clients.settings_of(message), data.batch(np.zeros(1, dtype=np.int64)).shape[1:]
    seed = int(context.run_config["seed"])
    return own.complete(sent, framework.initial(shape, len(settings["classes"]), settings["model"], seed))


def _data(message: Message, context: Context) -> tuple[images.Images, images.Images]:
    return images.load(context, clients.settings_of(message)["classes"], message)


def _options(message: Message, context: Context) -> TrainingOptions:
    settings = clients.settings_of(message)
    return TrainingOptions(
        model=settings["model"],
        epochs=settings["epochs"],
        batch=int(context.run_config["batch-size"]),
        rate=clients.learning_rate(context.run_config, settings["rate"]),
        mu=clients.proximal_mu(message),
        seed=clients.seed_of(message, context),
        precision=str(context.run_config["mixed-precision"]),
    )
