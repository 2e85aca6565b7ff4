"""The nodes that are online, asked for once in each phase of a round, and their names.

Flower asks the SuperLink for them two or three times between the begin of a phase and its first message.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flwr.serverapp import Grid

_MOMENT = 1.0  # seconds for which an answer serves


def names_of(grid: Grid) -> dict[int, str]:
    """Return the names of the nodes that are online, of those that have one: the nodes of other sites."""
    return {node.node_id: node.name for node in grid.get_nodes() if node.name}


class NodeIds:
    """Answers for a grid, from its first use on. Outside of a phase, the grid is asked each time."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._known: list[int] = []
        self.seen = 0  # how many were online when somebody asked last
        self._until = 0.0

    @functools.cached_property
    def _ask(self) -> Callable[[], Iterable[int]]:
        """The grid's own method, in whose place this answers from now on."""
        own = self._grid.get_node_ids
        vars(self._grid)["get_node_ids"] = self._recent
        return own

    def ask(self) -> set[int]:
        """Ask now, and let the answer serve for a moment, until the phase is over."""
        self._known = self._counted()
        self._until = time.monotonic() + _MOMENT
        return set(self._known)

    def forget(self) -> None:
        """End the phase."""
        self._until = 0.0

    def _recent(self) -> list[int]:
        return list(self._known) if time.monotonic() < self._until else self._counted()

    def _counted(self) -> list[int]:
        found = list(self._ask())
        self.seen = len(found)
        return found
