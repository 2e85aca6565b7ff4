"""The autoencoder, one module for each framework, all with the same two functions.

- train(arrays, rows, options) -> the trained arrays, and the mean squared error on the last pass over the rows
- reconstruct(arrays, rows) -> the rows as the autoencoder reconstructs them, in the shape of `rows`

The arrays are `0.weight` (inputs, outputs), `0.bias`, `1.weight`, ...; between the layers is tanh.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from oneflower_appliance.training.frameworks import framework_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Floats = NDArray[np.float64]
Arrays = dict[str, Floats]


@dataclass(frozen=True)
class TrainingOptions:
    """How a node trains in a round. `mu` is the weight of FedProx's proximal term."""

    epochs: int
    batch: int
    rate: float
    mu: float = 0.0
    seed: int = 0

    def batches(self, count: int) -> Iterator[NDArray[np.int64]]:
        """Yield the indices of each batch of all epochs, reshuffled each epoch."""
        rng = np.random.default_rng(self.seed)
        for _ in range(self.epochs):
            order = rng.permutation(count)
            yield from (order[start : start + self.batch] for start in range(0, count, self.batch))


class Framework(Protocol):
    """What a module of models offers."""

    def train(self, arrays: Arrays, rows: Floats, options: TrainingOptions) -> tuple[Arrays, float]: ...  # noqa: D102
    def reconstruct(self, arrays: Arrays, rows: Floats) -> Floats: ...  # noqa: D102


def framework_of(run_config: Mapping[str, Any]) -> Framework:
    """Return the module for the run's framework."""
    if framework_name(run_config, ("pytorch", "sklearn")) == "pytorch":
        from anomaly_detection import torch_model  # noqa: PLC0415 - only where PyTorch is installed

        return torch_model
    from anomaly_detection import sklearn_model  # noqa: PLC0415 - it imports this module

    return sklearn_model


def initial(columns: int, bottleneck: int, seed: int) -> Arrays:
    """Return the untrained autoencoder (Glorot and Bengio, 2010), the same for every framework."""
    rng = np.random.default_rng(seed)
    middle = max(bottleneck, round((columns * bottleneck) ** 0.5))
    sizes = (columns, middle, bottleneck, middle, columns)
    arrays: Arrays = {}
    for number, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        limit = (6 / (inputs + outputs)) ** 0.5
        arrays[f"{number}.weight"] = rng.uniform(-limit, limit, (inputs, outputs))
        arrays[f"{number}.bias"] = np.zeros(outputs)
    return arrays


def scores(framework: Framework, arrays: Arrays, rows: Floats) -> Floats:
    """Return each row's mean squared error of reconstruction, shape (rows,): higher means more unusual."""
    return np.asarray(np.mean((framework.reconstruct(arrays, rows) - rows) ** 2, axis=1))
