"""Waits for what a call returns, for a limited time. An interrupt ends the waiting, not the call."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Answer(Generic[T]):
    """What a call returns. The call is made in its own thread, as soon as somebody waits.

    The time-outs of sockets start again with every byte, so a server that sends one byte per second could hold its
    caller forever. And an interrupt in the middle of a request would leave open whether the other side acted on it.
    Here an interrupt ends only the waiting, which can be continued.
    """

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._ended = threading.Event()
        self._found: list[T] = []
        self._error: BaseException | None = None
        self._asked = threading.Lock()  # held forever by the one thread that makes the call

    def _ask(self) -> None:
        if not self._asked.acquire(blocking=False):
            return
        try:
            self._found.append(self._call())
        except BaseException as error:  # noqa: BLE001 - raised again in `wait`
            self._error = error
        self._ended.set()

    def wait(self, seconds: float | None = None) -> T:
        """Return the answer, or raise what the call raised. Raises `TimeoutError` after `seconds`."""
        if not self._asked.locked():  # there is no call yet, or an interrupt stopped its thread before it began
            threading.Thread(target=self._ask, daemon=True).start()
        if not self._ended.wait(seconds):
            raise TimeoutError(f"no answer within {seconds:.0f} s")
        if self._error is not None:
            raise self._error
        return self._found[0]
