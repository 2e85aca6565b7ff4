"""OneFlow's documents in the store."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from oneflower.local.oned.models import Access
from oneflower.local.oneflow.models import Document

if TYPE_CHECKING:
    from oneflower.local.store import Store

_TABLES = """
CREATE TABLE IF NOT EXISTS document
    (id INTEGER PRIMARY KEY, type INTEGER NOT NULL, name TEXT NOT NULL, access TEXT NOT NULL, body TEXT NOT NULL);
"""
_WRITE = "INSERT OR REPLACE INTO document VALUES (?, ?, ?, ?, ?)"


class DocumentMemory:
    """All documents."""

    def __init__(self, store: Store) -> None:
        self._store = store
        store.create(_TABLES)

    def next_id(self) -> int:
        """Return a new id."""
        return self._store.next_id("document")

    def all(self) -> list[Document]:
        """Return all documents."""
        rows = self._store.execute("SELECT id, type, body, name, access FROM document ORDER BY id")
        return [
            Document(number, kind, json.loads(body), name, Access.of(json.loads(access)))
            for number, kind, body, name, access in rows
        ]

    def add(self, document: Document) -> None:
        """Insert a new document. Raises `CloudError` if the disk is full."""
        self._store.execute(_WRITE, _row(document))

    def save(self, document: Document) -> None:
        """Replace a document, now or when there is room."""
        self._store.keep(_WRITE, _row(document))

    def delete(self, number: int) -> None:
        """Remove a document, now or when there is room."""
        self._store.keep("DELETE FROM document WHERE id = ?", (number,))


def _row(document: Document) -> tuple[int, int, str, str, str]:
    return document.id, document.type, document.name, json.dumps(asdict(document.access)), json.dumps(document.body)
