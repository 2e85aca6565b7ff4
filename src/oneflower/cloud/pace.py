"""How fast a run goes, from the rounds that have ended."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oneflower_appliance.runs import RunRow


def seconds_left(rows: Sequence[RunRow], spent: float) -> float | None:
    """Return about how many seconds the rest of a run takes, `spent` seconds after the last of its rounds ended.

    None if no round has ended. The first one counts only while it is the only one: in it, nodes load what they need.
    """
    if not rows:
        return None
    last = rows[-1]
    usual = statistics.median(row.seconds for row in (rows[1:] or rows))
    left = last.rounds - last.round
    return max(0.0, usual - spent) + usual * (left - 1) if left > 0 else 0.0


def duration(seconds: float) -> str:
    """Return a time for people, in the unit that suits it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
