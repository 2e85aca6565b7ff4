"""The connections at one entrance, and their limits.

A connection is a stranger until it has shown who it is. The number of strangers is limited. If there are too many, the
oldest is dropped, so an attacker who opens idle connections displaces their own. Known connections are never displaced
by strangers.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp

_A_MOMENT = 1.0  # seconds that every stranger has to show who it is, however many others wait


@dataclass(eq=False)
class Visit:
    """A connection: its address, its server, how to end it, and who is known to be at its other end.

    `user` is the user of this machine whose process is there, where that was looked up.
    """

    address: str
    app: ASGIApp
    visits: Visits
    drop: Callable[[], object] = lambda: None
    who: str = ""
    user: str = ""
    since: float = field(default_factory=time.monotonic)

    @property
    def moment_left(self) -> float:
        """The seconds for which nobody may take its place."""
        return self.since + _A_MOMENT - time.monotonic()

    def know(self, who: str) -> None:
        """Record who is at the other end."""
        self.visits.know(self, who)


@dataclass(frozen=True)
class Limits:
    """Limits of connections: in total, of strangers, of strangers from one address, of one known client."""

    total: int
    strangers: int
    address: int
    known: int


class Visits:
    """The connections at one entrance: `strangers`, the number `known`, and all `of` each address or SuperNode."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # Dictionaries for their order: the oldest comes first.
        self.strangers: dict[Visit, None] = {}
        self.of: dict[str, dict[Visit, None]] = {}
        self.known = 0
        self._left = asyncio.Event()

    async def room(self) -> None:
        """Return when there is room for another stranger."""
        while self._is_full and (first := next(iter(self.strangers), None)) and (wait := first.moment_left) > 0:
            self._left.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), wait)

    @property
    def _is_full(self) -> bool:
        return len(self.strangers) >= min(self._limits.strangers, self._limits.total - self.known)

    def arrive(self, visit: Visit) -> bool:
        """Accept a stranger, and displace another one if necessary. Returns False if there is no place."""
        group = self.of.get(visit.address, {})
        for full, those in ((len(group) >= self._limits.address, group), (self._is_full, self.strangers)):
            first = next(iter(those), None)
            if full and (first is None or first.moment_left > 0):
                return False
            if full and first:
                self._end(first)
        self.strangers[visit] = None
        self.of.setdefault(visit.address, {})[visit] = None
        return True

    def know(self, visit: Visit, who: str) -> None:
        """Record who is at the other end of a connection."""
        if visit not in self.strangers:
            return
        self.leave(visit)
        visit.who = who
        self.known += 1
        group = self.of.setdefault(who, {})
        group[visit] = None
        if len(group) > self._limits.known:
            self._end(next(iter(group)))

    def leave(self, visit: Visit) -> None:
        """Forget a connection that has ended."""
        group = self.of.get(visit.who or visit.address, {})
        if visit not in group:
            return
        del group[visit]
        if not group:
            del self.of[visit.who or visit.address]
        if visit.who:
            self.known -= 1
        self.strangers.pop(visit, None)
        self._left.set()

    def _end(self, visit: Visit) -> None:
        self.leave(visit)
        visit.drop()
