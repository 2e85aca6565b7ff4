"""How long to wait between tries, in one place."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Backoff:
    """Waiting times in seconds: `first`, growing by `factor` up to `cap`, each shortened by up to `jitter` of itself.

    Jitter keeps many machines that booted together from asking together for ever.
    """

    first: float = 0.2
    cap: float = 300.0
    factor: float = 2.0
    jitter: float = 0.3

    def delays(self) -> Iterator[float]:
        """Yield waiting times without end."""
        delay = self.first
        while True:
            bounded = min(delay, self.cap)
            yield bounded * (1 - self.jitter * random.random())  # noqa: S311 - spreads load, guards nothing
            delay = min(delay * self.factor, self.cap)
