"""Trees of LightGBM, which one node after the other adds. A model is LightGBM's own text.

No strategy of Flower merges the trees of several nodes in LightGBM's format, so they cannot grow side by side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lightgbm
import numpy as np

if TYPE_CHECKING:
    from anomaly_detection.models import Floats
    from anomaly_detection.tables import Table
    from anomaly_detection.trees import Growth

FILE = "trees.txt"
_LEAST = 5  # rows in a leaf: a node may have few


def grow(model: bytes, rows: Table, growth: Growth) -> tuple[bytes, Floats]:
    """Grow trees on those that there are. The first begin at even odds.

    They do not begin at the node's own share of anomalies: a node that has only one kind of rows would ruin the model.
    """
    parameters = {
        "objective": "binary",
        "boost_from_average": False,
        "max_depth": growth.depth,
        "num_leaves": 2**growth.depth,
        "min_data_in_leaf": _LEAST,
        "learning_rate": growth.rate,
        "lambda_l2": 1.0,  # XGBoost's default. With LightGBM's, 0, leaves grow without bound from node to node
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "feature_fraction_bynode": 0.8,
        "seed": growth.seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbose": -1,
    }
    data = lightgbm.Dataset(rows.features, rows.labels)
    after = lightgbm.train(parameters, data, growth.count, init_model=_booster(model) if model else None)
    return after.model_to_string(num_iteration=-1).encode(), _odds(after, rows.features)


def odds(model: bytes, rows: Floats) -> Floats:
    """Return the odds with which each row is an anomaly."""
    return _odds(_booster(model), rows)


def _booster(model: bytes) -> lightgbm.Booster:
    return lightgbm.Booster(model_str=model.decode())


def _odds(booster: lightgbm.Booster, rows: Floats) -> Floats:
    return np.asarray(np.exp(booster.predict(rows, raw_score=True, num_iteration=-1)), dtype=np.float64)
