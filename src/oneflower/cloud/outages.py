"""Asks a cloud's servers, and waits through their short outages where somebody waits anyway."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from oneflower.cloud.refused import RefusedError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """For how long, in seconds, a cloud is waited for.

    `silence` is without a single byte, `answer` for a whole answer. `outage` is how long a cloud may be away while
    something is waited for, and `pause` is between two tries.
    """

    silence: float = 30
    answer: float = 60
    outage: float = 60
    pause: float = 1


USUAL = Limits()


class Outages:
    """Asks, and asks again while a server is away. `revive` may start it again, and returns whether it did."""

    def __init__(self, revive: Callable[[], bool], tell: Callable[[str], None], limits: Limits) -> None:
        self._revive = revive
        self._tell = tell
        self._limits = limits
        self._bearable = 0.0

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Wait through outages in what is asked meanwhile, rather than give up at the first."""
        usual, self._bearable = self._bearable, self._limits.outage
        try:
            yield
        finally:
            self._bearable = usual

    def ask(self, question: Callable[[], T], *, again: bool) -> T:
        """Return what `question` returns. With `again` it may be asked twice, even if the first one got through."""
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
                    self._tell(
                        "Note: the local cloud had ended, and was started again."
                        if revived
                        else f"Note: {error.message} Waiting up to {self._bearable:.0f} s for it."
                    )
                time.sleep(0 if revived else self._limits.pause)
            else:
                if since is not None and self._bearable:
                    self._tell(f"Note: it answers again, after {time.monotonic() - since:.0f} s.")
                return answer
