"""What is different on a small machine at the edge of a network (FL_PROFILE=edge)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from oneflower_appliance.agent.backoff import Backoff
from oneflower_appliance.orders import PROFILE_VARIABLE
from oneflower_appliance.roles import EDGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oneflower_appliance.values import Settings

EDGE_MEMORY = 512  # megabytes that a small machine needs

# Each thread of a library for arrays has buffers of its own, and so has each thread of malloc's.
_FRUGAL = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}


def is_edge(settings: Settings) -> bool:
    """Return whether the machine is a small one."""
    return settings.text("FL_PROFILE") == EDGE


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment of Flower's processes."""
    return {PROFILE_VARIABLE: settings.text("FL_PROFILE"), **(_FRUGAL if is_edge(settings) else {})}


class Questions:
    """What the agent asks a SuperLink about its node. A small machine asks ever less often while it cannot be reached.

    Flower tries to reconnect by itself, with waits of at most 20 s, so the node is back no later. But each question of
    the agent's is a TLS handshake of its own, and its line may be slow, or paid for by the byte.
    """

    def __init__(self, settings: Settings) -> None:
        self._longest = float(settings.integer("FL_EDGE_MAX_BACKOFF")) if is_edge(settings) else 0.0
        self._answered()

    def _answered(self) -> None:
        self._not_before = 0.0
        self._waits: Iterator[float] = Backoff(first=min(10.0, self._longest), cap=self._longest).delays()

    def ask(self, question: Callable[[], bool], now: Callable[[], float] = time.monotonic) -> bool:
        """Return the answer. Raises `OSError` if there is none, and while it is too soon to ask again."""
        if now() < self._not_before:
            raise ConnectionError("The SuperLink could not be reached shortly before.")
        try:
            answer = question()
        except OSError:
            self._not_before = now() + next(self._waits)
            raise
        self._answered()
        return answer
