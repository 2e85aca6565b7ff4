"""Leaves out replies that would ruin the global model: weights that are not finite, too large or of another shape."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flwr.app import Array, ArrayRecord, Message
    from numpy.typing import NDArray

_TOO_LARGE = 1e6


def sift(replies: Iterable[Message], arrays: ArrayRecord) -> tuple[list[Message], dict[int, str]]:
    """Return the replies that may be aggregated into `arrays`, and why each other node is left out.

    Replies are returned in the order of the nodes' ids, so the same replies always give the same sum.
    """
    received = sorted(replies, key=lambda message: message.metadata.src_node_id)
    usual = Counter(_names(reply) for reply in received).most_common(1)
    sound: list[Message] = []
    reasons: dict[int, str] = {}
    limits: dict[int, float] = {}
    for reply in received:
        node = reply.metadata.src_node_id
        if _names(reply) != usual[0][0]:
            reasons[node] = "its model has other arrays than those of other nodes"
        elif fault := _fault(reply, list(arrays.values()), limits):
            reasons[node] = fault
        else:
            sound.append(reply)
    return sound, reasons


def _names(reply: Message) -> tuple[str, ...]:
    return tuple(name for record in reply.content.array_records.values() for name in record)


def _fault(reply: Message, arrays: list[Array], limits: dict[int, float]) -> str:
    """Return what is wrong with a reply, or an empty text. `limits` remembers how large a value may be, by array."""
    for metrics in reply.content.metric_records.values():
        if metrics.get("num-examples") == 0:
            return "it has no examples"
    found = [item for record in reply.content.array_records.values() for item in record.items()]
    alike = len(found) == len(arrays)  # not if nodes send something other than the model, such as trees
    for number, (name, array) in enumerate(found):
        if np.dtype(array.dtype).kind != "f":
            continue
        if alike and tuple(array.shape) != tuple(arrays[number].shape):
            return f"its {name} has the shape {_shape(array.shape)}, the global model's {_shape(arrays[number].shape)}"
        peak = _peak(array.numpy())
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
