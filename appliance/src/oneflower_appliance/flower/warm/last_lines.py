"""Sends the last lines of a ServerApp's log without a pause.

When a ServerApp has ended, Flower waits until the thread that sends its log has taken every line, and then a second
longer, in which that thread may send them. Here the thread is asked to send what is left and to end.
"""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.warm.waits import replace_sleep

if TYPE_CHECKING:
    from queue import Queue

_PATIENCE = 3.0  # seconds, as Flower has


def send_last_lines_at_once() -> None:
    """Make the ServerApp of this process do so."""
    task = internals.serverapp_task()
    start = task.start_log_uploader
    over = threading.Event()
    senders: list[threading.Thread] = []

    @functools.wraps(start)
    def start_log_uploader(**arguments: Any) -> threading.Thread:
        sender: threading.Thread = start(**arguments)
        senders.append(sender)
        return sender

    @functools.wraps(task.flush_logs)
    def flush_logs(log_queue: Queue[str | None]) -> None:
        log_queue.put(None)  # the end, for the thread
        over.set()
        for sender in senders:
            sender.join(_PATIENCE)

    replace_sleep(internals.flower_log(), over.wait)  # between two requests
    task.start_log_uploader = start_log_uploader
    task.flush_logs = flush_logs
