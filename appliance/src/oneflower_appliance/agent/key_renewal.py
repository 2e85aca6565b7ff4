"""When a SuperNode makes another key while its federation runs (FL_NODE_KEY_LIFETIME, `oneflower rotate`).

A key is due at half of its life. Flower knows a node by its key, so another key means another node id, and a node moves
from one to the other between two tasks only: it does so once it has had no task for a while, and from three quarters of
the life on whenever it has none. The nodes of a service do not move all at once: each waits for a share of a tenth of
the life more, which its key determines.

An operator's order makes a key due at once, but still between two tasks, and not for all nodes at once either. It
counts for keys that are older than it, and only once, whatever happens to the clocks.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from oneflower_appliance.files import write_atomic
from oneflower_appliance.formats import read_duration

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from oneflower_appliance.agent.node_key import NodeKey
    from oneflower_appliance.orders import NodeReport
    from oneflower_appliance.values import Settings

_SPREAD = 10.0  # seconds after an order within which the nodes make their keys
_QUIET = 60.0  # seconds without a task after which no run is expected to send one


class KeyRenewal:
    """Says when the key of a SuperNode is due. `clock` is the time of day in seconds, `monotonic` never goes back."""

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        given = settings.text("FL_NODE_KEY_LIFETIME")
        self._life = read_duration(given) if given else 0.0
        self._clock = clock
        self._monotonic = monotonic
        self._worked = -1.0
        self._quiet_since = 0.0

    def is_due(self, key: NodeKey | None, report: NodeReport | None) -> bool:
        """Whether the node has to make another key now. `key` is None where its key cannot be changed."""
        if key is None or report is None:
            return False
        now = self._monotonic()
        if report.working_since is not None or report.worked != self._worked:
            self._worked, self._quiet_since = report.worked, now
        if report.working_since is not None:
            return False
        made, share = key.path.stat().st_mtime, int(key.public.fingerprint[:4], 16) / 0xFFFF
        if report.key_order and made < report.key_order_given and report.key_order != _obeyed(key):
            return self._clock() - report.key_order_given >= _SPREAD * share
        age, share = self._clock() - made, 0.1 * share
        if not self._life or age < self._life * (0.5 + share):
            return False
        return now - self._quiet_since >= _QUIET or age >= self._life * (0.75 + share)


def obey(key: NodeKey, report: NodeReport) -> None:
    """Remember the order that a node hears, because it makes another key now. Raises `OneflowerError`."""
    if report.key_order:
        write_atomic(_order_file(key), report.key_order)


def _obeyed(key: NodeKey) -> str:
    with suppress(OSError, ValueError):
        return _order_file(key).read_text(encoding="ascii")
    return ""


def _order_file(key: NodeKey) -> Path:
    return key.path.with_name("node.key.order")
