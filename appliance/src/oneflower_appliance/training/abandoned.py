"""Messages that a ServerApp no longer waits for. By them the SuperLink knows stuck nodes and replies that are late."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

log = logging.getLogger("flwr")


class Abandoned:
    """Notes in a folder that ServerApps write and their SuperLink reads: a file for each message, `NODE-MESSAGE`."""

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
                write_atomic(self._file(node, message), "")
            except OneflowerError as error:
                log.error("%s Node %d is not freed of it.", error.sentence, node)  # noqa: TRY400

    def of(self, node: int) -> list[str]:
        """Return the messages of a node."""
        return [message for noted, message in self.all() if noted == node]

    def all(self) -> Iterable[tuple[int, str]]:
        """Return the messages of all nodes, each with its node."""
        names = [path.name.split("-", 1) for path in self._folder.glob("[0-9]*-*")]
        return [(int(node), message) for node, message in names]

    def forget(self, node: int, message: str) -> None:
        """Forget a message, one of those `of` a node, which has answered or lost it."""
        self._file(node, message).unlink(missing_ok=True)

    def _file(self, node: int, message: str) -> Path:
        return self._folder / f"{node}-{message}"
