"""How many bytes travel in one request: as many as a line carries in twenty seconds.

A request that takes minutes is lost as a whole when the line is cut, and its reply when Flower waits no longer for the
rest. On a fast line every request has a price of its own, so there a bundle is as large as it may be.
"""

from __future__ import annotations

from oneflower_appliance.flower.warm.bundles import PART

AIM = 20.0  # seconds for a request
SMALLEST, FIRST = 64 * 2**10, 2**20  # bytes; the second as long as nothing is known
_AT_ONCE = 0.001  # seconds: less cannot be measured


class Pace:
    """How many bytes the next request should have, by what the ones before took. At least one object travels anyway."""

    def __init__(self) -> None:
        self.size = FIRST

    def note(self, size: int, seconds: float) -> None:
        """Note that a request with so many bytes took so long."""
        fits = int(size * AIM / max(seconds, _AT_ONCE))
        if size < self.size // 2:  # most of its time was perhaps not that of its bytes
            fits = max(fits, self.size)
        self.size = min(max(fits, SMALLEST), PART)
