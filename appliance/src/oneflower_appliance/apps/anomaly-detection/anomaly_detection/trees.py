"""Boosted trees of XGBoost, which learn from the labels of all rows. Each round adds trees to the model.

With FedXgbBagging every node adds trees to the same model, side by side, and each node's step is smaller the more nodes
there are. With FedXgbCyclic one node after the other continues the model.

The model is one array, `0`: the bytes of XGBoost's own JSON, empty before the first round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.training.clients import settings_of
from oneflower_appliance.training.frameworks import framework_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xgboost
    from flwr.app import Message
    from numpy.typing import NDArray

    from anomaly_detection.models import Arrays, Floats
    from anomaly_detection.tables import Table
    from oneflower_appliance.training.survey import Survey

_MODEL = "0"  # the name that Flower's strategies give it
_SMALLEST = 1e-12


class Trees:
    """The `Detector` that scores a row by the odds, p / (1 - p), with which it is an anomaly."""

    def __init__(self, run_config: Mapping[str, Any]) -> None:
        self._config = run_config
        self._together = run_config["strategy"] == "FedXgbBagging"

    def preparation(self, nodes: Survey) -> dict[str, Any]:
        """Return how many nodes there are, and the share of anomalies among all rows, at which boosting starts."""
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
        import xgboost  # noqa: PLC0415 - only where XGBoost is installed

        framework_name(self._config, ("xgboost",))
        settings, count = settings_of(message), int(self._config["trees-per-round"])
        parameters = {
            "objective": "binary:logistic",
            "base_score": float(settings["prevalence"]),
            "max_depth": int(self._config["max-depth"]),
            "eta": float(self._config["tree-learning-rate"]) / (int(settings["nodes"]) if self._together else 1),
            "num_parallel_tree": count if self._together else 1,
            "subsample": 0.8,
            "colsample_bynode": 0.8,
            "seed": seed,
        }
        before = _booster(arrays)
        data = xgboost.DMatrix(rows.features, rows.labels)
        after = xgboost.train(parameters, data, 1 if self._together else count, xgb_model=before)
        new = after[before.num_boosted_rounds() :] if before is not None and self._together else after
        trained = {_MODEL: np.frombuffer(new.save_raw("json"), dtype=np.uint8)}
        return trained, self.loss(_odds(after, rows.features), rows.labels)

    def scores(self, arrays: Arrays, rows: Floats) -> Floats:
        """Return the odds with which each row is an anomaly."""
        booster = _booster(arrays)
        return np.ones(len(rows)) if booster is None else _odds(booster, rows)

    def loss(self, scores: Floats, labels: NDArray[np.int64]) -> float:
        """Return the mean negative log-likelihood of the labels."""
        likelihood = np.where(labels == 1, scores, 1.0) / (1 + scores)
        return float(-np.log(np.maximum(likelihood, _SMALLEST)).mean())

    def files(self, arrays: Arrays) -> dict[str, bytes]:
        """Return the model as `xgboost.Booster(model_file=...)` reads it."""
        return {"trees.json": arrays[_MODEL].tobytes()}


def _booster(arrays: Arrays) -> xgboost.Booster | None:
    """Return the model, or None if it has no trees yet."""
    import xgboost  # noqa: PLC0415 - only where XGBoost is installed

    content = bytearray(arrays[_MODEL].tobytes())
    return xgboost.Booster(model_file=content) if content else None


def _odds(booster: xgboost.Booster, rows: Floats) -> Floats:
    import xgboost  # noqa: PLC0415 - only where XGBoost is installed

    return np.asarray(np.exp(booster.predict(xgboost.DMatrix(rows), output_margin=True)), dtype=np.float64)
