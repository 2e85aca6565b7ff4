"""Metrics of Flower's legacy API as they are recorded.

A strategy of the legacy API aggregates the nodes' metrics only if the app gives it a function for that. If it has none,
their average is recorded, weighted by the number of examples, as strategies of the Message API aggregate them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def plain(metrics: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return metrics as JSON can hold them. What is neither a number nor text is left out."""
    found = {str(name): _plain(value) for name, value in (metrics or {}).items()}
    return {name: value for name, value in found.items() if value is not None}


def average(reports: Sequence[tuple[int, Mapping[str, Any] | None]]) -> dict[str, float]:
    """Return the averages of those numbers that all nodes reported, given the examples and the metrics of each."""
    numbers = [
        (weight, {name: value for name, value in plain(found).items() if isinstance(value, int | float)})
        for weight, found in reports
    ]
    total = sum(weight for weight, _ in numbers)
    if not total:
        return {}
    names = [name for name in numbers[0][1] if all(name in found for _, found in numbers)]
    return {name: sum(weight * found[name] for weight, found in numbers) / total for name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray) and np.ndim(value) == 0:
        value = value.item()
    return value if isinstance(value, bool | int | float | str) else None
