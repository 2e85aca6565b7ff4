"""A SuperNode's held request for messages counts as its heartbeat: the SuperNode's side.

A SuperNode that waits for a message has a request at its SuperLink nearly all the time, and sends heartbeats besides,
each over a new connection, because none is idle for so long. Here the request says that it counts as a heartbeat, and
the SuperLink says in its answer whether it does (see `heartbeats`). While such a request waits, none is sent besides.
If the SuperLink does not say so, as stock Flower, all heartbeats are sent.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

from oneflower_appliance.flower import internals

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

HEARTBEAT = "oneflower-heartbeat"  # in a request: the interval in seconds; in an answer, one of these:
RECORDED, TAKEN = "recorded", "taken"
_PULLS = ("/flwr.proto.Fleet/PullMessages", "/flwr.proto.Fleet/PullWholeMessages")
_PENDING = 30.0  # seconds after which a request for messages is no longer waiting, but lost


class Pulse:
    """What one client's requests for messages show. `on_heard` is told when a request was sent that was recorded."""

    def __init__(self, on_heard: Callable[[float], None]) -> None:
        self._on_heard = on_heard
        self._interval = str(internals.fleet_connection().HEARTBEAT_DEFAULT_INTERVAL)
        self._since: float | None = None  # when the request was sent that waits now
        self._counts = False

    @property
    def is_enough(self) -> bool:
        """Whether a request waits that counts as a heartbeat."""
        since = self._since
        return self._counts and since is not None and time.monotonic() - since < _PENDING

    def intercept(self, context: Any, call_next: Callable[[Any], httpx.Response]) -> httpx.Response:
        """Say that a request for messages counts as a heartbeat. Flower calls this around every request."""
        if context.rpc_method not in _PULLS:
            return call_next(context)
        context.request.headers[HEARTBEAT] = self._interval
        self._since = sent = time.monotonic()
        said = ""
        try:
            response = call_next(context)
            said = response.headers.get(HEARTBEAT, "") if response.is_success else ""
        finally:
            self._since, self._counts = None, bool(said)
        if said == RECORDED:
            self._on_heard(sent)
        return response


def spare_heartbeats(on_heard: Callable[[float], None] = lambda _: None) -> None:
    """Have every client of a SuperLink that this process creates from now on send no heartbeat beside such a request.

    `on_heard` is told when a request was sent, in seconds of the monotonic clock, once it is known to be recorded.
    """
    client: Any = internals.fleet_client()
    create, send = client.__init__, client.SendNodeHeartbeat
    success = functools.partial(internals.heartbeat_messages().SendNodeHeartbeatResponse, success=True)

    @functools.wraps(create)
    def __init__(self: Any, *args: Any, interceptors: Any = (), **kwargs: Any) -> None:  # noqa: N807
        self.pulse = Pulse(on_heard)
        create(self, *args, interceptors=(*interceptors, self.pulse), **kwargs)

    @functools.wraps(send)
    def send_heartbeat(self: Any, request: Any) -> Any:
        return success() if self.pulse.is_enough else send(self, request)

    client.__init__, client.SendNodeHeartbeat = __init__, send_heartbeat
