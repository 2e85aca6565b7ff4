"""An answer that is waited for no longer than so many seconds, and whose question an interrupt does not cut short."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Answer(Generic[T]):
    """What a call will have returned, made in a thread of its own as soon as somebody waits.

    The time-outs of sockets begin anew with every byte, so a server that sends one byte a second would hold its caller
    for ever. And an interrupt in the middle of a request leaves it open whether the other side acted on it: here only
    the waiting is interrupted, and can be taken up again.
    """

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._ended = threading.Event()
        self._found: list[T] = []
        self._error: BaseException | None = None
        self._asked = threading.Lock()  # taken for ever by the one thread that asks

    def _ask(self) -> None:
        if not self._asked.acquire(blocking=False):
            return
        try:
            self._found.append(self._call())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            self._error = error
        self._ended.set()

    def wait(self, seconds: float | None = None) -> T:
        """Return the answer, or raise what the call raised. Raises `TimeoutError` after so many seconds."""
        if not self._asked.locked():  # nobody has, or an interrupt met whoever was about to
            threading.Thread(target=self._ask, daemon=True).start()
        if not self._ended.wait(seconds):
            raise TimeoutError(f"no answer within {seconds:.0f} s")
        if self._error is not None:
            raise self._error
        return self._found[0]
