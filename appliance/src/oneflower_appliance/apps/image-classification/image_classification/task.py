"""The data and the model, the same for federated and for central training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

Floats = NDArray[np.float64]
Arrays = list[Floats]

CLASSES = 10
FEATURES = 64
LEARNING_RATE = 0.5
BATCH = 32


@dataclass(frozen=True)
class Split:
    """Images as rows of 64 pixels in [0, 1], and their digits."""

    images: Floats
    digits: NDArray[np.int64]


def load(seed: int) -> tuple[Split, Split]:
    """Return the training set (80 %) and the held-out test set (20 %), stratified by digit."""
    images, digits = load_digits(return_X_y=True)
    parts = train_test_split(images / 16.0, digits, test_size=0.2, stratify=digits, random_state=seed)
    return Split(parts[0], parts[2]), Split(parts[1], parts[3])


def partition(data: Split, number: int, count: int, alpha: float, seed: int) -> Split:
    """Return share `number` of `count`: disjoint, together everything, never empty.

    With `alpha` 0 each share has the same mix of digits; otherwise each digit is dealt out by a Dirichlet draw.
    """
    if not 0 <= number < count <= len(data.digits):
        raise ValueError(f"partition-id {number} of {count} is not a share of {len(data.digits)} images")
    rng = np.random.default_rng(seed)
    shares: list[list[int]] = [[] for _ in range(count)]
    for digit in range(CLASSES):
        indices = rng.permutation(np.flatnonzero(data.digits == digit))
        weights = rng.dirichlet([alpha] * count) if alpha > 0 else np.full(count, 1 / count)
        cuts = (np.cumsum(weights)[:-1] * len(indices)).round().astype(int)
        # The first share of each digit moves on by one, so that left-overs do not all go to the same node.
        for position, part in enumerate(np.split(indices, cuts)):
            shares[(position + digit) % count if alpha <= 0 else position].extend(part.tolist())
    for share in shares:
        if not share:
            share.append(max(shares, key=len).pop())
    chosen = np.sort(shares[number])
    return Split(data.images[chosen], data.digits[chosen])


def initial() -> Arrays:
    """Return the untrained model: weights (64, 10) and biases (10,) of a softmax regression, all zero."""
    return [np.zeros((FEATURES, CLASSES)), np.zeros(CLASSES)]


def train(arrays: Arrays, data: Split, epochs: int, seed: int) -> float:
    """Train in place by mini-batch gradient descent and return the final training loss."""
    weights, biases = arrays
    rng = np.random.default_rng(seed)
    targets = np.eye(CLASSES)[data.digits]
    for _ in range(epochs):
        order = rng.permutation(len(data.digits))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            error = probabilities(arrays, data.images[batch]) - targets[batch]
            weights -= LEARNING_RATE * data.images[batch].T @ error / len(batch)
            biases -= LEARNING_RATE * error.mean(axis=0)
    return evaluate(arrays, data)[0]


def probabilities(arrays: Arrays, images: Floats) -> Floats:
    """Return the probability of each digit for each image, shape (n, 10)."""
    scores = images @ arrays[0] + arrays[1]
    exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def evaluate(arrays: Arrays, data: Split) -> tuple[float, float]:
    """Return cross-entropy loss and accuracy."""
    predicted = probabilities(arrays, data.images)
    loss = log_loss(data.digits, predicted, labels=np.arange(CLASSES))
    return float(loss), float((predicted.argmax(axis=1) == data.digits).mean())
