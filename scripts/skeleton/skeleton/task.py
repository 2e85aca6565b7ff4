"""What is learned: a model, and the data of a node. Replace this module first.

Here a linear model learns the progress of diabetes from ten measurements of 442 patients, which scikit-learn ships.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_diabetes

from oneflower_appliance.training.data import DataError, data_folder, hold_out, partition_of, share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flwr.app import Context, Message

Floats = NDArray[np.float64]
Arrays = dict[str, Floats]
_HELD_OUT = 0.2


def initial(columns: int) -> Arrays:
    """Return the untrained model."""
    return {"weights": np.zeros(columns), "bias": np.zeros(1)}


def load(context: Context, message: Message) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Return the rows and targets to train on, and those to test on. Raises `DataError`."""
    if folder := data_folder(context):
        raise DataError(f"This use case does not read {folder} yet.", "Unset FL_DATA_PATH.")
    rows, targets = load_diabetes(return_X_y=True)
    rows, targets = rows / rows.std(axis=0), (targets - targets.mean()) / targets.std()
    config = context.run_config
    labels = (targets > 0).astype(np.int64)
    mine = share(labels, *partition_of(context, message), float(config["dirichlet-alpha"]), int(config["seed"]))
    trained, held = hold_out(len(mine), _HELD_OUT, int(config["seed"]))
    return (rows[mine[trained]], targets[mine[trained]]), (rows[mine[held]], targets[mine[held]])


def train(arrays: Arrays, rows: Floats, targets: Floats, batches: Iterator[NDArray[np.int64]], rate: float) -> Arrays:
    """Train by mini-batch gradient descent."""
    weights, bias = arrays["weights"].copy(), arrays["bias"].copy()
    for indices in batches:
        error = rows[indices] @ weights + bias - targets[indices]
        weights -= rate * rows[indices].T @ error / len(indices)
        bias -= rate * error.mean()
    return {"weights": weights, "bias": bias}


def loss_of(arrays: Arrays, rows: Floats, targets: Floats) -> float:
    """Return the mean squared error."""
    return float(np.mean((rows @ arrays["weights"] + arrays["bias"] - targets) ** 2))
