"""Replies in a file of the ServerApp, not in its memory, until their arrays are used.

What a strategy gets is what it always gets: messages with Flower's arrays. The weighted average of Flower's FedAvg,
which most strategies begin with, is computed array by array and not reply by reply. Each value of it goes through the
same operations in the same order, so the result is the same to the last digit.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Array, ArrayRecord

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.warm.arrayfile import ArrayFile, filed, written
from oneflower_appliance.flower.warm.contents import Contents, inflate_in_place
from oneflower_appliance.flower.warm.pieces import SMALL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from flwr.app import RecordDict
    from numpy.typing import NDArray


def keep_replies_in_files(folder: Path) -> Callable[[], dict[str, bytes]]:
    """Keep the replies that this process fetches, and their averages, in files in `folder`.

    Returns what makes a place for the objects of a message.
    """
    inflate_in_place(internals.grid())
    for module in (internals.fedavg(), internals.multikrum()):
        module.aggregate_arrayrecords = _averaging(module.aggregate_arrayrecords, folder)
    return lambda: Contents(ArrayFile(folder))


def _averaging(stock: Callable[..., ArrayRecord], folder: Path) -> Callable[..., ArrayRecord]:
    @functools.wraps(stock)
    def aggregate_arrayrecords(records: Sequence[RecordDict], weighting_metric_name: str) -> ArrayRecord:
        models = [list(record.array_records.values()) for record in records]
        if any(len(model) != 1 or set(model[0]) != set(models[0][0]) for model in models):
            return stock(records, weighting_metric_name)
        weights = [next(iter(record.metric_records.values()))[weighting_metric_name] for record in records]
        total = sum(weights)  # type: ignore[arg-type]  # Flower has checked that they are numbers
        factors = [weight / total for weight in weights]  # type: ignore[operator]
        file, averages, memory = ArrayFile(folder), ArrayRecord(), _Memory()
        for name in models[0][0]:
            arrays = [model[name] for [model] in models]
            found = memory.average(arrays, factors)
            averages[name] = filed(_average(arrays, factors), file) if found is None else written(found, file)
        return averages

    return aggregate_arrayrecords


def _average(arrays: Sequence[Array], factors: Sequence[float]) -> Array:
    average: Any = None
    for array, factor in zip(arrays, factors, strict=True):
        share = array.numpy() * factor
        if average is None:
            average = share
        else:
            average += share
    return Array(np.asarray(average))


class _Memory:
    """Memory for the average of one large array after the other. New memory for each would cost more than the sums."""

    def __init__(self) -> None:
        self._memory = np.empty((2, 0), np.uint8)  # of the sum, and of a node's share of it

    def average(self, arrays: Sequence[Array], factors: Sequence[float]) -> NDArray[Any] | None:
        """Return what `_average` computes, valid until the next call. None: they are small, or of another kind."""
        first = arrays[0].numpy()
        if first.nbytes < SMALL or first.dtype.kind != "f" or not first.flags.c_contiguous:
            return None
        if self._memory.shape[1] < first.nbytes:
            self._memory = np.empty((2, -(-first.nbytes // 64) * 64), np.uint8)  # aligned for any type
        total, share = (memory[: first.nbytes].view(first.dtype).reshape(first.shape) for memory in self._memory)
        np.multiply(first, factors[0], out=total)
        for array, factor in zip(arrays[1:], factors[1:], strict=True):
            values = array.numpy()
            if (values.dtype, values.shape) != (first.dtype, first.shape) or not values.flags.c_contiguous:
                return None
            total += np.multiply(values, factor, out=share)
        return total
