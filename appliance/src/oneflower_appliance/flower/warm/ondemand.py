"""The SuperExec of a small machine (FL_PROFILE=edge): it is there only while there is work.

An idle SuperNode needs none, and it would occupy a quarter of the node's memory. So it is started when a message comes,
while the rest of the message is still on its way, and ended when none has come for a while.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from oneflower_appliance.flower.superexec import ENDED, PAUSE
from oneflower_appliance.flower.warm.program import SuperExecProgram

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

IDLE = 60.0  # seconds without a message: longer than the pauses between the rounds of most runs

log = logging.getLogger("flwr")


class OnDemandSuperExec(SuperExecProgram):
    """The SuperExec of this process's SuperNode."""

    def __init__(self, role: str, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(role)
        self._now = now
        self._wanted = threading.Event()
        self._idle_since: float | None = None

    def start(self, command: Sequence[str]) -> SuperExecProgram:
        """Run `command` from the next message on."""
        threading.Thread(target=self._look_after, args=(command,), name="superexec", daemon=True).start()
        return self

    def replace_in(self, loop: Any) -> None:
        """Make Flower's loop start this SuperExec, and watch there when messages come."""
        super().replace_in(loop)
        pull = loop._pull_and_store_message  # noqa: SLF001 - there is no other way in

        @functools.wraps(pull)
        def pulling(*, receive: Callable[[], Any], **arguments: Any) -> int | None:
            def receiving() -> Any:
                found = receive()
                if found is not None:
                    self._wanted.set()
                return found

            run_id: int | None = pull(receive=receiving, **arguments)
            self._note(works=run_id is not None)
            return run_id

        loop._pull_and_store_message = pulling  # noqa: SLF001

    def _note(self, *, works: bool) -> None:
        if works:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = self._now()
        elif self._wanted.is_set() and self._now() - self._idle_since > IDLE:
            self._wanted.clear()
            self.stop()

    def _look_after(self, command: Sequence[str]) -> None:
        while self._wanted.wait():
            self.run(command)
            self.pid = 0
            if self.ending.is_set():
                return
            if self._wanted.is_set():
                log.warning(ENDED)
                time.sleep(PAUSE)
