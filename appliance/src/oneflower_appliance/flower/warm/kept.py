"""What a SuperNode fetched last. The model that it evaluates is the one that it trains next: it is not sent again."""

from __future__ import annotations

import functools
import time
from typing import Any

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.warm import bundles

KEPT_FOR = 600.0  # seconds


class Kept:
    """What a SuperNode fetched last. The model that it evaluates is the one that it trains next.

    It is kept when it is confirmed: then all of it is in the store of the SuperNode, which has checked the hashes.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.tops: list[str] = []
        self._fetched: dict[str, bytes] = {}
        self._tree: Any = None
        self._since = 0.0

    def fetched(self, objects: dict[str, bytes]) -> None:
        """Keep these objects, and no others, as soon as they are confirmed."""
        self._fetched = objects

    def found(self, tree: Any) -> None:
        """Note the objects of a message that comes."""
        self._tree = tree

    def confirm(self) -> None:
        """Keep what was fetched. `tops` are the records of which everything is there; other messages may have them."""
        self.objects, self._fetched, self._since = self._fetched, {}, time.monotonic()
        records = [record for content in self._tree.children for record in content.children] if self._tree else []
        self.tops = [
            record.object_id for record in records if all(name in self.objects for name in bundles.below(record))
        ]
        self._tree = None

    def has(self, name: str, content: bytes) -> bool:
        """Whether this very object, which cannot change, is one that was kept, and so was checked."""
        return self.objects.get(name) is content

    def expire(self) -> None:
        """Drop what nobody has needed for long. Called from time to time while there is nothing to do."""
        self._fetched = {}
        if time.monotonic() - self._since > KEPT_FOR:
            self.objects, self.tops = {}, []


def check_once(kept: Kept) -> None:
    """Have the store of this SuperNode take what was kept without computing its hash: it did when that was fetched.

    It checks all else. What a ClientApp hands over may be anything, and another run may have the same object there.
    """
    store: Any = type(internals.object_store())
    stock = store.put

    @functools.wraps(stock)
    def put(self: Any, object_id: str, object_content: bytes) -> None:
        with self.lock_store:
            entry = self.store.get(object_id)
            if entry is not None and not entry.is_available and kept.has(object_id, object_content):
                entry.content, entry.is_available = object_content, True
                return
        stock(self, object_id, object_content)

    store.put = put
