"""Nodes that left on purpose, after they had ended what they had begun: no run misses them."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.files import SHARED, write_atomic

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

log = logging.getLogger("flwr")


class Departed:
    """A file that a SuperLink writes and its ServerApps read: the ids of these nodes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def beside(cls, runs: Path) -> Departed:
        """Return that of the SuperLink whose runs have their folders in `runs`."""
        return cls(runs.parent / "departed.json")

    def nodes(self) -> set[int]:
        """Return their ids. If they cannot be read, none is known."""
        try:
            return {int(node) for node in json.loads(self._path.read_text(encoding="ascii"))}
        except (OSError, ValueError, TypeError):
            return set()

    def keep(self, nodes: Collection[int]) -> None:
        """Write their ids. If that fails, runs count them as missing."""
        try:
            write_atomic(self._path, json.dumps(sorted(nodes)) + "\n", SHARED)
        except OneflowerError as error:
            log.debug("%s", error.sentence)
