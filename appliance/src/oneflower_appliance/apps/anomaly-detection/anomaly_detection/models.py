"""What finds anomalies: an autoencoder, or boosted trees. Here is what both have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from oneflower_appliance.training.frameworks import check_strategy
from oneflower_appliance.use_cases import TREE_STRATEGIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flwr.app import Message

    from anomaly_detection.tables import Table
    from oneflower_appliance.training.survey import Survey

Floats = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]


class Detector(Protocol):
    """A kind of model. The server makes the first one; nodes train it and score rows with it."""

    def preparation(self, nodes: Survey) -> dict[str, Any]:
        """Return what all nodes must know, from what they told. Raises `OneflowerError`."""

    def initial(self, columns: int) -> Arrays:
        """Return the untrained model."""

    def train(self, arrays: Arrays, rows: Table, message: Message, seed: int) -> tuple[Arrays, float]:
        """Return the trained model, and its loss on the rows."""

    def scores(self, arrays: Arrays, rows: Floats) -> Floats:
        """Return how unusual each row is, shape (rows,): above 0, higher means more unusual."""

    def loss(self, scores: Floats, labels: NDArray[np.int64]) -> float:
        """Return the loss on rows with these scores."""

    def files(self, arrays: Arrays) -> dict[str, bytes]:
        """Return the trained model as files that other programs read, by name."""


def detector_of(run_config: Mapping[str, Any]) -> Detector:
    """Return the kind of model that the run's strategy trains. Raises `OneflowerError` if the framework is another."""
    check_strategy(run_config)
    if str(run_config["strategy"]) in TREE_STRATEGIES:
        from anomaly_detection.trees import Trees  # noqa: PLC0415 - it imports this module

        return Trees(run_config)
    from anomaly_detection.autoencoder import Autoencoder  # noqa: PLC0415

    return Autoencoder(run_config)
