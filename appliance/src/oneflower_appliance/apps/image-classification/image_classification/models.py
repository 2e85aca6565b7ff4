"""The models, one module for each framework, all with the same three functions.

- initial(shape, classes, model, seed) -> the untrained model, as arrays by name
- train(arrays, data, options) -> the trained arrays, and the loss on the last pass over the data
- evaluate(arrays, data, options) -> loss and accuracy
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from image_classification.images import Floats, Images, Integers

Arrays = dict[str, "Floats"]
_MODULES = {"sklearn": "softmax", "pytorch": "torch_models", "tensorflow": "keras_models"}
_PACKAGES = {"pytorch": "torch", "tensorflow": "tensorflow", "sklearn": "sklearn"}
_SMALL = 48


@dataclass(frozen=True)
class TrainingOptions:
    """How a node trains in a round. `mu` is the weight of FedProx's proximal term."""

    model: str
    epochs: int
    batch: int
    rate: float
    mu: float = 0.0
    seed: int = 0

    def batches(self, count: int) -> Iterator[Integers]:
        """Yield the indices of each batch of all epochs, reshuffled each epoch."""
        rng = np.random.default_rng(self.seed)
        for _ in range(self.epochs):
            yield from in_order(count, self.batch, rng.permutation(count))


class Framework(Protocol):
    """What a module of models offers."""

    __name__: str

    def initial(self, shape: tuple[int, int, int], classes: int, model: str, seed: int) -> Arrays: ...  # noqa: D102
    def train(self, arrays: Arrays, data: Images, options: TrainingOptions) -> tuple[Arrays, float]: ...  # noqa: D102
    def evaluate(self, arrays: Arrays, data: Images, options: TrainingOptions) -> tuple[float, float]: ...  # noqa: D102


def in_order(count: int, batch: int, order: Integers | None = None) -> Iterator[Integers]:
    """Yield indices, `batch` at a time."""
    indices = np.arange(count) if order is None else order
    for start in range(0, count, batch):
        yield indices[start : start + batch]


def framework_of(run_config: Mapping[str, Any]) -> Framework:
    """Return the module for the run's framework: the one that is named, else the first that is installed."""
    wanted = run_config["framework"]
    if not wanted:
        wanted = next(name for name, package in _PACKAGES.items() if importlib.util.find_spec(package))
    return importlib.import_module(f"image_classification.{_MODULES[wanted]}")


def model_of(run_config: Mapping[str, Any], shape: tuple[int, int, int]) -> str:
    """Return the model's name; if none is named, a small network for small images and ResNet-18 for others."""
    return str(run_config["model"]) or ("cnn" if shape[0] < _SMALL else "resnet18")
