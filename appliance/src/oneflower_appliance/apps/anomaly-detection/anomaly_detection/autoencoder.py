"""The autoencoder, which learns from normal rows alone. There is one module for each framework, with two functions.

- train(arrays, rows, options) -> the trained arrays, and the mean squared error on the last pass over the rows
- reconstruct(arrays, rows) -> the rows as the autoencoder reconstructs them, in the shape of `rows`

The arrays are `0.weight` (inputs, outputs), `0.bias`, `1.weight`, ...; between the layers is tanh.
"""

from __future__ import annotations

import importlib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from oneflower_appliance.gpu_parameters import FULL
from oneflower_appliance.training import clients
from oneflower_appliance.training.frameworks import framework_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flwr.app import Message
    from numpy.typing import NDArray

    from anomaly_detection.models import Arrays, Floats
    from anomaly_detection.tables import Table
    from oneflower_appliance.training.survey import Survey

_MODULES = {"pytorch": "torch_model", "jax": "jax_model", "sklearn": "sklearn_model"}  # the first that is installed


@dataclass(frozen=True)
class TrainingOptions:
    """How a node trains in a round. `mu` is the weight of FedProx's proximal term, `precision` FL_MIXED_PRECISION."""

    epochs: int
    batch: int
    rate: float
    mu: float = 0.0
    seed: int = 0
    precision: str = FULL

    def batches(self, count: int) -> Iterator[NDArray[np.int64]]:
        """Yield the indices of each batch of all epochs, reshuffled each epoch."""
        rng = np.random.default_rng(self.seed)
        for _ in range(self.epochs):
            order = rng.permutation(count)
            yield from (order[start : start + self.batch] for start in range(0, count, self.batch))


class Framework(Protocol):
    """What a module of a framework offers."""

    def train(self, arrays: Arrays, rows: Floats, options: TrainingOptions) -> tuple[Arrays, float]: ...  # noqa: D102
    def reconstruct(self, arrays: Arrays, rows: Floats) -> Floats: ...  # noqa: D102


def framework_of(run_config: Mapping[str, Any]) -> Framework:
    """Return the module for the run's framework."""
    name = framework_name(run_config, tuple(_MODULES))
    module: Framework = importlib.import_module(f"{__package__}.{_MODULES[name]}")  # each imports its framework
    return module


class Autoencoder:
    """The `Detector` that scores a row by how badly it is reconstructed."""

    def __init__(self, run_config: Mapping[str, Any]) -> None:
        self._config = run_config

    def preparation(self, nodes: Survey) -> dict[str, Any]:
        """Return the mean and the scale of each column, over the normal rows of all nodes."""
        rows = nodes.total("_rows")
        mean = np.asarray(nodes.total("_sums")) / rows
        deviation = np.sqrt(np.maximum(np.asarray(nodes.total("_squares")) / rows - mean**2, 0))
        scale = np.where(deviation > 1e-12 * np.maximum(np.abs(mean), 1), deviation, 1.0)
        return {"mean": mean.tolist(), "scale": scale.tolist()}

    def initial(self, columns: int) -> Arrays:
        """Return the untrained autoencoder (Glorot and Bengio, 2010), the same for every framework."""
        rng, bottleneck = np.random.default_rng(int(self._config["seed"])), int(self._config["bottleneck"])
        middle = max(bottleneck, round((columns * bottleneck) ** 0.5))
        sizes = (columns, middle, bottleneck, middle, columns)
        arrays: Arrays = {}
        for number, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            limit = (6 / (inputs + outputs)) ** 0.5
            arrays[f"{number}.weight"] = rng.uniform(-limit, limit, (inputs, outputs))
            arrays[f"{number}.bias"] = np.zeros(outputs)
        return arrays

    def train(self, arrays: Arrays, rows: Table, message: Message, seed: int) -> tuple[Arrays, float]:
        """Train on the rows that are normal."""
        config = self._config
        options = TrainingOptions(
            epochs=int(config["local-epochs"]),
            batch=int(config["batch-size"]),
            rate=clients.learning_rate(config, float(config["learning-rate"])),
            mu=clients.proximal_mu(message),
            seed=seed,
            precision=str(config["mixed-precision"]),
        )
        return framework_of(config).train(arrays, rows.normal, options)

    def scores(self, arrays: Arrays, rows: Floats) -> Floats:
        """Return each row's mean squared error of reconstruction."""
        return np.asarray(np.mean((framework_of(self._config).reconstruct(arrays, rows) - rows) ** 2, axis=1))

    def loss(self, scores: Floats, labels: NDArray[np.int64]) -> float:
        """Return the mean squared error of the normal rows."""
        usual = scores[labels == 0]
        return float(usual.mean()) if len(usual) else 0.0

    def files(self, arrays: Arrays) -> dict[str, bytes]:  # noqa: ARG002 - as every detector
        """Return no files: model.npz has all."""
        return {}
