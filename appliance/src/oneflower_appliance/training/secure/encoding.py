"""Updates and metrics as whole numbers that can be added modulo 2^32 and 2^64 without an overflow.

A node's share in the sum is what training changed in each value of the model, times its number of examples. `values`
has these modulo 2^32: `limit` times `max_examples` is the largest that one node may have, so that the sum over all
nodes has its place. `sums` has, modulo 2^64, the number of examples and the metrics, each times that number.
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

    Values = NDArray[np.uint32]
    Sums = NDArray[np.uint64]
    Arrays = Mapping[str, NDArray[Any]]

_STEPS = 1 << 20  # a metric is a multiple of 1/_STEPS
_PIECE = 1 << 18  # values


@dataclass(frozen=True)
class Encoding:
    """The encoding for so many `nodes`.

    A value may change by `limit` in a round, and a node may have `max_examples` examples.
    """

    nodes: int
    limit: float
    max_examples: int

    @property
    def _largest(self) -> int:
        return ((1 << 31) - 1) // self.nodes - 1

    def encode(self, before: Arrays, after: Arrays, examples: int, clip: float = 0.0) -> Values:
        """Return what training changed, times the number of examples. Raises `OneflowerError`.

        If `clip` is above 0, a change with a larger L2 norm is scaled down to it.
        """
        if not 0 <= examples <= self.max_examples:
            raise OneflowerError(
                f"it has {examples} examples, and FL_SECURE_MAX_EXAMPLES allows {self.max_examples}.",
                "Run it with a larger FL_SECURE_MAX_EXAMPLES.",
            )
        if _shapes(before) != _shapes(after):
            raise OneflowerError(
                "its ClientApp returns other arrays than it got, which secure aggregation cannot add up.",
                "Return the arrays of the model, with the same names and shapes.",
            )
        values = np.empty(sum(array.size for array in before.values()), np.uint32)
        scale, place = examples * self._largest / (self.limit * self.max_examples), 0
        scaled = min(1.0, clip / norm) if clip and (norm := _norm(before, after)) else 1.0
        for name, piece in _changes(before, after):
            piece *= scaled  # noqa: PLW2901 - in place
            self._check(name, piece)
            piece *= scale  # noqa: PLW2901
            end = place + len(piece)
            values[place:end] = np.rint(piece).astype(np.int32).view(np.uint32)
            place = end
        return values

    def _check(self, name: str, change: NDArray[np.float64]) -> None:
        peak = float(np.abs(change).max())
        if not np.isfinite(peak):
            raise OneflowerError(f"its {name} has values that are not finite.")
        if peak > self.limit:
            raise OneflowerError(
                f"a value of its {name} changed by {peak:.3g}, and FL_SECURE_RANGE allows {self.limit:g}.",
                "Run it with a larger FL_SECURE_RANGE, or with a smaller learning rate.",
            )

    def encode_sums(self, examples: int, metrics: Sequence[tuple[str, float]]) -> Sums:
        """Return the number of examples, and each metric times it. Raises `OneflowerError`."""
        found = [examples]
        for name, value in metrics:
            product = value * examples * _STEPS
            if not (math.isfinite(product) and abs(product) < (1 << 62) // self.nodes):
                raise OneflowerError(f"its metric {name} is {value}, which secure aggregation cannot add up.")
            found.append(round(product))
        return np.array(found, np.int64).view(np.uint64)

    def decode(self, values: Values, before: Arrays, examples: int) -> dict[str, NDArray[Any]]:
        """Return the model: `before`, changed by the mean over all examples. `values` is the sum over the nodes."""
        scale = self.limit * self.max_examples / (self._largest * examples)
        found: dict[str, NDArray[Any]] = {}
        place = 0
        for name, array in before.items():
            change = values[place : place + array.size].view(np.int32).reshape(array.shape) * scale
            place += array.size
            after = change + array
            found[name] = (after if array.dtype.kind == "f" else np.rint(after)).astype(array.dtype)
        return found

    @staticmethod
    def decode_sums(sums: Sums) -> tuple[int, list[float]]:
        """Return the number of all examples, and the mean of each metric over them."""
        examples, *products = map(int, sums.view(np.int64))
        return examples, [product / (_STEPS * examples) if examples else math.nan for product in products]


def _changes(before: Arrays, after: Arrays) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield what training changed, piece by piece, with the name of the array."""
    for name, array in before.items():
        old, new = array.reshape(-1), after[name].reshape(-1)
        for start in range(0, len(old), _PIECE):
            piece = new[start : start + _PIECE].astype(np.float64)
            piece -= old[start : start + _PIECE]
            yield name, piece


def _norm(before: Arrays, after: Arrays) -> float:
    return math.sqrt(sum(float(piece @ piece) for _, piece in _changes(before, after)))


def _shapes(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}
