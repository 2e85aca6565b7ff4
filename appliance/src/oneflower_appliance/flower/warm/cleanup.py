"""How often a SuperLink looks for tasks without a heartbeat."""

from __future__ import annotations

import functools
import time
from typing import Any

from oneflower_appliance.flower import internals


def limit_task_cleanup() -> None:
    """Make Flower look for tasks without a heartbeat once a second, not with every request.

    The look is a write transaction, so requests would wait for each other, and a round has tens of requests. A task has
    30 s between heartbeats.
    """
    core = internals.core_state()
    original = core._cleanup_expired_task_tokens  # noqa: SLF001 - there is no other way in
    looked = -1.0

    @functools.wraps(original)
    def look(self: Any) -> None:
        nonlocal looked
        if time.monotonic() - looked >= 1:
            looked = time.monotonic()
            original(self)

    core._cleanup_expired_task_tokens = look  # type: ignore[method-assign]  # noqa: SLF001
