"""The local cloud's memory: one SQLite file, written through at every change."""

from __future__ import annotations

import json
import sqlite3
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oneflower.local.models import CloudError, Document, Vm
from oneflower.opennebula.states import LcmState, VmState
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import no_room

if TYPE_CHECKING:
    from collections.abc import Iterator

_VERSION = 2
_DONE_KEPT = 2000  # ids back from the newest: more VMs than one service is made of
_PRIMARY = 0xFF  # the bits of an extended error code that are the primary one
_CANNOT_WRITE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS document
    (id INTEGER PRIMARY KEY, type INTEGER NOT NULL, name TEXT NOT NULL, permissions TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS vm (id INTEGER PRIMARY KEY, done INTEGER NOT NULL, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS living ON vm (id) WHERE NOT done;
CREATE TABLE IF NOT EXISTS record (kind TEXT, id INTEGER, body TEXT NOT NULL, PRIMARY KEY (kind, id));
CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, next INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class _Connection(sqlite3.Connection):
    """SQLite, which says as a cloud does that the disk is full."""

    @contextmanager
    def saying(self) -> Iterator[None]:
        """Raise `CloudError` where something cannot be written, which may be found out while rows are fetched."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & _PRIMARY not in _CANNOT_WRITE:
                raise
            path = Path(super().execute("PRAGMA database_list").fetchone()[2])
            reason = no_room(path.parent) or f"{path} cannot be written: {error}."
            raise CloudError(500, f"The local cloud cannot keep its state. {reason}") from error

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        """Execute a statement. Raises `CloudError`."""
        with self.saying():
            return super().execute(*arguments)


class Store:
    """Documents, VMs and other records by id. Ids start at 0 and are never used again."""

    def __init__(self, path: Path) -> None:
        try:
            self._db = sqlite3.connect(path, isolation_level=None, factory=_Connection)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            [version] = self._db.execute("PRAGMA user_version").fetchone()
            [tables] = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables and version != _VERSION:
                raise OneflowerError(
                    f"The local cloud's state at {path} is of another release of oneflower.",
                    f"Remove its federations with that release, then delete {path}.",
                    ExitCode.ENVIRONMENT,
                )
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version={_VERSION}")
        except sqlite3.Error as error:
            raise OneflowerError(
                f"The local cloud's state at {path} cannot be used: {error}.",
                "Free some disk space; if the file is damaged, move the folder away and start again.",
                ExitCode.ENVIRONMENT,
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def next_id(self, kind: str) -> int:
        """Return a new id of `kind`."""
        statement = "INSERT INTO counter VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET next = next + 1 RETURNING next"
        with self._db.saying():
            row = self._db.execute(statement, (kind,)).fetchone()
        return int(row[0]) - 1

    def setting(self, name: str, default: str) -> str:
        """Return a setting, storing `default` the first time it is asked for."""
        self._db.execute("INSERT OR IGNORE INTO setting VALUES (?, ?)", (name, default))
        return str(self._db.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()[0])

    def set_setting(self, name: str, value: str) -> None:
        """Change a setting."""
        self._db.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (name, value))

    def documents(self) -> list[Document]:
        """Return all documents."""
        rows = self._db.execute("SELECT id, type, body, name, permissions FROM document ORDER BY id")
        return [Document(number, kind, json.loads(body), *rest) for number, kind, body, *rest in rows]

    def save_document(self, document: Document) -> None:
        """Insert or replace a document."""
        row = (document.id, document.type, document.name, document.permissions, json.dumps(document.body))
        self._db.execute("INSERT OR REPLACE INTO document VALUES (?, ?, ?, ?, ?)", row)

    def delete_document(self, number: int) -> None:
        """Remove a document."""
        self._db.execute("DELETE FROM document WHERE id = ?", (number,))

    def vms(self) -> list[Vm]:
        """Return all VMs that are not done."""
        return [_vm(body) for (body,) in self._db.execute("SELECT body FROM vm WHERE NOT done ORDER BY id")]

    def vm(self, number: int) -> Vm | None:
        """Return a VM, done or not."""
        row = self._db.execute("SELECT body FROM vm WHERE id = ?", (number,)).fetchone()
        return _vm(row[0]) if row else None

    def vm_ids(self) -> list[int]:
        """Return the ids of all VMs, done or not."""
        return [number for (number,) in self._db.execute("SELECT id FROM vm ORDER BY id")]

    def save_vm(self, vm: Vm) -> None:
        """Insert or replace a VM. Of those that are done, the last ones are remembered."""
        self._db.execute("INSERT OR REPLACE INTO vm VALUES (?, ?, ?)", (vm.id, vm.gone, json.dumps(asdict(vm))))
        if vm.gone:
            self._db.execute("DELETE FROM vm WHERE done AND id <= (SELECT max(id) FROM vm) - ?", (_DONE_KEPT,))

    def records(self, kind: str) -> dict[int, dict[str, Any]]:
        """Return all records of a kind (VM templates, images, networks) by id."""
        rows = self._db.execute("SELECT id, body FROM record WHERE kind = ? ORDER BY id", (kind,))
        return {number: json.loads(body) for number, body in rows}

    def save_record(self, kind: str, number: int, record: dict[str, Any]) -> None:
        """Insert or replace a record."""
        self._db.execute("INSERT OR REPLACE INTO record VALUES (?, ?, ?)", (kind, number, json.dumps(record)))

    def delete_record(self, kind: str, number: int) -> None:
        """Remove a record."""
        self._db.execute("DELETE FROM record WHERE kind = ? AND id = ?", (kind, number))


def _vm(body: str) -> Vm:
    row = json.loads(body)
    return Vm(**(row | {"state": VmState(row["state"]), "lcm_state": LcmState(row["lcm_state"])}))
