"""Holds a run whose app nobody at its site approved yet: the SuperNode's side.

The app is left in a folder, for the site's operator. Until they approve it, or for as long as the policy says, the
SuperNode keeps the message, looks for an approval, and asks whether the run has ended. These requests have a header
from which the SuperLink knows for whose approval the run waits (see `waiters`).
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from oneflower_appliance.approvals import Asks
from oneflower_appliance.flower import internals, places
from oneflower_appliance.flower.features import Feature
from oneflower_appliance.flower.interceptors import intercept_requests
from oneflower_appliance.flower.waiters import HEADER

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from oneflower_appliance.app_bundle import Bundle

log = logging.getLogger("flwr")

_LOOK, _ASK = 0.5, 2.0  # seconds between two looks for an approval, and two questions about the run
_MOST = 64  # runs that are remembered


class Holding:
    """What a SuperNode holds. A run is held for at most `seconds` together, however many messages it sends."""

    def __init__(self, folder: Path, seconds: int, wait: Callable[[float], object] = time.sleep) -> None:
        self.asks = Asks(folder)
        self._seconds = seconds
        self._wait = wait
        self._ends: dict[int, float] = {}  # when a run is held no longer, by the monotonic clock
        self._said = ""

    def tell(self) -> None:
        """Have the requests of this SuperNode say what it holds, if this Flower allows it."""
        if not places.have(Feature.TELL_HELD):
            return
        intercept_requests(internals.fleet_client(), lambda _: self)

    def intercept(self, context: Any, call_next: Callable[[Any], Any]) -> Any:
        """Add the header to a request. Flower calls this around every request."""
        if said := self._said:
            context.request.headers[HEADER] = said
        return call_next(context)

    def hold(self, bundle: Bundle, run: int, ask: Callable[[], object]) -> bool:
        """Wait until an app is approved. Returns whether it was. `ask` raises an error when its run has ended."""
        if bundle.content_hash in self.asks.approved():
            return True
        waiting, ended = self.asks.add(bundle, run), internals.run_errors().RunNotRunningException
        if run not in self._ends:
            self._ends = dict([*self._ends.items()][1 - _MOST :]) | {run: time.monotonic() + self._seconds}
            log.warning(
                "Run %d waits for the approval of this site: %s, content %s.", run, waiting.app, waiting.content
            )
        self._said = f"{run} {quote(waiting.app)}"
        asked = 0.0
        self.asks.hold(held=True)
        try:
            while waiting.content not in self.asks.approved():
                now = time.monotonic()
                if now >= self._ends[run]:
                    return False
                if now - asked > _ASK:
                    asked = now
                    try:
                        ask()
                    except ended:
                        return False
                    except Exception as error:  # noqa: BLE001 - any error: it does not mean that the run has ended
                        log.debug("Whether run %d is still active is not known: %s", run, error)
                self._wait(_LOOK)
        finally:
            self._said = ""
            self.asks.hold(held=False)
        self.asks.remove(waiting.content)
        return True
