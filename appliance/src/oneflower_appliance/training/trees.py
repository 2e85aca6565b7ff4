"""Finds trees that would ruin a model of FedXgbBagging, or end the run: Flower checks nothing in XGBoost's JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flwr.app import Array
    from numpy.typing import NDArray

_TOO_LARGE = 1e6  # of a leaf: log-odds, or the unit of the label
_LEAF = -1  # in place of a child
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


def fault_of(arrays: Sequence[tuple[str, Array]]) -> str:
    """Return what is wrong with the trees that a node sent, or an empty text."""
    try:
        [(_, array)] = arrays
        model = json.loads(array.numpy().tobytes())["learner"]["gradient_booster"]["model"]
        together, trees = int(model["gbtree_model_param"]["num_parallel_tree"]), model["trees"]
        complete = int(model["gbtree_model_param"]["num_trees"]) == len(trees) and 1 <= together <= len(trees)
        if not complete or not all(map(_whole, trees)) or list(map(int, model["iteration_indptr"]))[:1] != [0]:
            return "its trees are not complete"
        leaves = np.concatenate([_leaves(tree) for tree in trees])
    except _UNREADABLE:
        return "its trees cannot be read"
    if not np.isfinite(leaves).all():
        return "its trees have values that are not finite"
    peak = float(np.abs(leaves).max(initial=0.0))
    return f"its trees have a value that is too large: {peak:.3g}" if peak > _TOO_LARGE else ""


def _whole(tree: dict[str, Any]) -> bool:
    """Return whether each child of a tree is in it."""
    count = len(tree["split_conditions"])
    children = np.asarray([tree["left_children"], tree["right_children"]], dtype=np.int64)
    return children.shape == (2, count) and bool(((children >= _LEAF) & (children < count)).all())


def _leaves(tree: dict[str, Any]) -> NDArray[np.float64]:
    """Return what a tree adds to the model's answer, by leaf."""
    leaf = np.equal(tree["left_children"], _LEAF)
    return np.extract(leaf, np.asarray(tree["split_conditions"], dtype=np.float64))
