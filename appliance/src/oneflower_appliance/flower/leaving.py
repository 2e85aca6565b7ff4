"""SuperNodes that are about to leave: the SuperLink's side.

A SuperNode that is to stop says so in a header of its requests (`draining`). It still gets the messages that are
already there for it. No run sees it any more, so it gets no further ones. It comes back when it is activated
again. The requests are signed, so a node can say this of itself only.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from oneflower_appliance.flower import internals, places
from oneflower_appliance.flower.features import Feature

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower_appliance.training.departed import Departed

HEADER = "oneflower-leaving"  # in a request of a SuperNode: it is about to leave
_ACTIVATE = "/v1/fleet/activate-node"
_MOST = 1000  # nodes that left that are remembered


class Leaving:
    """The nodes that are about to leave, by their public keys in hexadecimal digits. `on_leave` is called for each.

    Those that left, and are not back, are in `departed`.
    """

    def __init__(self, departed: Departed, on_leave: Callable[[], None] = lambda: None) -> None:
        self._departed = departed
        self._gone = departed.nodes()
        self._on_leave = on_leave
        self._keys: set[str] = set()

    def note(self, who: str, path: str, said: str | None) -> None:
        """Note what a request of a node at `path` says; `said` is its header."""
        if path == _ACTIVATE:
            self._keys.discard(who)
        elif said and who not in self._keys:
            self._keys.add(who)
            self._on_leave()

    def has(self, who: str) -> bool:
        """Whether a node is about to leave."""
        return who in self._keys

    def hide(self) -> None:
        """Have Flower's state in this process show these nodes to no run, as far as this Flower allows it."""
        if not places.have(Feature.LEAVING):
            return
        state_class = internals.link_state()
        listed, delete = state_class.get_nodes, state_class.delete_node

        @functools.wraps(listed)
        def get_nodes(state: Any, run_id: int) -> set[int]:
            leaving = self._leaving(state)
            stay: set[int] = listed(state, run_id) - leaving
            self._note_gone(leaving | set(sorted(self._gone - stay)[-_MOST:]))
            return stay

        @functools.wraps(delete)
        def delete_node(state: Any, owner_aid: str, node_id: int) -> None:
            self._note_gone(self._gone | (self._leaving(state) & {node_id}))  # afterwards its key leads nowhere
            delete(state, owner_aid, node_id)

        state_class.get_nodes = get_nodes  # type: ignore[method-assign, assignment]
        state_class.delete_node = delete_node  # type: ignore[method-assign, assignment]

    def _leaving(self, state: Any) -> set[int]:
        found = {key: state.get_node_id_by_public_key(bytes.fromhex(key)) for key in list(self._keys)}
        self._keys -= {key for key, node in found.items() if node is None}  # they were unregistered
        return {node for node in found.values() if node is not None}

    def _note_gone(self, nodes: set[int]) -> None:
        """Tell the runs which nodes left on purpose."""
        if nodes != self._gone:
            self._gone = nodes
            self._departed.keep(nodes)
