"""The last lines of a ServerApp's log, with Flower's own thread that sends them."""

from __future__ import annotations

import queue
import time

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.warm.last_lines import send_last_lines_at_once


class Client:
    def __init__(self):
        self.lines = []

    def PushLogs(self, request):  # noqa: N802 - its name in Flower
        self.lines += request.logs


def test_the_last_lines_are_sent_before_the_end_of_a_task_is_reported_and_without_a_pause(monkeypatch):
    task, client, lines = internals.serverapp_task(), Client(), queue.Queue()
    for owner, name in ((task, "start_log_uploader"), (task, "flush_logs"), (internals.flower_log(), "time")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    send_last_lines_at_once()
    sender = task.start_log_uploader(log_queue=lines, node_id=0, run_id=5, client=client)
    for number in range(100):
        lines.put(f"line {number}\n")
    began = time.monotonic()
    task.flush_logs(lines)
    assert client.lines == [f"line {number}\n" for number in range(100)]
    task.stop_log_uploader(lines, sender)
    assert time.monotonic() - began < 0.9, "Flower waits a second"
