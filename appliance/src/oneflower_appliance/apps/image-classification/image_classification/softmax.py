"""The scikit-learn model: a softmax regression on the pixels, for nodes with little memory and no GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from image_classification.models import in_order

if TYPE_CHECKING:
    from image_classification.images import Floats, Images
    from image_classification.models import Arrays, TrainingOptions

_PIECE = 1024
_LEAST = np.finfo(np.float64).eps  # a probability of 0 would be an infinite loss


def initial(shape: tuple[int, int, int], classes: int, model: str = "", seed: int = 0) -> Arrays:  # noqa: ARG001
    """Return weights (pixels, classes) and biases (classes,), all zero: a convex problem needs no random start."""
    return {"weights": np.zeros((int(np.prod(shape)), classes)), "biases": np.zeros(classes)}


def train(arrays: Arrays, data: Images, options: TrainingOptions) -> tuple[Arrays, float]:
    """Train by mini-batch gradient descent."""
    weights, biases = arrays["weights"].copy(), arrays["biases"].copy()
    for indices in options.batches(len(data)):
        pixels = _rows(data, indices)
        error = _probabilities(weights, biases, pixels)
        error[np.arange(len(indices)), data.labels[indices]] -= 1
        weights -= options.rate * (pixels.T @ error / len(indices) + options.mu * (weights - arrays["weights"]))
        biases -= options.rate * (error.sum(axis=0) / len(indices) + options.mu * (biases - arrays["biases"]))
    trained = {"weights": weights, "biases": biases}
    return trained, evaluate(trained, data, options)[0]


def evaluate(arrays: Arrays, data: Images, options: TrainingOptions | None = None) -> tuple[float, float]:  # noqa: ARG001
    """Return cross-entropy loss and accuracy."""
    predicted = np.concatenate([
        _probabilities(arrays["weights"], arrays["biases"], _rows(data, indices))
        for indices in in_order(len(data), _PIECE)
    ])  # fmt: skip
    of_the_label = predicted[np.arange(len(data)), data.labels]
    loss = -np.log(np.maximum(of_the_label, _LEAST)).mean()
    return float(loss), float((predicted.argmax(axis=1) == data.labels).mean())


def _rows(data: Images, indices: np.ndarray) -> Floats:
    return data.batch(indices).reshape(len(indices), -1)


def _probabilities(weights: Floats, biases: Floats, pixels: Floats) -> Floats:
    scores = pixels @ weights + biases
    exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))
