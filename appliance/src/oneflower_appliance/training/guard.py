"""Leaves out replies that would ruin the global model: weights that are not finite, too large or of another shape."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from flwr.app import Array, ArrayRecord, Message
    from numpy.typing import NDArray

_TOO_LARGE = 1e6
_NUMPY = "numpy.ndarray"  # the format of an array's data that Flower itself reads

Reply = TypeVar("Reply")
FaultOf: TypeAlias = "Callable[[Sequence[tuple[str, Array]]], str]"


@dataclass(frozen=True)
class Update(Generic[Reply]):
    """What a node trained: its arrays, by name. `empty` if it had no examples. `reply` is what it came in."""

    node: int
    arrays: Sequence[tuple[str, Array]]
    empty: bool
    reply: Reply


def update_of(message: Message) -> Update[Message]:
    """Return the update in a reply of the Message API."""
    arrays = [item for record in message.content.array_records.values() for item in record.items()]
    empty = any(metrics.get("num-examples") == 0 for metrics in message.content.metric_records.values())
    return Update(message.metadata.src_node_id, arrays, empty, message)


def sift(
    updates: Iterable[Update[Reply]], arrays: ArrayRecord, fault_of: FaultOf | None = None
) -> tuple[list[Reply], dict[int, str]]:
    """Return the replies that may be aggregated into `arrays`, and why each other node is left out.

    `fault_of` says what else may be wrong with the arrays of an update. Replies are returned in the order of the nodes'
    ids, so the same replies always give the same sum.
    """
    received = sorted(updates, key=lambda update: update.node)
    usual = Counter(_names(update) for update in received).most_common(1)
    sound: list[Reply] = []
    reasons: dict[int, str] = {}
    limits: dict[int, float] = {}
    for update in received:
        if _names(update) != usual[0][0]:
            reasons[update.node] = "its model has other arrays than those of other nodes"
        elif fault := _fault(update, list(arrays.values()), limits) or (fault_of(update.arrays) if fault_of else ""):
            reasons[update.node] = fault
        else:
            sound.append(update.reply)
    return sound, reasons


def _names(update: Update[Any]) -> tuple[str, ...]:
    return tuple(name for name, _ in update.arrays)


def _fault(update: Update[Any], arrays: list[Array], limits: dict[int, float]) -> str:
    """Return what is wrong with an update, or an empty text. `limits` remembers how large a value may be, by array."""
    if update.empty:
        return "it has no examples"
    alike = len(update.arrays) == len(arrays)  # not if nodes send something other than the model, such as trees
    for number, (name, array) in enumerate(update.arrays):
        if array.stype != _NUMPY and (not alike or array.stype == arrays[number].stype):
            continue  # only the app can read it
        try:
            values = array.numpy()  # what it says of itself may be wrong
        except (ValueError, TypeError):
            return f"its {name} cannot be read"
        if values.dtype.kind != "f":
            continue
        if alike and values.shape != tuple(arrays[number].shape):
            return f"its {name} has the shape {_shape(values.shape)}, the global model's {_shape(arrays[number].shape)}"
        peak = _peak(values)
        if not np.isfinite(peak):
            return f"its {name} has values that are not finite"
        if alike and number not in limits:
            limits[number] = _TOO_LARGE * (1 + _peak(arrays[number].numpy()))
        if alike and peak > limits[number]:
            return f"its {name} is too large: {peak:.3g}"
    return ""


def _peak(array: NDArray[Any]) -> float:
    """Return the largest magnitude, NaN if any value is NaN. This needs no memory of the array's size."""
    return float(max(array.max(), -array.min())) if array.size else 0.0


def _shape(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "of a single number"
