"""Boosted trees, which learn from the labels of all rows. Each round adds trees to the model.

With FedXgbBagging every node adds trees to the same model, side by side, and each node's step is smaller the more nodes
there are. With FedXgbCyclic one node after the other continues the model.

The model is one array, `0`: bytes in the library's own format, empty before the first round. There is a module for each
library, with two functions and the name of the file in which the trained model is saved.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.training.clients import settings_of
from oneflower_appliance.training.frameworks import framework_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flwr.app import Message
    from numpy.typing import NDArray

    from anomaly_detection.models import Arrays, Floats
    from anomaly_detection.tables import Table
    from oneflower_appliance.training.survey import Survey

_MODULES = {"xgboost": "xgboost_trees", "lightgbm": "lightgbm_trees"}  # the first that is installed
_MODEL = "0"  # the name that Flower's strategies give it
_SMALLEST = 1e-12


@dataclass(frozen=True)
class Growth:
    """How a node grows trees in a round: `count` of them, after the others or, `together` of all nodes, beside them.

    `prevalence` is the share of anomalies among the rows of all nodes.
    """

    count: int
    depth: int
    rate: float
    together: bool
    prevalence: float
    seed: int


class Library(Protocol):
    """What a module of a library offers."""

    FILE: str

    def grow(self, model: bytes, rows: Table, growth: Growth) -> tuple[bytes, Floats]:
        """Return what the node sends, and the odds that its rows have after its training."""

    def odds(self, model: bytes, rows: Floats) -> Floats:
        """Return the odds with which each row is an anomaly, of a model that has trees."""


class Trees:
    """The `Detector` that scores a row by the odds, p / (1 - p), with which it is an anomaly."""

    def __init__(self, run_config: Mapping[str, Any]) -> None:
        self._config = run_config
        self._together = run_config["strategy"] == "FedXgbBagging"

    def preparation(self, nodes: Survey) -> dict[str, Any]:
        """Return how many nodes there are, and the share of anomalies among all rows."""
        anomalies, rows = nodes.total("anomalies"), nodes.total("examples")
        if not anomalies:
            raise OneflowerError(
                f"None of the {rows} rows of all nodes is labelled 1 (anomaly). Trees learn from both kinds of rows.",
                "Label some, or train an autoencoder: ML_FRAMEWORK=sklearn and FL_STRATEGY=FedAvg.",
                ExitCode.INVALID_INPUT,
            )
        return {"nodes": len(nodes.nodes), "prevalence": anomalies / rows}

    def initial(self, columns: int) -> Arrays:  # noqa: ARG002 - as every detector
        """Return a model without trees."""
        return {_MODEL: np.zeros(0, dtype=np.uint8)}

    def train(self, arrays: Arrays, rows: Table, message: Message, seed: int) -> tuple[Arrays, float]:
        """Return the trees that this node adds (FedXgbBagging), or the model with them (FedXgbCyclic)."""
        settings = settings_of(message)
        growth = Growth(
            count=int(self._config["trees-per-round"]),
            depth=int(self._config["max-depth"]),
            rate=float(self._config["tree-learning-rate"]) / (int(settings["nodes"]) if self._together else 1),
            together=self._together,
            prevalence=float(settings["prevalence"]),
            seed=seed,
        )
        grown, odds = self._library.grow(arrays[_MODEL].tobytes(), rows, growth)
        return {_MODEL: np.frombuffer(grown, dtype=np.uint8)}, self.loss(odds, rows.labels)

    def scores(self, arrays: Arrays, rows: Floats) -> Floats:
        """Return the odds with which each row is an anomaly."""
        model = arrays[_MODEL].tobytes()
        return self._library.odds(model, rows) if model else np.ones(len(rows))

    def loss(self, scores: Floats, labels: NDArray[np.int64]) -> float:
        """Return the mean negative log-likelihood of the labels."""
        likelihood = np.where(labels == 1, scores, 1.0) / (1 + scores)
        return float(-np.log(np.maximum(likelihood, _SMALLEST)).mean())

    def files(self, arrays: Arrays) -> dict[str, bytes]:
        """Return the model as the library's `Booster(model_file=...)` reads it."""
        return {self._library.FILE: arrays[_MODEL].tobytes()}

    @property
    def _library(self) -> Library:
        name = framework_name(self._config, tuple(_MODULES))
        module: Library = importlib.import_module(f"{__package__}.{_MODULES[name]}")  # each imports its library
        return module
