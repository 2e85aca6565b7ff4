"""What a node has spent of its privacy budget, in a file that outlives its process.

A reply is charged before it leaves. If the process ends between the two, it was charged for nothing, and never the
other way round. Only the process of the SuperNode writes the file. A file that cannot be read is not an empty one: the
node then refuses.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_MOST = 1000  # runs: older ones count together
_EARLIER = "0"  # their run, which no run of Flower's is


@dataclass(frozen=True)
class Spent:
    """What one run has spent in one period: the sum of its costs (`gaussian_privacy`), and its replies."""

    run: str
    period: str
    cost: float
    replies: int
    first: str
    last: str


class PrivacyLedger:
    """The file at `path`. What counts is what was spent in `period`."""

    def __init__(self, path: Path, period: str = "") -> None:
        self.path = path
        self._period = period

    def entries(self) -> list[Spent]:
        """Return what each run has spent in this period. Raises `OneflowerError` if the file is damaged."""
        return [one for one in self._all() if one.period == self._period]

    def total(self) -> float:
        """Return the cost of all runs together. Raises `OneflowerError`."""
        return sum(one.cost for one in self.entries())

    def of(self, run: str) -> float:
        """Return the cost of one run. Raises `OneflowerError`."""
        return sum(one.cost for one in self.entries() if one.run == run)

    def charge(self, run: str, cost: float) -> None:
        """Add the cost of a reply, on the disk. Raises `OneflowerError` if it cannot be written."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        entries = {(one.run, one.period): one for one in self._all()}
        old = entries.get((run, self._period), Spent(run, self._period, 0.0, 0, now, now))
        entries[run, self._period] = Spent(run, self._period, old.cost + cost, old.replies + 1, old.first, now)
        write_atomic(self.path, json.dumps([asdict(one) for one in _few(entries.values())], indent=1) + "\n")

    def _all(self) -> list[Spent]:
        try:
            said = json.loads(self.path.read_text(encoding="utf-8"))
            found = [Spent(**one) for one in said]
            if not isinstance(said, list) or not all(one.cost >= 0 for one in found):
                raise ValueError("it is not a list of costs")  # noqa: TRY301 - as every damage
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            raise OneflowerError(
                f"What this node has spent of its privacy budget cannot be read from {self.path}: {error}.",
                "Restore the file. The operator of the site may remove it, which begins with nothing spent.",
                ExitCode.ENVIRONMENT,
            ) from error
        return found


def _few(entries: Iterable[Spent]) -> list[Spent]:
    """Return the last runs as they are, and the older ones of each period together, so that the file stays small."""
    newest = sorted(entries, key=lambda one: (one.run != _EARLIER, one.last), reverse=True)
    older: dict[str, Spent] = {}
    for one in newest[_MOST:]:
        both = older.get(one.period, Spent(_EARLIER, one.period, 0.0, 0, one.first, one.last))
        older[one.period] = replace(
            both, cost=both.cost + one.cost, replies=both.replies + one.replies, first=min(both.first, one.first)
        )
    return [*newest[:_MOST], *older.values()]
