"""Waits for requests that are held until they have an answer: the client's side.

Flower's loops send a request, and sleep when there is no news. Here they say how long they are ready to wait for the
answer (see `longpoll`), and do not sleep after a request that was held. If the server holds no requests, because it
runs stock Flower, they sleep as usual.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.interceptors import intercept_requests
from oneflower_appliance.flower.warm.headers import APPLIED, PREFER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PATIENCE = 15.0  # seconds
_PATIENCE_OF_NODES = 25.0  # seconds: the SuperLink answers these while nothing happens, and may have many nodes
_ACQUIRE_TASK = "/flwr.proto.Runtime/AcquireTask"
GET_RUN = "/flwr.proto.Fleet/GetRun"
_NODE_PULL = ("/flwr.proto.Fleet/PullMessages", "/flwr.proto.Fleet/PullWholeMessages")
_GRID_PULL = ("/flwr.proto.Runtime/PullMessages", "/flwr.proto.Runtime/PullWholeMessages")
_OBJECTS = tuple(
    f"/flwr.proto.{api}/{call}"
    for api in ("Fleet", "Runtime")
    for call in ("PullObject", "PullObjects", "PullSharedObjects")
)


class Watching(threading.local):
    """What this thread asks about its run: whether it waits for the end, and whether its last request was held."""

    wanted = False
    held = False


class Waits:
    """How the clients in this process wait."""

    def __init__(self) -> None:
        self._news = threading.Event()
        self._watching = Watching()
        self._grid = threading.local()  # the legacy API waits for each node in a thread of its own
        self._grid_is_held = True

    def intercept(self, context: Any, call_next: Callable[[Any], Any]) -> Any:
        """Say with a request how long it may be held. Flower calls this around every request."""
        method = context.rpc_method
        seconds = self._patience(method)
        if not seconds:
            return call_next(context)
        context.request.headers[PREFER] = f"wait={seconds:g}"
        response = call_next(context)
        held = APPLIED in response.headers
        if method in _GRID_PULL:
            self._grid_is_held = held
        elif method == GET_RUN:
            self._watching.held = held
        elif held and method not in _OBJECTS:
            self.something_happened()
        return response

    def _patience(self, method: str) -> float:
        if method in _GRID_PULL:
            seconds: float = getattr(self._grid, "patience", 0.0)
            self._grid.patience = 0.0
            return seconds
        if method in _NODE_PULL or (method == GET_RUN and self.watches):
            return _PATIENCE_OF_NODES
        return _PATIENCE if method in (_ACQUIRE_TASK, *_OBJECTS) else 0.0

    @property
    def watches(self) -> bool:
        """Whether this thread waits for the end of a run."""
        return self._watching.wanted

    @contextmanager
    def watching(self) -> Iterator[Watching]:
        """Let this thread's requests for a run wait for its end."""
        self._watching.wanted, self._watching.held = True, False
        try:
            yield self._watching
        finally:
            self._watching.wanted = False

    def something_happened(self) -> None:
        """End the current sleep, or the next one."""
        self._news.set()

    def sleep(self, seconds: float) -> None:
        """Sleep until something happens, at most `seconds`."""
        self._news.wait(seconds)
        self._news.clear()

    def sleep_of_the_grid(self, seconds: float) -> None:
        """Let the next request for replies be held for `seconds`, instead of sleeping before it.

        An app may ask for replies itself and expect an answer at once, so only a loop that would sleep waits.
        """
        if self._grid_is_held:
            self._grid.patience = seconds
        else:
            time.sleep(seconds)


WAITS = Waits()


class _Clock:
    """Stands for the module `time` in one of Flower's modules, with another sleep."""

    def __init__(self, sleep: Callable[[float], object]) -> None:
        self.sleep = sleep

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def ask_to_wait() -> None:
    """Make every client that this process creates from now on say how long it waits."""
    intercept_requests(internals.http_client(), lambda _: WAITS)


def replace_sleep(module: Any, sleep: Callable[[float], object]) -> None:
    """Replace the sleep of the loop in one of Flower's modules."""
    module.time = _Clock(sleep)
