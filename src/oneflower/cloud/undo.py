"""Takes back what was done so far, when a later step fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower_appliance.errors import OneflowerError

if TYPE_CHECKING:
    from collections.abc import Callable


class Undo:
    """What was done, in order, each with how to take it back."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify = notify
        self._done: list[tuple[str, bool, Callable[[], None]]] = []

    def created(self, what: str, remove: Callable[[], None]) -> None:
        """Note that something was created."""
        self._done.append((what, True, remove))

    def changed(self, what: str, restore: Callable[[], None]) -> None:
        """Note that something was changed."""
        self._done.append((what, False, restore))

    def all(self) -> None:
        """Take back everything, the last first. What cannot be taken back is named."""
        while self._done:
            what, created, take_back = self._done.pop()
            try:
                take_back()
            except OneflowerError as error:
                self._notify(
                    f"left behind: {what}, which could not be removed: {error.message}"
                    if created
                    else f"left as it is now: {what}, which could not be put back: {error.message}"
                )
            else:
                self._notify(f"removed again: {what}" if created else f"as it was again: {what}")
