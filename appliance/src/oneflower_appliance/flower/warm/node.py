"""Warm execution in a SuperNode: its loop uses events instead of polls, and ends tasks that nobody waits for.

The loop does not sleep while there is something to do, and its tasks do not wait to be taken. If a ClientApp dies, its
message is answered at once. If a run ends, its ClientApp is ended.
"""

from __future__ import annotations

import functools
import logging
import time
from typing import TYPE_CHECKING, Any

from oneflower_appliance.flower import internals, places
from oneflower_appliance.flower.features import Feature
from oneflower_appliance.flower.nodeloop import UNFINISHED, answer_for
from oneflower_appliance.flower.warm.bundle_client import send_in_bundles
from oneflower_appliance.flower.warm.bundle_server import BundleServer
from oneflower_appliance.flower.warm.downloads import download_directly
from oneflower_appliance.flower.warm.kept import Kept, check_once
from oneflower_appliance.flower.warm.longpoll import LongPoll
from oneflower_appliance.flower.warm.pace import Pace
from oneflower_appliance.flower.warm.pulse import spare_heartbeats
from oneflower_appliance.flower.warm.questions import ACQUIRE_TASK
from oneflower_appliance.flower.warm.runwatch import BETWEEN_LOOKS, RunWatch
from oneflower_appliance.flower.warm.shortcuts import Shortcuts
from oneflower_appliance.flower.warm.waits import WAITS, ask_to_wait, replace_sleep
from oneflower_appliance.flower.warm.whole_client import note_store, send_whole_messages
from oneflower_appliance.flower.warm.whole_server import WholeServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower_appliance.flower.warm.program import SuperExecProgram
    from oneflower_appliance.flower.warm.pulse import Listener
    from oneflower_appliance.proxy import Proxy

log = logging.getLogger("flwr")


