"""The connections at one entrance, and how many of them there may be.

Whoever connects is a stranger until it has shown who it is. Strangers are few, and when there are too many, the one
that came first has to go: so who fills the place with connections that say nothing drives out his own. Those who are
known are never driven out by strangers.
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

_A_MOMENT = 1.0  # seconds that every stranger has to show who it is, however many wait behind it


@dataclass(eq=False)
class Visit:
    """A connection: where it comes from, what it is served by, how to end it, and who is known to be at its end."""

    address: str
    app: ASGIApp
    visits: Visits
    drop: Callable[[], object] = lambda: None
    who: str = ""
    since: float = field(default_factory=time.monotonic)

    @property
    def moment_left(self) -> float:
        """For how many seconds more nobody may take its place."""
        return self.since + _A_MOMENT - time.monotonic()

    def know(self, who: str) -> None:
        """Note who is at the end of it."""
        self.visits.know(self, who)


@dataclass(frozen=True)
class Limits:
    """How many connections there may be: in all, of strangers, of one address's strangers, of one who is known."""

    total: int
    strangers: int
    address: int
    known: int


class Visits:
    """The connections at one entrance."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # Dictionaries for their order: who came first stands first.
        self._strangers: dict[Visit, None] = {}
        self._of: dict[str, dict[Visit, None]] = {}
        self._known = 0
        self._left = asyncio.Event()

    async def room(self) -> None:
        """Return when there is room for another stranger."""
        while self._is_full and (first := next(iter(self._strangers), None)) and (wait := first.moment_left) > 0:
            self._left.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), wait)

    @property
    def _is_full(self) -> bool:
        return len(self._strangers) >= min(self._limits.strangers, self._limits.total - self._known)

    def arrive(self, visit: Visit) -> bool:
        """Take in a stranger, in another's place if need be. Returns False where there is no place."""
        group = self._of.get(visit.address, {})
        for full, those in ((len(group) >= self._limits.address, group), (self._is_full, self._strangers)):
            first = next(iter(those), None)
            if full and (first is None or first.moment_left > 0):
                return False
            if full and first:
                self._end(first)
        self._strangers[visit] = None
        self._of.setdefault(visit.address, {})[visit] = None
        return True

    def know(self, visit: Visit, who: str) -> None:
        """Note who is at the end of a connection."""
        if visit not in self._strangers:
            return
        self.leave(visit)
        visit.who = who
        self._known += 1
        group = self._of.setdefault(who, {})
        group[visit] = None
        if len(group) > self._limits.known:
            self._end(next(iter(group)))

    def leave(self, visit: Visit) -> None:
        """Forget a connection that has ended."""
        group = self._of.get(visit.who or visit.address, {})
        if visit not in group:
            return
        del group[visit]
        if not group:
            del self._of[visit.who or visit.address]
        if visit.who:
            self._known -= 1
        self._strangers.pop(visit, None)
        self._left.set()

    def _end(self, visit: Visit) -> None:
        self.leave(visit)
        visit.drop()
