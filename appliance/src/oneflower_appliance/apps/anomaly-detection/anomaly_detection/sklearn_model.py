"""scikit-learn's autoencoder: a multi-layer perceptron that learns to return its input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.neural_network import MLPRegressor

if TYPE_CHECKING:
    from anomaly_detection.autoencoder import TrainingOptions
    from anomaly_detection.models import Arrays, Floats


def train(arrays: Arrays, rows: Floats, options: TrainingOptions) -> tuple[Arrays, float]:
    """Train by mini-batch gradient descent."""
    net = _net(arrays, options.rate)
    for indices in options.batches(len(rows)):
        net.partial_fit(rows[indices], rows[indices])
        if options.mu:
            for name, array in _arrays(net).items():
                array -= options.rate * options.mu * (array - arrays[name])  # noqa: PLW2901 - in place
    return _arrays(net), float(np.mean((net.predict(rows) - rows) ** 2))


def reconstruct(arrays: Arrays, rows: Floats) -> Floats:
    """Return the rows as the autoencoder reconstructs them."""
    return np.asarray(_net(arrays, 0.1).predict(rows)).reshape(rows.shape)


def _arrays(net: MLPRegressor) -> Arrays:
    found: Arrays = {}
    for number, (weight, bias) in enumerate(zip(net.coefs_, net.intercepts_, strict=True)):
        found |= {f"{number}.weight": weight, f"{number}.bias": bias}
    return found


def _net(arrays: Arrays, rate: float) -> MLPRegressor:
    weights = [array for name, array in arrays.items() if name.endswith("weight")]
    biases = [array for name, array in arrays.items() if name.endswith("bias")]
    hidden = tuple(weight.shape[1] for weight in weights[:-1])
    net = MLPRegressor(
        hidden_layer_sizes=hidden, activation="tanh", solver="sgd", momentum=0.0, alpha=0.0, learning_rate_init=rate
    )
    nothing = np.zeros((2, weights[0].shape[0]))
    net.partial_fit(nothing, nothing)  # sets the shapes
    net.coefs_ = [np.array(weight, dtype=np.float64) for weight in weights]
    net.intercepts_ = [np.array(bias, dtype=np.float64) for bias in biases]
    return net
