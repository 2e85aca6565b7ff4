"""Trees of XGBoost. A model is XGBoost's own JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xgboost

if TYPE_CHECKING:
    from anomaly_detection.models import Floats
    from anomaly_detection.tables import Table
    from anomaly_detection.trees import Growth

FILE = "trees.json"


def grow(model: bytes, rows: Table, growth: Growth) -> tuple[bytes, Floats]:
    """Grow trees from the share of anomalies among all rows, or on those that there are."""
    parameters = {
        "objective": "binary:logistic",
        "base_score": growth.prevalence,
        "max_depth": growth.depth,
        "eta": growth.rate,
        "num_parallel_tree": growth.count if growth.together else 1,
        "subsample": 0.8,
        "colsample_bynode": 0.8,
        "seed": growth.seed,
    }
    before = _booster(model) if model else None
    data = xgboost.DMatrix(rows.features, rows.labels)
    after = xgboost.train(parameters, data, 1 if growth.together else growth.count, xgb_model=before)
    new = after[before.num_boosted_rounds() :] if before is not None and growth.together else after
    return bytes(new.save_raw("json")), _odds(after, rows.features)


def odds(model: bytes, rows: Floats) -> Floats:
    """Return the odds with which each row is an anomaly."""
    return _odds(_booster(model), rows)


def _booster(model: bytes) -> xgboost.Booster:
    return xgboost.Booster(model_file=bytearray(model))


def _odds(booster: xgboost.Booster, rows: Floats) -> Floats:
    return np.asarray(np.exp(booster.predict(xgboost.DMatrix(rows), output_margin=True)), dtype=np.float64)
