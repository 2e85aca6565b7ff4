"""A SuperLink's state on a disk, as Flower makes it. It migrates an empty database once; all others begin as copies."""

from __future__ import annotations

import functools
import sqlite3
import tempfile
from pathlib import Path

from flwr.superlink.config_loader import get_federation_manager, get_objectstore_linkstate_factories


def linkstate_factory(folder):
    """Return Flower's factory for the state in a folder, which is a new one where the folder has none."""
    path = folder / "state.db"
    if not path.exists():
        path.write_bytes(_migrated())
    return _factory(path)


def _factory(path):
    return get_objectstore_linkstate_factories(str(path), get_federation_manager())[1]


@functools.cache
def _migrated():
    with tempfile.TemporaryDirectory() as folder:
        made, copy = Path(folder) / "made.db", Path(folder) / "copy.db"
        _factory(made).state()
        source, target = sqlite3.connect(made), sqlite3.connect(copy)
        source.backup(target)  # with what is still in the write-ahead log
        source.close()
        target.close()
        return copy.read_bytes()
