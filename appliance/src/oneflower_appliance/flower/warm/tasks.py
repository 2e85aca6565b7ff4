"""Runs tasks in processes that need no imports: Flower's executor interface, with forks or waiting workers.

Every task has its own process, as with stock Flower. The process begins with the imports of its parent, which has never
run an app, and ends with its task. A framework that does not survive a fork gets workers instead: processes that were
started, and have imported it, before there is a task for them.

usage: python -m oneflower_appliance.flower.warm.tasks ROLE     (the task, in JSON, on standard input)
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import dataclasses
import functools
import gc
import json
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from oneflower_appliance.flower import clientapp, internals, places, serverapp
from oneflower_appliance.flower.ca_following import follow_ca
from oneflower_appliance.flower.confinement import confine
from oneflower_appliance.flower.features import Feature
from oneflower_appliance.flower.json_output import is_json, write_json
from oneflower_appliance.flower.profile import is_edge
from oneflower_appliance.flower.spare import put_off_databases
from oneflower_appliance.flower.warm import whole_client
from oneflower_appliance.flower.warm.ahead import OnDemand, framework_here, preload
from oneflower_appliance.flower.warm.arrays import copy_arrays_once
from oneflower_appliance.flower.warm.bundle_client import send_in_bundles
from oneflower_appliance.flower.warm.last_lines import send_last_lines_at_once
from oneflower_appliance.flower.warm.waits import WAITS, ask_to_wait, replace_sleep
from oneflower_appliance.flower.warm.watch import DONE, Reports
from oneflower_appliance.flower.workplace import clientapp_is_installed_once
from oneflower_appliance.orders import RUNS_VARIABLE
from oneflower_appliance.process import name_process
from oneflower_appliance.roles import NODES

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("flwr")

# What a task does, by Flower's type of task.
COMMANDS = {"flwr-clientapp": clientapp.main, "flwr-serverapp": serverapp.main}
_PR_SET_DUMPABLE = 4
_PATIENCE = 1.0  # seconds


class Launcher(Protocol):
    """A way to start a task's process. `on_demand` may be imported while there is no task."""

    on_demand: OnDemand

    def launch(self, order: dict[str, Any]) -> None:
        """Start a process for the task that `order` describes. Raises `OSError` if that fails."""

    def reap(self) -> None:
        """Forget the processes that have ended, and report how. May interrupt itself, as a signal handler."""

    @property
    def busy(self) -> bool:
        """Whether a task is running."""


class TaskExecutor:
    """Flower's executor interface. Tasks that are not of an app, or cannot be started warm, go to `stock`.

    `on_ready` is called before the first task is looked for.
    """

    def __init__(
        self, stock: Any, role: str, parent: int, reports: Reports, on_ready: Callable[[], None] = lambda: None
    ) -> None:
        self._stock = stock
        self._on_ready: Callable[[], None] | None = on_ready
        self._role = role
        self._parent = parent
        self._reports = reports

    @functools.cached_property
    def launcher(self) -> Launcher:
        """Set at the first task, so a node that never trains has no framework in memory."""
        found = launcher(self._role, self._reports)
        # A task's end is noticed at once, even while this process waits for the next task.
        signal.signal(signal.SIGCHLD, lambda *_: found.reap())
        return found

    def launch(self, spec: Any) -> Any:
        """Start the process of a task."""
        # Tasks end with the SuperLink or SuperNode, not with this process, which is started again when it dies.
        order = dataclasses.asdict(spec) | {"parent_pid": self._parent}
        if spec.task_type not in COMMANDS or spec.runtime_dependency_install:
            return self._stock.launch(spec)
        try:
            self.launcher.launch(order)
        except OSError as error:
            log.warning("A task is started as stock Flower does, because a warm start failed: %s", error)
            return self._stock.launch(spec)
        return internals.launch_result().accepted()

    def reconcile(self) -> None:
        """Do what is due between tasks, and before the first."""
        if self._on_ready:
            on_ready, self._on_ready = self._on_ready, None
            on_ready()
        if "launcher" in vars(self):
            self.launcher.reap()
            if not self.launcher.busy:
                self.launcher.on_demand.import_if_needed()
        self._stock.reconcile()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)


