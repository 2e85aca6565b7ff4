"""What a SuperNode decides by the policy of its site, in the audit log of its machine, once for each run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from oneflower_appliance.errors import OneflowerError

if TYPE_CHECKING:
    from oneflower_appliance.audit import AuditLog

log = logging.getLogger("flwr")

_MOST = 1024  # decisions that are remembered


class SiteRecord:
    """The decisions of one SuperNode. A decision that cannot be recorded is made all the same, and the log says so."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit
        self._known: dict[tuple[str, ...], None] = {}

    def note(self, action: str, outcome: str, run: int, **more: str) -> None:
        """Record a decision about a run, unless it is known."""
        decision = (action, outcome, str(run), *more.values())
        if decision in self._known:
            return
        self._known = dict.fromkeys([*self._known][1 - _MOST :]) | {decision: None}
        try:
            self._audit.write(action, outcome, run=str(run), **more)
        except OneflowerError as error:
            log.warning("A decision about run %d is not recorded: %s", run, error.sentence)
