"""How much of a message is on its way at a time: requests of twenty seconds, two of them if the line is fast and long.

A request that takes minutes is lost as a whole when the line is cut, and its reply when Flower waits no longer for the
rest. On a fast line every request has a price of its own, so there a bundle is as large as it may be. With one request
after the other, a long line would be idle while an answer is on its way. On a short one, two would only cost more.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from oneflower_appliance.flower.warm.bundles import PART

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
R = TypeVar("R")

AIM = 20.0  # seconds for a request
SMALLEST, FIRST = 64 * 2**10, 2**20  # bytes; the second as long as nothing is known
LONG = 0.04  # seconds that the shortest request takes, there and back
_AT_ONCE = 0.001  # seconds: less cannot be measured


class Pace:
    """How many bytes the next request should have, by what the ones before took. At least one object travels anyway."""

    def __init__(self) -> None:
        self.size = FIRST
        self._shortest = float("inf")

    @property
    def overlaps(self) -> bool:
        """Whether to have two requests on their way at a time. On a slow line each would only take twice as long."""
        return self.size >= PART and LONG < self._shortest < AIM

    def note(self, size: int, seconds: float) -> None:
        """Note that a request with so many bytes took so long."""
        fits = int(size * AIM / max(seconds, _AT_ONCE))
        if size < self.size // 2:  # most of its time was perhaps not that of its bytes
            fits = max(fits, self.size)
        self.size = min(max(fits, SMALLEST), PART)
        self._shortest = min(self._shortest, seconds)


def two_at_a_time(do: Callable[[T], R], each: Iterable[T]) -> Iterator[R]:
    """Yield what `do` returns for each. The second one has begun when the first one ends."""
    with ThreadPoolExecutor(2) as lanes:
        under_way: deque[Future[R]] = deque()
        for one in each:
            under_way.append(lanes.submit(do, one))
            if len(under_way) > 1:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
