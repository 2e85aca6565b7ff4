"""Whether the run that a SuperNode works for has ended: the SuperNode's side.

Its loop used to ask every two seconds. Here a thread asks, with a request that the SuperLink holds until the run has
ended (see `work`). There is at most one such thread for a run: a task after the next finds it there.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.warm.waits import WAITS

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("flwr")

BETWEEN_LOOKS = 2.0  # seconds between two questions, if the SuperLink does not hold them


class RunWatch:
    """Asks about a run while `is_wanted`."""

    def __init__(self, run: int, get_run: Callable[[int], Any]) -> None:
        self.run, self.has_ended, self.is_wanted = run, False, True
        self._get_run = get_run
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it still asks."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Return when it no longer asks."""
        self._thread.join()

    def _watch(self) -> None:
        ended = internals.run_errors().RunNotRunningException
        while self.is_wanted and not self.has_ended:
            held = False
            try:
                with WAITS.watching() as watching:
                    self._get_run(self.run)
                held = watching.held
            except ended:
                self.has_ended = True
                WAITS.something_happened()
            except Exception as error:  # noqa: BLE001 - any error: it does not mean that the run has ended
                log.debug("Whether run %d is still active is not known: %s", self.run, error)
            if not held and not self.has_ended:
                time.sleep(BETWEEN_LOOKS)
