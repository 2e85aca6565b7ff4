"""The limits of an axis that does not exaggerate.

A loss is shown from 0 on, and an accuracy in a part of 0 to 1 that is wide enough to see that a small step is small.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEAST_SPAN = 0.2  # of an accuracy's axis, and of another's in parts of its largest value
_MARGIN = 0.05  # above the largest value, in parts of the axis
_OUTLIERS = 3.0  # times the run's own largest loss, above which losses of nodes are cut off


def limits(name: str, values: Sequence[float], of_nodes: Sequence[float]) -> tuple[float, float]:
    """Return the limits of the axis for the values of a run, and of its nodes as far as these have room."""
    everything = [*values, *of_nodes]
    if name == "accuracy" and min(everything) >= 0 and max(everything) <= 1:
        low = math.floor(min(*everything, 1 - _LEAST_SPAN) * 10) / 10
        high = max(low + _LEAST_SPAN, *everything)
        return low, min(high, 1) + _MARGIN * (high - low)
    if min(values) >= 0 and name != "accuracy":
        top = min(max(everything), _OUTLIERS * max(values)) or 1.0
        return 0.0, top * (1 + _MARGIN)
    low, high = min(values), max(values)
    room = max(_LEAST_SPAN * max(abs(low), abs(high)), high - low) or 1.0
    middle = (low + high) / 2
    return middle - room * (0.5 + _MARGIN), middle + room * (0.5 + _MARGIN)
