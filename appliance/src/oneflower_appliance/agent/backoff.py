"""How long to wait between attempts, in one place."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Backoff:
    """Waiting times in seconds: `first`, growing by `factor` up to `cap`, each shortened by up to `jitter` of itself.

    Jitter keeps machines that booted together from sending requests at the same moments forever.
    """

    first: float = 0.2
    cap: float = 300.0
    factor: float = 2.0
    jitter: float = 0.3

    def delays(self) -> Iterator[float]:
        """Yield waiting times, endlessly."""
        delay = self.first
        while True:
            bounded = min(delay, self.cap)
            yield bounded * (1 - self.jitter * random.random())  # noqa: S311 - spreads load, protects nothing
            delay = min(delay * self.factor, self.cap)


@dataclass
class Patience:
    """How long a problem may last without a break, in seconds."""

    limit: float
    _since: float | None = field(default=None, init=False)

    def is_over(self, *, wrong: bool) -> bool:
        """Record whether the problem exists now. Returns whether it has lasted too long."""
        if not wrong:
            self._since = None
            return False
        self._since = self._since if self._since is not None else time.monotonic()
        return time.monotonic() - self._since >= self.limit
