"""Lets a SuperNode end what it has begun before it stops: the SuperNode's side.

Its agent asks for that with a signal. The node then tells its SuperLink that it is about to leave (`leaving`), and gets
no further messages. It ends its task, sends the reply, takes what was already there for it, and stops when nothing is
left. A message that was on its way at that moment still comes within two seconds. Nor does it stop before its run has
fetched the reply: Flower gives a run no reply of a node that is offline, even if it is there.
"""

from __future__ import annotations

import functools
import logging
import math
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from oneflower_appliance.flower import internals, places
from oneflower_appliance.flower.features import Feature
from oneflower_appliance.flower.interceptors import intercept_requests
from oneflower_appliance.flower.leaving import HEADER
from oneflower_appliance.orders import DRAIN

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

log = logging.getLogger("flwr")

_ON_THE_WAY = 2.0  # seconds after which a message has arrived that a run had sent before it knew
_FETCHED = 4.0  # seconds after a reply in which its run has fetched it: Flower asks every 3 s
_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  # seconds between two requests


class Draining:
    """Whether this process's SuperNode is about to leave. Must be made before anything else changes its client."""

    def __init__(self, stop: Callable[[], object] = lambda: signal.raise_signal(signal.SIGTERM)) -> None:
        self._stop = stop
        self._asked = False
        self._told: float | None = None
        self._took = False
        self._replied = -math.inf
        self._fleet: Any = None
        self._state: Any = None
        self._heartbeat: Any = getattr(internals.fleet_client(), "SendNodeHeartbeat", None)

    def start(self) -> None:
        """Obey the signal from now on, after everything else has changed the loop. Without the feature, stop at it."""
        if places.have(Feature.DRAINING):
            self._add_header()
            self._watch_loop()
            signal.signal(DRAIN, self._begin)
        else:
            signal.signal(DRAIN, lambda *_: self._stop())

    def intercept(self, context: Any, call_next: Callable[[Any], Any]) -> Any:
        """Add the header to a request. Flower calls this around every request."""
        if self._asked:
            context.request.headers[HEADER] = "1"
        return call_next(context)

    def _begin(self, _signal: int, _frame: FrameType | None) -> None:
        if not self._asked:
            self._asked = True
            log.info("This node is about to leave: it takes no further messages.")
            threading.Thread(target=self._tell, name="draining", daemon=True).start()

    def _tell(self) -> None:
        """Tell the SuperLink, however long it does not answer. It then answers a request that it holds."""
        pause = _PAUSE
        while self._told is None:
            try:
                self._send_heartbeat()
                self._told = time.monotonic()
            except Exception as error:  # noqa: BLE001 - any error: the next try may be better, and the agent's time is limited
                log.debug("The SuperLink does not know yet that this node leaves: %s", error)
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    def _send_heartbeat(self) -> None:
        request = internals.heartbeat_messages().SendNodeHeartbeatRequest(
            node={"node_id": self._state.get_node_id()},
            heartbeat_interval=internals.fleet_connection().HEARTBEAT_DEFAULT_INTERVAL,
        )
        self._heartbeat(self._fleet, request)

    def _add_header(self) -> None:
        def note(fleet: Any) -> Draining:
            self._fleet = fleet
            return self

        intercept_requests(internals.fleet_client(), note)

    def _watch_loop(self) -> None:
        loop = internals.node_loop()
        pull = loop._pull_and_store_message  # noqa: SLF001 - there is no other way in

        @functools.wraps(pull)
        def pulling(**arguments: Any) -> int | None:
            self._state, told = arguments["state"], self._told
            if self._took:
                self._replied = time.monotonic()
            run_id: int | None = pull(**arguments)
            self._took = run_id is not None
            if run_id is None and self._asked:
                now = time.monotonic()
                if told is not None and now - told > _ON_THE_WAY and now - self._replied > _FETCHED:
                    self._stop()
                time.sleep(_PAUSE)
            return run_id

        loop._pull_and_store_message = pulling  # noqa: SLF001
