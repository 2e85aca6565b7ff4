"""What each SuperNode does: load the model, train the adapter and send only that."""

from __future__ import annotations

import math

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from llm_fine_tuning import texts
from llm_fine_tuning.lora import Adapter, TrainingOptions
from oneflower_appliance.training import clients
from oneflower_appliance.training.description import answer
from oneflower_appliance.training.secure.node import secure_aggregation_mod

app = ClientApp()


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Report how many examples this node has, and the shape of the adapter for its model."""

    def look() -> dict[str, object]:
        train, test, source = texts.load(context, message)
        adapter = Adapter(context.run_config)
        arrays = adapter.arrays
        return {
            "source": source,
            "examples": len(train) + len(test),
            "_names": list(arrays),
            "_shapes": [" ".join(map(str, array.shape)) for array in arrays.values()],
            "_config": adapter.config,
        }

    return answer(message, look)


@app.train(mods=[secure_aggregation_mod, clients.privacy_mod])
def train(message: Message, context: Context) -> Message:
    """Train the adapter on this node's examples."""
    config = context.run_config
    examples, _, _ = texts.load(context, message)
    options = TrainingOptions(
        epochs=int(config["local-epochs"]),
        batch=int(config["batch-size"]),
        rate=clients.learning_rate(config, float(config["learning-rate"])),
        mu=clients.proximal_mu(message),
        seed=clients.seed_of(message, context),
        precision=str(config["mixed-precision"]),
    )
    most = int(config["max-examples"]) or len(examples)
    adapter = _adapter(message, context)
    loss = adapter.train(examples[:most], options)
    arrays = ArrayRecord({name: Array(array) for name, array in adapter.arrays.items()})
    metrics = MetricRecord({"train_loss": loss, "num-examples": min(most, len(examples))})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Test on this node's held-out examples."""
    _, examples, _ = texts.load(context, message)
    loss = _adapter(message, context).evaluate(examples, int(context.run_config["batch-size"]))
    metrics = MetricRecord({"loss": loss, "perplexity": math.exp(min(loss, 50.0)), "num-examples": len(examples)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _adapter(message: Message, context: Context) -> Adapter:
    adapter = Adapter(context.run_config)
    adapter.arrays = {name: array.numpy() for name, array in message.content.array_records["arrays"].items()}
    return adapter
