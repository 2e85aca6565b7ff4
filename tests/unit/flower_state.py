"""A SuperLink's state on a disk, as Flower makes it. It migrates an empty database once; all others begin as copies."""

from __future__ import annotations

import functools
import sqlite3
import tempfile
from pathlib import Path

from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.config_loader import get_federation_manager, get_objectstore_linkstate_factories

from oneflower_appliance.flower import internals, places
from oneflower_appliance.flower.warm.objectstore import keep_objects_out_of_database


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


def objects_in_memory(patch, folder):
    """Keep the objects of messages out of the database, as in a SuperLink, until `patch` is undone."""
    patch.setattr(ObjectStoreFactory, "store", ObjectStoreFactory.store)
    for name in (*places.SESSIONS, "__init__", "delete_messages", "finish_task"):
        patch.setattr(SqlLinkState, name, getattr(SqlLinkState, name))
    sessions = internals.node_core_states()
    patch.setattr(sessions, "OBJECT_PUSH_SESSION_TTL_SECONDS", sessions.OBJECT_PUSH_SESSION_TTL_SECONDS)
    keep_objects_out_of_database(folder / "objects")
