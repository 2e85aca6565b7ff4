"""A SuperNode's held request counts as its heartbeat: the SuperNode's side.

A SuperNode that waits for a message, or for the end of its run, has a request at its SuperLink nearly all the time. It
sent heartbeats besides, each over a new connection, because none is idle for so long. Here the request says that it
counts as a heartbeat, and the SuperLink says in its answer whether it does (see `heartbeats`). While such a request
waits, none is sent besides. If the SuperLink does not say so, as stock Flower, all heartbeats are sent.
"""

from __future__ import annotations

import functools
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.interceptors import intercept_requests
from oneflower_appliance.flower.warm.headers import HEARTBEAT, RECORDED, STUCK, WORK
from oneflower_appliance.flower.warm.waits import GET_RUN, WAITS

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

_PULLS = ("/flwr.proto.Fleet/PullMessages", "/flwr.proto.Fleet/PullWholeMessages")
_HELD = 1.0  # seconds after which a request has not been answered at once, so that it is held and recorded
_PENDING = 30.0  # seconds after which a request is no longer held, but lost


class Listener(Protocol):
    """Is told what a SuperNode's held requests show."""

    def note_heard(self, sent: float) -> None:
        """A request was sent, at this time of the monotonic clock, that the SuperLink recorded as a heartbeat."""

    def note_watched(self, *, watched: bool) -> None:
        """The SuperLink looks whether the node's round has ended, or does so no longer."""

    def note_stuck(self) -> None:
        """The node's round has ended."""


class Pulse:
    """What one client's held requests show."""

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener
        self._interval = str(internals.fleet_connection().HEARTBEAT_DEFAULT_INTERVAL)
        self._since: dict[int, float] = {}  # when each thread's request was sent that waits now
        self._counts = False

    @property
    def is_enough(self) -> bool:
        """Whether a request is held that counts as a heartbeat."""
        now = time.monotonic()
        return self._counts and any(_HELD < now - since < _PENDING for since in list(self._since.values()))

    def intercept(self, context: Any, call_next: Callable[[Any], httpx.Response]) -> httpx.Response:
        """Say that a held request counts as a heartbeat. Flower calls this around every request."""
        watches = context.rpc_method == GET_RUN and WAITS.watches
        if context.rpc_method not in _PULLS and not watches:
            return call_next(context)
        context.request.headers[HEARTBEAT] = self._interval
        said, work, thread = "", "", threading.get_ident()
        if watches and self._listener:
            self._listener.note_watched(watched=self._counts)
        self._since[thread] = sent = time.monotonic()
        try:
            response = call_next(context)
            if response.is_success:
                said, work = (response.headers.get(name, "") for name in (HEARTBEAT, WORK))
        finally:
            del self._since[thread]
            self._counts = bool(said)
            self._tell(sent, said, work, watches=watches)
        return response

    def _tell(self, sent: float, said: str, work: str, *, watches: bool) -> None:
        if self._listener is None:
            return
        if said == RECORDED:
            self._listener.note_heard(sent)
        if watches:
            self._listener.note_watched(watched=False)
        if work == STUCK:
            self._listener.note_stuck()


def spare_heartbeats(listener: Listener | None = None) -> None:
    """Have the clients that this process creates from now on send no heartbeat beside a request that counts as one."""
    client: Any = internals.fleet_client()
    send = client.SendNodeHeartbeat
    success = functools.partial(internals.heartbeat_messages().SendNodeHeartbeatResponse, success=True)

    def pulse_of(self: Any) -> Pulse:
        self.pulse = pulse = Pulse(listener)
        return pulse

    @functools.wraps(send)
    def send_heartbeat(self: Any, request: Any) -> Any:
        return success() if self.pulse.is_enough else send(self, request)

    intercept_requests(client, pulse_of)
    client.SendNodeHeartbeat = send_heartbeat
