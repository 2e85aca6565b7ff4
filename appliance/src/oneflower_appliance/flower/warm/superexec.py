"""The warm SuperExec: Flower's own, in a process that forks for each task and has imported what tasks need.

It is forked from the SuperLink's or SuperNode's process while that still has one thread, so the two share the memory of
their imports. When it is ready to look for tasks, it continues in a fork of itself (`standby`), which is replaced at
once if it dies. If the process behind it dies too, it is started as a separate program. Running tasks continue.

usage: python -m oneflower_appliance.flower.warm.superexec ROLE --parent PID --reports FD
       (its command: JSON, on standard input)
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import sys
import threading
import time
from typing import IO, TYPE_CHECKING

from oneflower_appliance.flower import internals, places
from oneflower_appliance.flower.ca_following import follow_ca
from oneflower_appliance.flower.features import Feature
from oneflower_appliance.flower.json_output import write_json
from oneflower_appliance.flower.profile import is_edge
from oneflower_appliance.flower.spare import put_off_databases
from oneflower_appliance.flower.superexec import COMMAND, ENDED, PAUSE
from oneflower_appliance.flower.warm.program import SuperExecProgram, tell
from oneflower_appliance.flower.warm.standby import continue_in_fork
from oneflower_appliance.flower.warm.tasks import TaskExecutor, alone, finish
from oneflower_appliance.flower.warm.waits import WAITS, ask_to_wait, replace_sleep
from oneflower_appliance.flower.warm.watch import Reports
from oneflower_appliance.process import die_with_parent, name_process
from oneflower_appliance.roles import ROLES

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger("flwr")


class WarmSuperExec(SuperExecProgram):
    """The SuperExec of this process's SuperLink or SuperNode. Must be created while this process has one thread."""

    def __init__(self, role: str) -> None:
        super().__init__(role)
        gc.collect()
        gc.freeze()  # a garbage collection would touch, and so copy, all shared memory
        self._waiting = _Waiting(role)
        self.pid = self._waiting.pid

    def start(self, command: Sequence[str]) -> SuperExecProgram:
        """Make the waiting process run `command`, and watch it from now on."""
        self.tasks.listen(self._waiting.hearing)
        tell(self._waiting.orders, command)
        threading.Thread(target=self._look_after, args=(command,), name="superexec", daemon=True).start()
        return self

    def _look_after(self, command: Sequence[str]) -> None:
        os.waitpid(self.pid, 0)
        while not self.ending.is_set():
            log.warning(ENDED)
            time.sleep(PAUSE)
            self.run(command)


class _Waiting:
    """A fork of this process that waits for the command that makes it the SuperExec."""

    def __init__(self, role: str) -> None:
        parent = os.getpid()
        reading, writing = os.pipe()
        self.hearing, telling = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(writing)
            os.close(self.hearing)
            finish(lambda: _be_superexec(role, parent, os.fdopen(reading), Reports(telling)))
        os.close(reading)
        os.close(telling)
        self.orders: IO[str] = os.fdopen(writing, "w")


def _be_superexec(role: str, parent: int, orders: IO[str], reports: Reports) -> None:
    """Wait for the command and be the SuperExec."""
    die_with_parent(parent)
    write_json(COMMAND)
    run, flower = internals.superexec_loop(), internals.superexec_command()
    make_stock = run.get_executor
    # The kernel ends this process with its parent, so it needs no second thread and may fork.
    run.start_parent_process_monitor = lambda _pid: None
    if places.have(Feature.HELD_QUESTIONS):
        ask_to_wait()
        replace_sleep(run, WAITS.sleep)

    def on_ready() -> None:
        if not is_edge() and alone():
            continue_in_fork(reports)
        name_process(COMMAND)

    run.get_executor = lambda *args, **kwargs: TaskExecutor(
        make_stock(*args, **kwargs), role, parent, reports, on_ready
    )
    if line := orders.readline():
        sys.argv = json.loads(line)
        flower.flower_superexec()


def main() -> None:
    """Be the SuperExec, as a separate program."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--parent", type=int, required=True, help="end when this process ends")
    parser.add_argument("--reports", type=int, required=True, help="the pipe for reports about tasks")
    options = parser.parse_args()
    os.set_inheritable(options.reports, False)
    put_off_databases()
    follow_ca()
    _be_superexec(options.role, options.parent, sys.stdin, Reports(options.reports))


if __name__ == "__main__":
    main()
