"""How well anomalies are distinguished from normal rows, over all nodes. No row leaves its node.

Each node counts how its scores fall into fixed bins; the sums of these counts give the same ROC and precision-recall
curves as all scores together would, to within a bin of 2.5 %. Averaging the nodes' own ROC-AUC would be wrong, and
impossible on a node whose rows are all normal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Floats = NDArray[np.float64]

_BINS = 1024
_EDGES = np.geomspace(1e-5, 1e6, _BINS - 1)


def histogram(scores: Floats) -> list[int]:
    """Return how many scores are in each bin, the lowest first."""
    return [int(count) for count in np.bincount(np.digitize(scores, _EDGES), minlength=_BINS)]


def metrics(
    normal: Sequence[int], anomalous: Sequence[int], trained: Sequence[int], quantile: float
) -> Mapping[str, float]:
    """Return ROC-AUC, PR-AUC (average precision), and precision, recall, F1 and accuracy at the threshold.

    `normal` and `anomalous` are histograms of the rows tested on, `trained` of the normal rows trained on: the
    threshold is their `quantile`. Without anomalies, or without normal rows, only the accuracy is returned.
    """
    below = np.cumsum(np.asarray(trained))
    cut = int(np.searchsorted(below, quantile * below[-1])) + 1
    # From the highest bin down: the rows that would count as anomalies if the threshold were there.
    true = np.cumsum(np.asarray(anomalous)[::-1])
    false = np.cumsum(np.asarray(normal)[::-1])
    hits, alarms = (int(counts[_BINS - 1 - cut]) if cut < _BINS else 0 for counts in (true, false))
    positives, negatives = int(true[-1]), int(false[-1])
    found = {"accuracy": (hits + negatives - alarms) / (positives + negatives)}
    if positives and negatives:
        recall = np.concatenate([[0.0], true / positives])
        fallout = np.concatenate([[0.0], false / negatives])
        precision = np.divide(true, true + false, out=np.ones(_BINS), where=true + false > 0)
        found |= {
            "roc_auc": float(np.trapezoid(recall, fallout)),
            "pr_auc": float(np.sum(np.diff(recall) * precision)),
            "f1": 2 * hits / (positives + hits + alarms),
            "precision": hits / (hits + alarms) if hits + alarms else 0.0,
            "recall": hits / positives,
        }
    return found | {"threshold": float(_EDGES[min(cut, _BINS - 1) - 1])}