def launcher(role: str, reports: Reports) -> Launcher:
    """Import what tasks of a role need, and return how to start them."""
    framework = framework_here()
    if framework is None or not framework.threaded:
        before = set(_others())
        preload(role)
        if not set(_others()) - before:
            return Fork(reports, OnDemand.of(role))
    log.info("Tasks run in workers that wait for them: what they import does not survive a fork.")
    return Workers(role, reports)


def _others() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread is not threading.current_thread()]


def alone() -> bool:
    """Whether this thread is the only one of its process. Waits a moment for others to end."""
    for thread in _others():
        thread.join(_PATIENCE)  # Flower's own for telemetry: gone in a moment
    return not _others()


class Fork:
    """A fork of this process for each task."""

    def __init__(self, reports: Reports, on_demand: OnDemand | None = None) -> None:
        self._reports = reports
        self.on_demand = on_demand or OnDemand(())
        self.running: set[int] = set()

    def launch(self, order: dict[str, Any]) -> None:
        """Fork, and do the task in the child."""
        self.on_demand.import_if_needed()
        if not alone():
            raise OSError(f"a fork beside the thread {_others()[0].name} may hang")
        gc.freeze()  # so that a garbage collection in the child does not touch, and so copy, shared memory
        pid = os.fork()
        if not pid:
            os.close(self._reports.pipe)  # whose end is the SuperExec's
            finish(lambda: self._do(order), DONE)
        self._reports.began(pid, order["token"])
        self.running.add(pid)

    def _do(self, order: dict[str, Any]) -> None:
        try:
            _do(order)
        finally:
            self.on_demand.note()

    @property
    def busy(self) -> bool:
        """Whether a task is running."""
        return bool(self.running)

    def reap(self) -> None:
        """Forget the tasks that have ended; report how they did."""
        for pid in list(self.running):
            with contextlib.suppress(ChildProcessError):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    self.running.discard(pid)
                    self._reports.ended(pid, os.waitstatus_to_exitcode(status))


class Workers:
    """A worker for each task, started in advance. `waiting` is the worker for the next task."""

    def __init__(self, role: str, reports: Reports) -> None:
        self._role = role
        self._reports = reports
        self.on_demand = OnDemand(())  # they have imported everything
        self.running: list[subprocess.Popen[str]] = []
        self.waiting: subprocess.Popen[str] | None = None

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-m", __name__, self._role]
        return subprocess.Popen(command, stdin=subprocess.PIPE, text=True)

    def launch(self, order: dict[str, Any]) -> None:
        """Give the task to the waiting worker, and start the next worker."""
        waiting = self.waiting is not None and self.waiting.poll() is None
        worker = self.waiting if self.waiting and waiting else self._start()
        self.waiting = None if is_edge() else self._start()
        assert worker.stdin is not None  # noqa: S101 - it is a pipe
        with worker.stdin as stream:
            stream.write(json.dumps(order) + "\n")
        self._reports.began(worker.pid, order["token"])
        self.running.append(worker)

    @property
    def busy(self) -> bool:
        """Whether a task is running."""
        return bool(self.running)

    def reap(self) -> None:
        """Forget the tasks that have ended; report how they did."""
        for worker in list(self.running):
            if worker.poll() is not None and worker in self.running:
                self.running.remove(worker)
                self._reports.ended(worker.pid, worker.returncode)


