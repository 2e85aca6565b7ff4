"""Which runs wait for the approval of a site's operator: the SuperLink's side.

A SuperNode that holds a run says so in a header of its requests, every two seconds. It signed these requests, so the
name of the node is known; what it says of the app is its own word.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Callable

HEADER = "oneflower-holds"  # in a request of a SuperNode: the run that it holds, and its app
_AWHILE = 8.0  # seconds after which a node that says nothing more holds nothing
_LONGEST, _MOST = 300, 1024  # characters of the header, and nodes


class Waiters:
    """What nodes hold now, by their public keys in hexadecimal digits."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[str, tuple[str, str, float]] = {}

    def note(self, who: str, said: str) -> None:
        """Note what a node says that it holds."""
        run, _, quoted = said[:_LONGEST].partition(" ")
        app = unquote(quoted)
        if run.isascii() and run.isdecimal() and app.isprintable() and (who in self._held or len(self._held) < _MOST):
            self._held[who] = (run, app, self._clock())

    def holding(self, run: str) -> dict[str, str]:
        """Return the app of a run by the keys of the nodes that hold it."""
        now = self._clock()
        self._held = {who: held for who, held in self._held.items() if now - held[2] < _AWHILE}
        return {who: app for who, (number, app, _) in self._held.items() if number == run}
