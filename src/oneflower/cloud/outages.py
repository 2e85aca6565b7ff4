"""Sends requests to a cloud's servers, and waits through short outages where somebody waits anyway."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from oneflower.cloud.refused import RefusedError, UnreachableError
from oneflower.events import Note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """How long to wait for a cloud, in seconds.

    `silence` is the limit without a single byte, `answer` that for a whole answer. `outage` is how long a cloud may be
    unreachable while something is waited for, and `pause` is the time between two attempts.
    """

    silence: float = 30
    answer: float = 60
    outage: float = 60
    pause: float = 1


USUAL = Limits()
DAEMON_REVIVED = Note("the local cloud had ended, and was started again.")


class Outages:
    """Sends requests, and retries while a server is away. `revive` may restart it; it returns whether it did."""

    def __init__(self, revive: Callable[[], bool], tell: Callable[[str], None], limits: Limits) -> None:
        self._revive = revive
        self._tell = tell
        self._limits = limits
        self._bearable = 0.0

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Within this block, wait through outages instead of failing at the first."""
        usual, self._bearable = self._bearable, self._limits.outage
        try:
            yield
        finally:
            self._bearable = usual

    def ask(self, question: Callable[[], T], *, again: bool) -> T:
        """Return what `question` returns. With `again` it may be repeated, even if the first request arrived."""
        since: float | None = None
        while True:
            try:
                answer = question()
            except (UnreachableError, RefusedError) as error:
                if isinstance(error, RefusedError) and not error.away:
                    raise
                asked = error.asked if isinstance(error, UnreachableError) else True
                revived = isinstance(error, UnreachableError) and self._revive()
                now = time.monotonic()
                if (asked and not again) or not (revived or self._bearable) or (since and now - since > self._bearable):
                    raise
                if since is None:
                    since = now
                    waiting = f"{error.message} Waiting up to {self._bearable:.0f} s for it."
                    self._tell(str(DAEMON_REVIVED if revived else Note(waiting)))
                time.sleep(0 if revived else self._limits.pause)
            else:
                if since is not None and self._bearable:
                    self._tell(str(Note(f"it answers again, after {time.monotonic() - since:.0f} s.")))
                return answer
