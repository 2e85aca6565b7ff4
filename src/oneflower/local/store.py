"""The local cloud's memory: one SQLite file, written through at every change."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from oneflower.local.models import Document, LcmState, Vm, VmState
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS document (id INTEGER PRIMARY KEY, type INTEGER NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS vm (id INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS vm_template (id INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, next INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class Store:
    """Documents, VMs and VM templates by id. Ids start at 0 and are never used again."""

    def __init__(self, path: Path) -> None:
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
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
        row = self._db.execute(
            "INSERT INTO counter VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET next = next + 1 RETURNING next", (kind,)
        ).fetchone()
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
        rows = self._db.execute("SELECT id, type, body FROM document ORDER BY id")
        return [Document(number, kind, json.loads(body)) for number, kind, body in rows]

    def save_document(self, document: Document) -> None:
        """Insert or replace a document."""
        row = (document.id, document.type, json.dumps(document.body))
        self._db.execute("INSERT OR REPLACE INTO document VALUES (?, ?, ?)", row)

    def delete_document(self, number: int) -> None:
        """Remove a document."""
        self._db.execute("DELETE FROM document WHERE id = ?", (number,))

    def vms(self) -> list[Vm]:
        """Return all VMs that are not DONE."""
        rows = (json.loads(body) for (body,) in self._db.execute("SELECT body FROM vm ORDER BY id"))
        return [Vm(**(row | {"state": VmState(row["state"]), "lcm_state": LcmState(row["lcm_state"])})) for row in rows]

    def save_vm(self, vm: Vm) -> None:
        """Insert or replace a VM."""
        self._db.execute("INSERT OR REPLACE INTO vm VALUES (?, ?)", (vm.id, json.dumps(asdict(vm))))

    def delete_vm(self, number: int) -> None:
        """Remove a VM."""
        self._db.execute("DELETE FROM vm WHERE id = ?", (number,))

    def vm_templates(self) -> dict[int, dict[str, Any]]:
        """Return all VM templates by id."""
        rows = self._db.execute("SELECT id, body FROM vm_template ORDER BY id")
        return {number: json.loads(body) for number, body in rows}

    def save_vm_template(self, number: int, template: dict[str, Any]) -> None:
        """Insert or replace a VM template."""
        self._db.execute("INSERT OR REPLACE INTO vm_template VALUES (?, ?)", (number, json.dumps(template)))

    def delete_vm_template(self, number: int) -> None:
        """Remove a VM template."""
        self._db.execute("DELETE FROM vm_template WHERE id = ?", (number,))
