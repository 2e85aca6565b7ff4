"""What is changed in the loop of Flower's SuperNode, in its own process.

Corrections. The loop takes a message, waits for *a* reply, and sends it. When a run is stopped while a message of
it is being taken, Flower 1.41 drops the message but not its task: the reply to it is what the next message then waits
for, and from there on each reply is sent one message too late, so that a round waits for ever. And when a ClientApp
dies with a part of its reply handed over, the loop waits for the rest, for ever, too.

Warm execution: the loop does not sleep while there is something to do, and its tasks do not wait to be taken. The death
of a ClientApp is answered at once, and the ClientApp of a run that has ended is ended, too.
"""

from __future__ import annotations

import functools
import importlib
import logging
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower_appliance.flower.warm.superexec import WarmSuperExec

log = logging.getLogger("flwr")

_LOOP = "flwr.supernode.start_client_internal"
_UNFINISHED = ("pending", "starting", "running")
_BETWEEN_LOOKS = 2.0  # seconds after which it is asked whether the run of a task still goes on


def answer_in_turn() -> None:
    """Have the loop wait for the reply to the very message that it took, while there is somebody to give it."""
    loop: Any = importlib.import_module(_LOOP)
    pull, push = loop._pull_and_store_message, loop._push_messages  # noqa: SLF001 - there is no other way in
    taken: dict[str, Any] = {}

    @functools.wraps(pull)
    def pulling(state: Any, **arguments: Any) -> int | None:
        before = set(state.msg_store)
        run_id: int | None = pull(state=state, **arguments)
        taken.clear()
        taken.update({key: entry for key, entry in state.msg_store.items() if key not in before})
        return run_id

    @functools.wraps(push)
    def pushing(state: Any, object_store: Any, **arguments: Any) -> None:
        objects = _Objects(object_store, state)
        push(state=state, object_store=objects, **arguments)
        # A message is forgotten when its reply is sent.
        while taken.keys() & set(state.msg_store):
            push(state=state, object_store=objects, **arguments)
        if objects.gave_up:
            # What the SuperLink has of the reply is half of it, which this takes the place of.
            state.msg_store.update(taken)
            runs = {entry.message.metadata.run_id for entry in taken.values()}
            answer_for(state, runs, "died before it had handed over its whole reply")
            push(state=state, object_store=object_store, **arguments)

    loop._pull_and_store_message, loop._push_messages = pulling, pushing  # noqa: SLF001


def answer_for(state: Any, runs: set[int], how: str) -> None:
    """Answer the messages of `runs` that have no answer with an error: their ClientApp `how`."""
    nodestate = importlib.import_module("flwr.supernode.nodestate.in_memory_nodestate")
    error = importlib.import_module("flwr.app").Error
    reason = error(nodestate.CLIENT_APP_CRASHED_ERROR.code, f"The ClientApp of node {state.get_node_id()} {how}.")
    with state.lock_msg_store:
        for entry in state.msg_store.values():
            metadata = entry.message.metadata
            if metadata.run_id in runs and not metadata.reply_to_message_id:
                entry.is_retrieved = True  # Flower answers only what a ClientApp has seen
        state._store_error_replies(runs, reason)  # noqa: SLF001


class _Ending:
    """Flower's state, for the loop that waits for a reply: it does not wait for one that nobody wants any more."""

    def __init__(self, state: Any, run: int, get_run: Callable[[int], Any], end_tasks: Callable[[], None]) -> None:
        self._state = state
        self._run = run
        self._get_run = get_run
        self._end_tasks = end_tasks
        self._looked = time.monotonic()

    def get_messages_legacy(self, **arguments: Any) -> Any:
        found = self._state.get_messages_legacy(**arguments)
        if not found and time.monotonic() - self._looked > _BETWEEN_LOOKS and not self._goes_on():
            log.info("Run %d has ended; what this node did for it is ended, too.", self._run)
            for task in self._state.get_tasks(statuses=_UNFINISHED):
                self._state.finish_task(task.task_id, sub_status="stopped", details="The run has ended.")
            self._end_tasks()
            answer_for(self._state, {self._run}, "was ended with its run")
        return found

    def _goes_on(self) -> bool:
        self._looked = time.monotonic()
        ended: Any = importlib.import_module("flwr.supercore.run").RunNotRunningException
        try:
            self._get_run(self._run)
        except ended:
            return False
        except Exception as error:  # noqa: BLE001 - whatever it is, it does not say that the run has ended
            log.debug("Whether run %d goes on is not known: %s", self._run, error)
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)


class _Objects:
    """Flower's object store, for a reply: what will never come is not waited for."""

    def __init__(self, store: Any, state: Any) -> None:
        self._store = store
        self._state = state
        self.gave_up = False

    def get(self, object_id: str) -> bytes | None:
        # In this order: when no task is left, everything that was handed over is there.
        working = bool(self._state.get_tasks(statuses=_UNFINISHED))
        content: bytes | None = self._store.get(object_id)
        if content == b"" and not working:
            self.gave_up = True
            raise RuntimeError("the ClientApp died before it had handed over the whole reply")
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def run_warm(superexec: WarmSuperExec) -> None:
    """Have the loop work by events instead of polls, with `superexec` as its SuperExec."""
    from oneflower_appliance.flower.warm.longpoll import ACQUIRE_TASK, LongPoll  # noqa: PLC0415 - not needed by stock Flower
    from oneflower_appliance.flower.warm.shortcuts import Shortcuts  # noqa: PLC0415
    from oneflower_appliance.flower.warm.waits import WAITS, ask_to_wait, replace_sleep  # noqa: PLC0415

    ask_to_wait()
    replace_sleep(_LOOP, WAITS.sleep)
    superexec.replace_in(_LOOP)
    loop: Any = importlib.import_module(_LOOP)
    application: Any = importlib.import_module("flwr.supernode.main")
    create, register = application.create_app, loop.register_signal_handlers
    pull, push = loop._pull_and_store_message, loop._push_messages  # noqa: SLF001
    polls: list[LongPoll] = []
    current: dict[str, Any] = {}

    @functools.wraps(create)
    def create_app(*args: Any, **kwargs: Any) -> LongPoll:
        polls.append(LongPoll(Shortcuts(create(*args, **kwargs)), on_change=WAITS.something_happened))
        return polls[-1]

    def died(token: str, how: str) -> None:
        state = current.get("state")
        if state is not None and (task := state.get_task_by_token(token)):
            state.finish_task(task.task_id, sub_status="failed", details=f"Its process {how}.")
            answer_for(state, {task.run_id}, how)
            WAITS.something_happened()

    superexec.tasks.on_death = died

    @functools.wraps(pull)
    def pulling(**arguments: Any) -> int | None:
        current["state"] = arguments["state"]
        run_id: int | None = pull(**arguments)
        current.update(run=run_id, get_run=arguments["get_run"])
        # Its task was made before its content was there, so it is offered now.
        for poll in polls:
            poll.wake(ACQUIRE_TASK)
        return run_id

    @functools.wraps(push)
    def pushing(state: Any, **arguments: Any) -> None:
        push(state=_Ending(state, current["run"], current["get_run"], superexec.tasks.end_all), **arguments)

    @functools.wraps(register)
    def register_signal_handlers(**arguments: Any) -> None:
        register(**arguments, exit_handlers=[poll.close for poll in polls])

    application.create_app = create_app
    loop._pull_and_store_message, loop._push_messages = pulling, pushing  # noqa: SLF001
    loop.register_signal_handlers = register_signal_handlers
