"""The models, one module for each framework, all with the same three functions.

- initial(shape, classes, model, seed) -> the untrained model, as arrays by name
- train(arrays, data, options) -> the trained arrays, and the loss on the last pass over the data
- evaluate(arrays, data, options) -> loss and accuracy

A module whose models may have batch normalisation also has batch_norms(shape, classes, model) -> the names of its
arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.gpu_parameters import FULL
from oneflower_appliance.training.frameworks import framework_name
from oneflower_appliance.use_cases import BATCH_NORM

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from image_classification.images import Floats, Images, Integers

Arrays = dict[str, "Floats"]
_FRAMEWORKS = ("pytorch", "tensorflow", "sklearn")  # the better one first, where the run names none
_SMALL = 48


@dataclass(frozen=True)
class TrainingOptions:
    """How a node trains in a round. `mu` is the weight of FedProx's proximal term, `precision` FL_MIXED_PRECISION."""

    model: str
    epochs: int
    batch: int
    rate: float
    mu: float = 0.0
    seed: int = 0
    precision: str = FULL

    def batches(self, count: int) -> Iterator[Integers]:
        """Yield the indices of each batch of all epochs, reshuffled each epoch."""
        rng = np.random.default_rng(self.seed)
        for _ in range(self.epochs):
            yield from in_order(count, self.batch, rng.permutation(count))


class Framework(Protocol):
    """What a module of models offers."""

    def initial(self, shape: tuple[int, int, int], classes: int, model: str, seed: int) -> Arrays: ...  # noqa: D102
    def train(self, arrays: Arrays, data: Images, options: TrainingOptions) -> tuple[Arrays, float]: ...  # noqa: D102
    def evaluate(self, arrays: Arrays, data: Images, options: TrainingOptions) -> tuple[float, float]: ...  # noqa: D102


def in_order(count: int, batch: int, order: Integers | None = None) -> Iterator[Integers]:
    """Yield indices, `batch` at a time."""
    indices = np.arange(count) if order is None else order
    for start in range(0, count, batch):
        yield indices[start : start + batch]


def framework_of(run_config: Mapping[str, Any]) -> Framework:
    """Return the module for the run's framework."""
    name = framework_name(run_config, _FRAMEWORKS)
    if name == "pytorch":
        from image_classification import torch_models  # noqa: PLC0415 - only where PyTorch is installed

        return torch_models
    if name == "tensorflow":
        from image_classification import keras_models  # noqa: PLC0415 - only where TensorFlow is installed

        return keras_models
    from image_classification import softmax  # noqa: PLC0415 - it imports this module

    return softmax


def batch_norms(framework: Framework, shape: tuple[int, int, int], classes: int, model: str) -> list[str]:
    """Return the names of the arrays of batch normalisation in a model."""
    names = getattr(framework, "batch_norms", None)
    return list(names(shape, classes, model)) if names else []


def model_of(run_config: Mapping[str, Any], shape: tuple[int, int, int]) -> str:
    """Return the model's name: softmax with scikit-learn, otherwise the one that the run names.

    If it names none, small images get a small network, and others ResNet-18. Raises `OneflowerError`.
    """
    framework = framework_name(run_config, _FRAMEWORKS)
    if framework == "sklearn":
        return "softmax"
    if framework == "tensorflow" and run_config["model"] == BATCH_NORM:
        raise OneflowerError(
            f"{BATCH_NORM} is a model for PyTorch.", "Choose cnn or resnet18, or PyTorch.", ExitCode.INVALID_INPUT
        )
    return str(run_config["model"]) or ("cnn" if shape[0] < _SMALL else "resnet18")
