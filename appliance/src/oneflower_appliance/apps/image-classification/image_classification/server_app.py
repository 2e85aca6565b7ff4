"""What the SuperLink does: ask the nodes what they have, aggregate, and test where it can."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from image_classification import images
from image_classification.models import TrainingOptions, batch_norms, framework_of, model_of
from oneflower_appliance.orders import LAST_ROUND
from oneflower_appliance.training import personal, survey
from oneflower_appliance.training.strategies import make_strategy

app = ServerApp()

# For each model: passes over a node's data in a round, and the learning rate.
_SUITED = {"softmax": (20, 0.5), "cnn": (5, 0.05), "cnn-bn": (5, 0.05), "resnet18": (1, 0.005)}


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    config = context.run_config
    strategy = make_strategy(config)
    nodes = survey.ask(grid, int(config["min-available-nodes"]))
    source, shape, classes = nodes.agreed("source"), tuple(nodes.agreed("shape")), nodes.union("classes")
    framework = framework_of(config)
    model = model_of(config, shape)
    start = framework.initial(shape, len(classes), model, int(config["seed"]))
    own = personal.choose(config, start, batch_norms(framework, shape, len(classes), model), model)
    epochs, rate = _SUITED[model]
    settings = ConfigRecord(
        {
            "model": model,
            "classes": classes,
            "epochs": int(config["local-epochs"]) or epochs,
            "rate": float(config["learning-rate"]) or rate,
            **nodes.settings,
            LAST_ROUND: int(config["num-server-rounds"]),
            **personal.announce(grid, str(config["personalization"]), own, start),
        }
    )

    def evaluate(_round: int, arrays: ArrayRecord) -> MetricRecord:
        found = {name: array.numpy() for name, array in arrays.items()}
        loss, accuracy = framework.evaluate(
            found, images.digits(int(config["seed"]))[1], TrainingOptions(model, 1, 256, 0.0)
        )
        return MetricRecord({"loss": loss, "accuracy": accuracy})

    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({name: Array(array) for name, array in start.items() if name not in own}),
        num_rounds=int(config["num-server-rounds"]),
        train_config=settings,
        evaluate_config=settings,
        # The SuperLink has the test set of the digits too. Nodes test on their own images, and with their own layers.
        evaluate_fn=evaluate if source == "digits" and not own else None,
    )