class WarmNode:
    """The loop of this process's SuperNode, with `superexec` as its SuperExec. It reaches its SuperLink by `proxy`.

    `listener` is told what the SuperLink says of this node.
    """

    def __init__(self, superexec: SuperExecProgram, listener: Listener, proxy: Proxy | None = None) -> None:
        self._superexec = superexec
        self._listener = listener
        self._proxy = proxy
        self._polls: list[LongPoll] = []
        self._state: Any = None
        self._run = 0
        self._kept = Kept()
        self._get_run: Callable[[int], Any] = lambda _run: None
        self._watched: RunWatch | None = None

    def start(self) -> None:
        """Change the loop, as far as the Flower installed here allows it."""
        self._superexec.replace_in(internals.node_loop())
        if places.have(Feature.HELD_QUESTIONS) and places.have(Feature.NODE_QUESTIONS):
            self._hold_questions()
            if places.have(Feature.SPARED_HEARTBEATS):
                spare_heartbeats(self._listener)
        if places.have(Feature.BUNDLES):
            pace = Pace()
            send_in_bundles(internals.node_loop(), kept=self._kept, pace=pace)
            check_once(self._kept)
            if places.have(Feature.WHOLE_MESSAGES):
                send_whole_messages(kept=self._kept, pace=pace)
                if places.have(Feature.WHOLE_REPLIES):
                    note_store(internals.node_loop())
            if places.have(Feature.DOWNLOADS):
                download_directly(self._proxy)
        if places.have(Feature.DEAD_CLIENTAPPS):
            self._answer_for_dead_clientapps()
        if places.have(Feature.END_WITH_RUN):
            self._end_with_run()

    def _hold_questions(self) -> None:
        loop, application = internals.node_loop(), internals.node_application()
        pull, create = loop._pull_and_store_message, application.create_app  # noqa: SLF001 - there is no other way in
        register = loop.register_signal_handlers
        ask_to_wait()
        replace_sleep(loop, WAITS.sleep)

        @functools.wraps(create)
        def create_app(*args: Any, **kwargs: Any) -> LongPoll:
            app: Any = Shortcuts(create(*args, **kwargs))
            if places.have(Feature.BUNDLES):
                app = BundleServer(app, kwargs["state_factory"])
                if places.have(Feature.WHOLE_MESSAGES):
                    app = WholeServer(app, kwargs["state_factory"])
            poll = LongPoll(app, on_change=WAITS.something_happened)
            self._polls.append(poll)
            return poll

        @functools.wraps(pull)
        def pulling(*, confirm_message_received: Callable[..., Any], **arguments: Any) -> int | None:
            def confirming(*args: Any) -> None:
                confirm_message_received(*args)
                self._kept.confirm()

            run_id: int | None = pull(confirm_message_received=confirming, **arguments)
            if run_id is None:
                self._kept.expire()
            # Its task was created before its content was there, so it is offered now.
            for poll in self._polls:
                poll.wake(ACQUIRE_TASK)
            return run_id

        @functools.wraps(register)
        def register_signal_handlers(**arguments: Any) -> None:
            register(**arguments, exit_handlers=[poll.close for poll in self._polls])

        application.create_app = create_app
        loop._pull_and_store_message = pulling  # noqa: SLF001
        loop.register_signal_handlers = register_signal_handlers

    def _answer_for_dead_clientapps(self) -> None:
        loop = internals.node_loop()
        pull = loop._pull_and_store_message  # noqa: SLF001

        @functools.wraps(pull)
        def pulling(**arguments: Any) -> int | None:
            self._state = arguments["state"]
            run_id: int | None = pull(**arguments)
            return run_id

        loop._pull_and_store_message = pulling  # noqa: SLF001
        self._superexec.tasks.on_death = self._died

    def _died(self, token: str, how: str) -> None:
        state = self._state
        if state is not None and (task := state.get_task_by_token(token)):
            state.finish_task(task.task_id, sub_status="failed", details=f"Its process {how}.")
            answer_for(state, {task.run_id}, how)
            WAITS.something_happened()

    def _end_with_run(self) -> None:
        loop = internals.node_loop()
        pull, push = loop._pull_and_store_message, loop._push_messages  # noqa: SLF001

        @functools.wraps(pull)
        def pulling(**arguments: Any) -> int | None:
            run_id: int | None = pull(**arguments)
            if run_id is not None:
                self._run, self._get_run = run_id, arguments["get_run"]
            return run_id

        @functools.wraps(push)
        def pushing(state: Any, **arguments: Any) -> None:
            ends = EndsWithRun(state, self._watch, self._superexec.tasks.end_all)
            try:
                push(state=ends, **arguments)
            finally:
                if self._watched:
                    self._watched.is_wanted = False

        loop._pull_and_store_message, loop._push_messages = pulling, pushing  # noqa: SLF001

    def _watch(self) -> RunWatch:
        """Return what watches the run that this node works for."""
        watch = self._watched
        if watch is None or watch.run != self._run or not (watch.is_alive or watch.has_ended):
            watch = self._watched = RunWatch(self._run, self._get_run)
        watch.is_wanted = True
        return watch


class EndsWithRun:
    """Flower's state, for the loop that waits for a reply: it does not wait for one that nobody needs any more."""

    def __init__(self, state: Any, watch: Callable[[], RunWatch], end_tasks: Callable[[], None]) -> None:
        self._state = state
        self._watch = watch
        self._end_tasks = end_tasks
        self._since = time.monotonic()

    def get_messages_legacy(self, **arguments: Any) -> Any:
        """Return what there is. If the run has ended, end its tasks and answer for them."""
        found = self._state.get_messages_legacy(**arguments)
        if not found and time.monotonic() - self._since > BETWEEN_LOOKS and (watch := self._watch()).has_ended:
            log.info("Run %d has ended; its tasks on this node are ended.", watch.run)
            for task in self._state.get_tasks(statuses=UNFINISHED):
                self._state.finish_task(task.task_id, sub_status="stopped", details="The run has ended.")
            self._end_tasks()
            answer_for(self._state, {watch.run}, "was ended with its run")
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)
