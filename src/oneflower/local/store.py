"""The local cloud's storage: one SQLite file, written at every change.

The store knows records, settings and ids. A room that stores more has its own tables. On a full disk nothing new is
made. What becomes of the things that exist cannot be refused: it is written as soon as there is room.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oneflower.local.errors import CloudError
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import no_room

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

_VERSION = 3  # of all tables, also those of the rooms
_CANNOT_KEEP = "The local cloud cannot keep its state."
_PRIMARY = 0xFF  # the bits of an extended error code that hold the primary code
_CANNOT_WRITE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS record (kind TEXT, id INTEGER, body TEXT NOT NULL, PRIMARY KEY (kind, id));
CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, next INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class _Connection(sqlite3.Connection):
    """SQLite, with a `CloudError` if the disk is full."""

    @contextmanager
    def saying(self) -> Iterator[None]:
        """Raise `CloudError` if a write fails. SQLite may notice that only when rows are fetched."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & _PRIMARY not in _CANNOT_WRITE:
                raise
            path = Path(super().execute("PRAGMA database_list").fetchone()[2])
            reason = no_room(path.parent) or f"{path} cannot be written: {error}."
            raise CloudError(500, f"{_CANNOT_KEEP} {reason}") from error

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        """Execute a statement. Raises `CloudError`."""
        with self.saying():
            return super().execute(*arguments)


class Store:
    """Records, settings and ids. Ids start at 0 and are never used again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.folder = path.parent
        self._owed: dict[tuple[str, Any], tuple[Any, ...]] = {}
        self._full = False
        try:
            self._db = sqlite3.connect(path, isolation_level=None, factory=_Connection)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            [version] = self._db.execute("PRAGMA user_version").fetchone()
            [tables] = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables and version != _VERSION:
                raise OneflowerError(
                    f"The local cloud's state at {path} was written by another release of oneflower.",
                    f"Remove its federations with that release, then delete {path}.",
                    ExitCode.ENVIRONMENT,
                )
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version={_VERSION}")
        except sqlite3.Error as error:
            raise _unusable(path, error) from error

    def close(self) -> None:
        """Close the file."""
        self.settle()
        self._db.close()

    def create(self, tables: str) -> None:
        """Create tables that do not exist yet. Raises `OneflowerError`."""
        try:
            self._db.executescript(tables)
        except sqlite3.Error as error:
            raise _unusable(self._path, error) from error

    def execute(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """Execute a statement. Raises `CloudError` if the disk is full."""
        return self._db.execute(statement, values)

    def keep(self, statement: str, values: tuple[Any, ...]) -> None:
        """Write what has happened to the thing whose id is the first value. If the disk is full, `settle` does it."""
        self._owed[statement, values[0]] = values
        self.settle()

    def settle(self) -> None:
        """Write what could not be written so far, in the order in which it happened, as far as there is room."""
        try:
            for (statement, thing), values in list(self._owed.items()):
                self._db.execute(statement, values)
                del self._owed[statement, thing]
        except CloudError as error:
            if not self._full:
                log.warning("%s What changes is written when there is room.", error.message)
            self._full = True
        else:
            self._full = False

    def need_room(self) -> None:
        """Raise `CloudError` if the disk is full: then nothing new is begun."""
        if reason := no_room(self.folder):
            raise CloudError(500, f"{_CANNOT_KEEP} {reason}")

    def next_id(self, kind: str) -> int:
        """Return a new id of `kind`."""
        statement = "INSERT INTO counter VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET next = next + 1 RETURNING next"
        with self._db.saying():
            row = self._db.execute(statement, (kind,)).fetchone()
        return int(row[0]) - 1

    def setting(self, name: str, default: str) -> str:
        """Return a setting. The first time it is asked for, `default` is stored."""
        self._db.execute("INSERT OR IGNORE INTO setting VALUES (?, ?)", (name, default))
        return str(self._db.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()[0])

    def set_setting(self, name: str, value: str) -> None:
        """Change a setting."""
        self._db.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (name, value))

    def records(self, kind: str) -> dict[int, dict[str, Any]]:
        """Return all records of a kind by id."""
        rows = self._db.execute("SELECT id, body FROM record WHERE kind = ? ORDER BY id", (kind,))
        return {number: json.loads(body) for number, body in rows}

    def save_record(self, kind: str, number: int, record: dict[str, Any]) -> None:
        """Insert or replace a record."""
        self._db.execute("INSERT OR REPLACE INTO record VALUES (?, ?, ?)", (kind, number, json.dumps(record)))

    def delete_record(self, kind: str, number: int) -> None:
        """Remove a record."""
        self._db.execute("DELETE FROM record WHERE kind = ? AND id = ?", (kind, number))


def _unusable(path: Path, error: sqlite3.Error) -> OneflowerError:
    return OneflowerError(
        f"The local cloud's state at {path} cannot be used: {error}.",
        "Free some disk space; if the file is damaged, move the folder away and start again.",
        ExitCode.ENVIRONMENT,
    )
