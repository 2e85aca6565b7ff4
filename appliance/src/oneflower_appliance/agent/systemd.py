"""What the agent tells systemd: that it is not stuck, how it is, and how much a line of its log matters.

In the local cloud there is no systemd, and all of this does nothing.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from contextlib import suppress

_SLICE = 30.0  # well below WatchdogSec of the unit
_ERROR, _WARNING, _NOTICE, _INFO = 3, 4, 5, 6


def tell(*assignments: str) -> None:
    """Send lines like READY=1 to systemd (sd_notify)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    path = "\0" + address[1:] if address.startswith("@") else address
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.sendto("\n".join(assignments).encode(), path)


def alive() -> None:
    """Say that this process is not stuck. Otherwise systemd starts it again after a while (WatchdogSec)."""
    tell("WATCHDOG=1")


def stopping() -> None:
    """Say that this process is ending and needs more time. Otherwise systemd kills it after TimeoutStopSec."""
    tell("STOPPING=1", "WATCHDOG=1", f"EXTEND_TIMEOUT_USEC={_SLICE * 1e6:.0f}")


def rest(seconds: float) -> None:
    """Sleep, and keep telling systemd that this process is not stuck."""
    while seconds > 0:
        alive()
        time.sleep(min(seconds, _SLICE))
        seconds -= _SLICE


def under_journal() -> bool:
    """Whether standard error goes to systemd's journal."""
    return "JOURNAL_STREAM" in os.environ


class Prioritised(logging.Formatter):
    """Puts before each line how much it matters. An image shows notices on its console: what `own` modules say."""

    def __init__(self, inner: logging.Formatter, own: str | None) -> None:
        super().__init__()
        self._inner, self._own = inner, own

    def format(self, record: logging.LogRecord) -> str:
        """Return the line as the journal reads it."""
        return f"<{self._priority(record)}>{self._inner.format(record)}"

    def _priority(self, record: logging.LogRecord) -> int:
        if hasattr(record, "entry"):  # of Flower's processes: the agent says itself what a person must know
            return _INFO
        if record.levelno >= logging.ERROR:
            return _ERROR
        if record.levelno >= logging.WARNING:
            return _WARNING
        ours = self._own is not None and record.name.startswith(self._own)
        return _NOTICE if ours and record.levelno >= logging.INFO else _INFO