def finish(work: Callable[[], None], done: int = 0) -> NoReturn:
    """Do `work` and end this forked process as an interpreter ends, without tearing down what it shares.

    Its exit status is `done` if `work` completed.
    """
    status = done
    try:
        work()
    except SystemExit as ending:
        status = (ending.code if isinstance(ending.code, int) else int(ending.code is not None)) or done
    except BaseException:  # noqa: BLE001 - this is where a process ends
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - waits for an app's threads
    atexit._run_exitfuncs()  # noqa: SLF001
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _do(order: dict[str, Any]) -> None:
    """Do a task in this new process."""
    kind = order["task_type"]
    _part_from_parent()
    name_process(kind)
    write_json(kind)
    if order["suppress_output"] and not is_json():  # of a ServerApp: its run has it. As JSON, each line names its run
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    constants = internals.core_constants()
    sys.argv = [
        constants.TASK_TYPE_TO_COMMAND[kind],
        constants.TASK_TYPE_TO_APPIO_API_ADDRESS_ARG[kind], order["runtime_api_address"],
        "--token", order["token"],
        "--parent-pid", str(order["parent_pid"]),
    ]  # fmt: skip
    if order["insecure"]:
        sys.argv.append("--insecure")
    elif order["root_certificates_path"]:
        sys.argv += ["--root-certificates", order["root_certificates_path"]]
    _save_time(kind)
    COMMANDS[kind]()


def _save_time(kind: str) -> None:
    """Replace what of Flower is slow in a task of this kind."""
    server = kind == "flwr-serverapp"
    if server and places.have(Feature.HELD_QUESTIONS):
        replace_sleep(internals.grid(), WAITS.sleep_of_the_grid)
    if server and places.have(Feature.LAST_LINES):
        send_last_lines_at_once()
    if places.have(Feature.BUNDLES):
        if server:
            place = _place_of_replies()
            send_in_bundles(internals.inflatables(), internals.grid(), place=place)
        else:
            place = _place_of_messages()
            send_in_bundles(internals.inflatables(), place=place)
        if places.have(Feature.WHOLE_MESSAGES):
            _send_whole(place, server=server)
    if not server and os.environ.get(RUNS_VARIABLE) and places.have(Feature.INSTALLED_ONCE):
        clientapp_is_installed_once()
    if places.have(Feature.ARRAYS):
        copy_arrays_once()


def _send_whole(place: Callable[[], dict[str, bytes]], *, server: bool) -> None:
    whole_client.send_whole_messages(place=place)
    if server and places.have(Feature.WHOLE_FROM_SERVERAPP):
        whole_client.note_messages(internals.grid(), whole_client.SMALL)
    if not server and places.have(Feature.WHOLE_FROM_CLIENTAPP):
        whole_client.note_messages(internals.clientapp_task())


def _place_of_replies() -> Callable[[], dict[str, bytes]]:
    """Return what makes a place for a reply that a ServerApp fetches: in a file, if that is possible."""
    folder = os.environ.get(RUNS_VARIABLE)
    if not folder or not places.have(Feature.REPLIES_IN_FILES):
        return dict
    from oneflower_appliance.flower.warm.replies import keep_replies_in_files  # noqa: PLC0415 - imports Flower

    return keep_replies_in_files(Path(folder))


def _place_of_messages() -> Callable[[], dict[str, bytes]]:
    """Return what makes a place for the message that a ClientApp fetches: where it came, if that is possible."""
    if not places.have(Feature.ARRAYS_IN_PLACE):
        return dict
    from oneflower_appliance.flower.warm.contents import Contents, inflate_in_place  # noqa: PLC0415 - imports Flower

    inflate_in_place(internals.inflatables())
    return Contents


def _part_from_parent() -> None:
    """Give up what belongs to the parent: its connections, exit handlers and random numbers."""
    for number in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        with contextlib.suppress(OSError):
            if number > sys.stderr.fileno() and stat.S_ISSOCK(os.fstat(number).st_mode):
                os.close(number)
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # a SuperExec switches this off; a new program has it on
    internals.exit_handlers().registered_exit_handlers.clear()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()


def main() -> None:
    """Be a worker: import what tasks need, and do the one that comes."""
    role = sys.argv[1]
    if role == NODES:
        confine()  # while it has one thread
    put_off_databases()
    follow_ca()
    if places.have(Feature.HELD_QUESTIONS):
        ask_to_wait()
    preload(role)
    if line := sys.stdin.readline():
        finish(lambda: _do(json.loads(line)), DONE)


if __name__ == "__main__":
    main()
