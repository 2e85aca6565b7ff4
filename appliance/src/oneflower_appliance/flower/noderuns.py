"""Makes a SuperNode forget the runs that have ended, in its own process.

Flower's SuperNode keeps everything in memory: each run, its app (up to 10 MB), its tasks, its context, and the objects
that are left. So when a new run begins, it asks the SuperLink about the other runs that it knows, and forgets those
that no longer run.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.retention import uninstall

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("flwr")

_CONTEXTS = 20  # of series without a run here: a later run of a series continues from its context


def forget_what_has_ended() -> None:
    """Make the loop forget ended runs when a new one begins."""
    loop = internals.node_loop()
    pull = loop._pull_and_store_message  # noqa: SLF001 - there is no other way in

    @functools.wraps(pull)
    def pulling(state: Any, object_store: Any, get_run: Callable[[int], Any], **arguments: Any) -> int | None:
        known = list(state.run_store)
        run_id: int | None = pull(state=state, object_store=object_store, get_run=get_run, **arguments)
        if run_id is not None and run_id not in known:
            for number in known:
                if _has_ended(number, get_run):
                    _forget(state, object_store, number)
        return run_id

    loop._pull_and_store_message = pulling  # noqa: SLF001


def _has_ended(number: int, get_run: Callable[[int], Any]) -> bool:
    """Whether the SuperLink says that a run has ended or does not exist (403 for both)."""
    try:
        get_run(number)
    except internals.run_errors().RunNotRunningException:
        return True
    except Exception as error:  # noqa: BLE001 - any error: the next new run is another chance
        log.debug("Whether run %d has ended is not known: %s", number, error)
    return False


def _forget(state: Any, store: Any, number: int) -> None:
    with state.lock_msg_store:
        for key in [key for key, entry in state.msg_store.items() if entry.message.metadata.run_id == number]:
            del state.msg_store[key]
    store.delete_objects_in_run(number)
    with state.lock_run_store:
        run = state.run_store.pop(number)
        others = list(state.run_store.values())
    with state.lock_task_store:
        for task in [task for task, found in state.task_store.items() if found.run_id == number]:
            del state.task_store[task]
            state.task_logs.pop(task, None)
            if record := state.task_token_store.pop(task, None):
                state.task_token_to_task_id.pop(record.token, None)
    with state.lock_task_event_store:
        state.task_event_store.pop(number, None)
    if all(other.fab_hash != run.fab_hash for other in others):
        with state.lock_fab_store:
            state.fab_store.pop(run.fab_hash, None)
        uninstall(run.fab_hash)
    with state.lock_run_series_context_store:
        idle = [
            series for series in state.run_series_context_store if all(series != other.series_id for other in others)
        ]
        for series in idle[:-_CONTEXTS]:
            del state.run_series_context_store[series]
