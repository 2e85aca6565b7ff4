"""Messages that a ServerApp no longer waits for. By them the SuperLink knows that a node is stuck."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = logging.getLogger("flwr")


class Abandoned:
    """Notes in a folder that ServerApps write and their SuperLink reads: the last such message of each node."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def beside(cls, runs: Path) -> Abandoned:
        """Return the notes of the SuperLink whose runs have their folders in `runs`."""
        return cls(runs.parent / "abandoned")

    def note(self, messages: Mapping[int, str]) -> None:
        """Remember messages, by node, whose answers nobody waits for any more."""
        for node, message in messages.items():
            try:
                write_atomic(self._folder / str(node), message)
            except OneflowerError as error:
                log.error("%s Node %d is not freed of it.", error.sentence, node)  # noqa: TRY400

    def of(self, node: int) -> str:
        """Return the message of a node, empty if it has none."""
        try:
            return (self._folder / str(node)).read_text(encoding="utf-8")
        except OSError:
            return ""

    def forget(self, node: int) -> None:
        """Forget the message of a node, which has answered or lost it."""
        (self._folder / str(node)).unlink(missing_ok=True)
