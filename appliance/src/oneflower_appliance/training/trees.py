"""Finds trees that would ruin a model of FedXgbBagging or FedXgbCyclic, or end the run: Flower checks nothing in them.

FedXgbBagging puts the trees of all nodes together, so they are XGBoost's JSON. FedXgbCyclic only hands on what the last
node sent, so it may be in any format, but in the same one in each round.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from oneflower_appliance.use_cases import TREE_STRATEGIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flwr.app import Array, ArrayRecord
    from numpy.typing import NDArray

    from oneflower_appliance.training.guard import FaultOf

_TOO_LARGE = 1e6  # of a leaf: log-odds, or the unit of the label
_GBTREE = "gbtree"  # XGBoost's name of a model that has trees, and nothing else
_LEAF = -1  # in place of a child
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


def guard_of(strategy: object, model: ArrayRecord) -> FaultOf | None:
    """Return what finds faults in the trees that nodes send, None if the strategy, of either API, combines no trees.

    `model` is what the nodes were sent.
    """
    bagging, cyclic = TREE_STRATEGIES
    names = {kind.__name__ for kind in type(strategy).__mro__}
    if cyclic in names:
        return partial(_fault_of_next, list(model.values()))
    return fault_of if bagging in names else None


def _fault_of_next(before: Sequence[Array], arrays: Sequence[tuple[str, Array]]) -> str:
    """Return what is wrong with the model that takes the place of the one `before`, or an empty text."""
    content = b"".join(array.numpy().tobytes() for _, array in arrays)
    known = b"".join(array.numpy().tobytes() for array in before)
    if not content:
        return "its model is empty"
    if known and _format(content) != _format(known):
        return "its model has another format than the one that it was sent"
    return fault_of(arrays) if _format(content) == _GBTREE else ""


def _format(content: bytes) -> str:
    """Return the format of a model: that of trees in XGBoost's JSON, other JSON, or how it begins."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return content[:2].hex()
    try:
        booster = found["learner"]["gradient_booster"]
        return str(booster.get("name", _GBTREE))
    except (LookupError, TypeError, AttributeError):
        return "JSON"


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
