"""Runs the calls of the Python API, which wait for a cloud, in threads: so many at once, and no more."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower.api import Cloud

T = TypeVar("T")
_AT_ONCE = 8


class Background:
    """The threads of the page. Each has a connection to the cloud of its own: a connection serves one thread."""

    def __init__(self, connect: Callable[[], Cloud]) -> None:
        self._connect = connect
        self._threads = ThreadPoolExecutor(_AT_ONCE, "look")
        self._own = threading.local()

    async def ask(self, call: Callable[[Cloud], T]) -> T:
        """Return what a short call answers."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: call(self.cloud()))

    def cloud(self) -> Cloud:
        """Return this thread's connection."""
        found: Cloud | None = getattr(self._own, "cloud", None)
        if found is None:
            found = self._own.cloud = self._connect()
        return found
