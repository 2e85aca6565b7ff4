"""An update and its metrics as whole numbers that can be added modulo 2^64.

A node's vector has its number of examples, each metric times that number, and what training changed in each value of
the model times that number. Products are multiples of 2^-24. The sum over the nodes has its place: a node whose numbers
are too large for that sends nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from oneflower_appliance.errors import OneflowerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Vector = NDArray[np.uint64]
    Arrays = Mapping[str, NDArray[Any]]

_STEPS = 1 << 24  # a product is a multiple of 1/_STEPS
_PIECE = 1 << 17  # values


@dataclass(frozen=True)
class Mean:
    """What the sum of vectors says: the number of all examples, the mean of each metric, and the new model."""

    examples: int
    metrics: Sequence[float]
    arrays: Arrays


@dataclass(frozen=True)
class Update:
    """What a node trained: the model before and after, its number of examples, and its metrics."""

    before: Arrays
    after: Arrays
    examples: int
    metrics: Sequence[tuple[str, float]]

    def encode(self, nodes: int, clip: float = 0.0) -> Vector:
        """Return the vector, of which those of so many `nodes` can be added. Raises `OneflowerError`.

        If `clip` is above 0, a change with a larger L2 norm is scaled down to it.
        """
        if _shapes(self.before) != _shapes(self.after):
            raise OneflowerError(
                "its ClientApp returns other arrays than it got, which secure aggregation cannot add up.",
                "Return the arrays of the model, with the same names and shapes.",
            )
        largest = ((1 << 63) - 1) // nodes
        if not 0 <= self.examples <= largest:
            raise OneflowerError(f"it has {self.examples} examples, which secure aggregation cannot add up.")
        place = 1 + len(self.metrics)
        vector = np.empty(place + _size(self.before), np.int64)
        vector[0] = self.examples
        for number, (name, value) in enumerate(self.metrics, 1):
            product = value * self.examples * _STEPS
            if not abs(product) < largest:  # nor if it is not a number
                raise OneflowerError(f"its metric {name} is {value}, which secure aggregation cannot add up.")
            vector[number] = round(product)
        scale = float(self.examples * _STEPS)
        if clip and (norm := math.sqrt(sum(float(piece @ piece) for _, piece in self._changes()))) > clip:
            scale *= clip / norm
        for name, piece in self._changes():
            piece *= scale  # noqa: PLW2901 - in place
            peak = float(np.abs(piece).max())
            if not peak < largest:
                raise OneflowerError(f"its {name} has values that are not finite, or changed by too much.")
            end = place + len(piece)
            vector[place:end] = np.rint(piece, out=piece)
            place = end
        return vector.view(np.uint64)

    def _changes(self) -> Iterator[tuple[str, NDArray[np.float64]]]:
        """Yield what training changed, piece by piece, with the name of the array."""
        for name, array in self.before.items():
            old, new = array.reshape(-1), self.after[name].reshape(-1)
            for start in range(0, len(old), _PIECE):
                piece = new[start : start + _PIECE].astype(np.float64)
                piece -= old[start : start + _PIECE]
                yield name, piece


def decode(total: Vector, metrics: int, before: Arrays) -> Mean | None:
    """Return what a sum of vectors with so many metrics says of the model `before`, None if nobody had examples."""
    numbers = total.view(np.int64)
    examples = int(numbers[0])
    if examples <= 0:
        return None
    scale = 1 / (_STEPS * examples)
    place = 1 + metrics
    found: dict[str, NDArray[Any]] = {}
    for name, array in before.items():
        after = numbers[place : place + array.size].reshape(array.shape) * scale
        after = after + array
        place += array.size
        found[name] = (after if array.dtype.kind == "f" else np.rint(after)).astype(array.dtype)
    return Mean(examples, [float(number) * scale for number in numbers[1 : 1 + metrics]], found)


def length(metrics: int, before: Arrays) -> int:
    """Return the length of a vector."""
    return 1 + metrics + _size(before)


def _size(arrays: Arrays) -> int:
    return sum(array.size for array in arrays.values())


def _shapes(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}
