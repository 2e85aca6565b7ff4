"""The clocks of the local cloud. States change at once, as fast as in a real cloud, or only by hand."""

from __future__ import annotations

import heapq
import itertools
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class Pace(StrEnum):
    """How fast states change."""

    IMMEDIATE = "immediate"
    TIMED = "timed"
    STEPPED = "stepped"


@dataclass(frozen=True)
class Timing:
    """How long things take, in seconds.

    `boot` and `shutdown` are for machines without a guest; machines with a guest take their real time. `poll` is how
    often OneFlow checks the VMs that it waits for if no event comes; 0 means after every change. `autoscaler` is how
    often policies are evaluated.
    """

    boot: float = 0.0
    shutdown: float = 0.0
    poll: float = 0.0
    autoscaler: float = 1.0


# OneFlow's own defaults (wait_timeout, autoscaler_interval). The times of VMs were measured on a 7.4.0
# with dummy drivers.
REAL = Timing(boot=4.0, shutdown=2.0, poll=30.0, autoscaler=90.0)
TIMINGS = {Pace.IMMEDIATE: Timing(), Pace.TIMED: REAL, Pace.STEPPED: REAL}


class Clock(Protocol):
    """Gives the time, in seconds since the epoch, and calls back later."""

    def now(self) -> float:
        """Return the time."""

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` in so many seconds."""


class WallClock:
    """The time of day, on an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        """Return the time."""
        return time.time()

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` in so many seconds."""
        self._loop.call_later(seconds, callback)


class SteppedClock:
    """A time that stands still until it is advanced by hand."""

    def __init__(self, start: float | None = None) -> None:
        self._now = time.time() if start is None else start
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def now(self) -> float:
        """Return the time."""
        return self._now

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` when the time has advanced by that many seconds."""
        heapq.heappush(self._due, (self._now + seconds, next(self._order), callback))

    def advance(self, seconds: float) -> None:
        """Advance the time and call every callback that is due, in order."""
        until = self._now + seconds
        while self._due and self._due[0][0] <= until:
            self._now, _, callback = heapq.heappop(self._due)
            callback()
        self._now = until
