"""Has the SuperExec continue in a fork of itself, so that another fork can take its place at once.

It does so when it is ready to look for tasks. The process that stays behind has come as far, shares nearly all of its
memory with the fork, and does nothing but wait for the end of it.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import time
from typing import TYPE_CHECKING

from oneflower_appliance.flower.superexec import ENDED, PAUSE
from oneflower_appliance.process import die_with_parent

if TYPE_CHECKING:
    from oneflower_appliance.flower.warm.watch import Reports

log = logging.getLogger("flwr")

_ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def continue_in_fork(reports: Reports) -> None:
    """Return in a fork of this process, which must have one thread. Whenever it ends, return in another one."""
    ours = {number: signal.getsignal(number) for number in _ENDS}
    for number in _ENDS:  # the process that stays behind has nothing to end but itself, and its fork ends with it
        signal.signal(number, signal.SIG_DFL)
    behind = os.getpid()
    gc.freeze()  # a garbage collection would touch, and so copy, all shared memory
    while True:
        started = time.monotonic()
        pid = os.fork()
        if not pid:
            die_with_parent(behind)
            for number, handler in ours.items():
                signal.signal(number, handler)
            return
        os.waitpid(pid, 0)
        log.warning(ENDED)
        reports.left()
        time.sleep(max(0.0, started + PAUSE - time.monotonic()))
