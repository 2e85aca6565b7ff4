"""Virtual machines in the store."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from oneflower.local.oned.models import Access, Vm
from oneflower.opennebula.states import LcmState, VmState

if TYPE_CHECKING:
    from oneflower.local.store import Store

DONE_KEPT = 2000  # counted in ids, back from the newest; more than any service has
_TABLES = """
CREATE TABLE IF NOT EXISTS vm (id INTEGER PRIMARY KEY, done INTEGER NOT NULL, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS living ON vm (id) WHERE NOT done;
"""
_WRITE = "INSERT OR REPLACE INTO vm VALUES (?, ?, ?)"


class VmMemory:
    """All VMs that are not done, and the last ones that are done."""

    def __init__(self, store: Store, done_kept: int = DONE_KEPT) -> None:
        self._store = store
        self._done_kept = done_kept
        store.create(_TABLES)

    def living(self) -> list[Vm]:
        """Return all VMs that are not done."""
        return [_vm(body) for (body,) in self._store.execute("SELECT body FROM vm WHERE NOT done ORDER BY id")]

    def find(self, number: int) -> Vm | None:
        """Return a VM, done or not."""
        row = self._store.execute("SELECT body FROM vm WHERE id = ?", (number,)).fetchone()
        return _vm(row[0]) if row else None

    def ids(self) -> list[int]:
        """Return the ids of all VMs, done or not."""
        return [number for (number,) in self._store.execute("SELECT id FROM vm ORDER BY id")]

    def add(self, vm: Vm) -> None:
        """Insert a new VM. Raises `CloudError` if the disk is full."""
        self._store.execute(_WRITE, _row(vm))

    def save(self, vm: Vm) -> None:
        """Replace a VM, now or when there is room."""
        self._store.keep(_WRITE, _row(vm))
        if vm.gone:
            self._store.keep("DELETE FROM vm WHERE done AND id <= (SELECT max(id) FROM vm) - ?", (self._done_kept,))


def _row(vm: Vm) -> tuple[int, bool, str]:
    return vm.id, vm.gone, json.dumps(asdict(vm))


def _vm(body: str) -> Vm:
    row = json.loads(body)
    states = {"state": VmState(row["state"]), "lcm_state": LcmState(row["lcm_state"])}
    return Vm(**(row | states | {"access": Access.of(row["access"])}))
