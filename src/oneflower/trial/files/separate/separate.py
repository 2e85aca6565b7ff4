"""A Flower app that needs no framework, for images that have none: logistic regression on points around two centres."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_COLUMNS, _EXAMPLES, _STEPS, _RATE = 8, 400, 20, 0.5
server = ServerApp()
client = ClientApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds, from a model that knows nothing."""
    rounds = int(context.run_config["num-server-rounds"])
    FedAvg().start(grid, ArrayRecord([np.zeros(_COLUMNS + 1)]), num_rounds=rounds)


@client.train()
def train(message: Message, context: Context) -> Message:
    """Follow the gradient of the loss on this node's points."""
    points, kinds = _points(context, held_out=False)
    (model,) = message.content.array_records["arrays"].to_numpy_ndarrays()
    for _ in range(_STEPS):
        model = model - _RATE * points.T @ (_said(model, points) - kinds) / len(kinds)
    metrics = MetricRecord({"train_loss": _loss(model, points, kinds), "num-examples": len(kinds)})
    return Message(RecordDict({"arrays": ArrayRecord([model]), "metrics": metrics}), reply_to=message)


@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Test the model on points that are never trained on."""
    points, kinds = _points(context, held_out=True)
    (model,) = message.content.array_records["arrays"].to_numpy_ndarrays()
    right = float(np.mean((_said(model, points) > 0.5) == kinds))
    metrics = MetricRecord({"loss": _loss(model, points, kinds), "accuracy": right, "num-examples": len(kinds)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _points(context: Context, *, held_out: bool) -> tuple[Floats, Floats]:
    """Return this node's points, each with a one for the bias, and which of the two centres each belongs to."""
    rng = np.random.default_rng([int(context.node_config["partition-id"]), held_out])
    kinds = rng.integers(0, 2, _EXAMPLES).astype(np.float64)
    points = rng.normal(size=(_EXAMPLES, _COLUMNS)) + 2 * kinds[:, None]
    return np.column_stack([points, np.ones(_EXAMPLES)]), kinds


def _said(model: Floats, points: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-points @ model)), dtype=np.float64)


def _loss(model: Floats, points: Floats, kinds: Floats) -> float:
    said = np.clip(_said(model, points), 1e-9, 1 - 1e-9)
    return float(-np.mean(kinds * np.log(said) + (1 - kinds) * np.log(1 - said)))
