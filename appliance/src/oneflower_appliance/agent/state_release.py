"""Which release of Flower wrote a SuperLink's state, and the copy with which the release before can come back.

A newer Flower changes the tables of its database when it opens it, and an older one then refuses it. So the database is
copied before another release opens it. If the release before is asked for again, it gets the copy back, but only if
nothing has happened since: no run and no node may be lost, and a key that was withdrawn must not be valid again.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import write_atomic
from oneflower_appliance.run_folder import RUNS
from oneflower_appliance.sites import FILE as SITES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MEMBERS = "members.json"


class StateRelease:
    """The state in `database`, of a SuperLink with this `home`."""

    def __init__(self, home: Path, database: Path) -> None:
        self._home = home
        self._database = database
        self._record = database.with_name(f"{database.name}.release.json")
        self._copy = database.with_name(f"{database.name}.before")

    def prepare(self, release: str) -> str:
        """Make the state fit for this release of Flower, before it starts. Returns what was done, if anything.

        Raises `OneflowerError` if the state is that of a later release, or if it cannot be copied.
        """
        said = self._read()
        if not self._database.exists() or said.get("now") == release:
            if said.get("now") != release:
                self._write({"now": release})
            return ""
        try:
            if self._copy.exists() and _was(said, release):
                return self._go_back(release, said)
            _copy(self._database, self._copy)
        except (sqlite3.Error, OSError) as error:
            raise OneflowerError(
                f"The SuperLink's state cannot be copied before Flower {release} opens it: {error}.",
                "Make room on the machine's disk.",
                ExitCode.ENVIRONMENT,
            ) from error
        self._write({"now": release, "before": said.get("now", ""), "since": self._happened()})
        return f"the state of Flower {said.get('now') or 'before'} was copied"

    def _go_back(self, release: str, said: dict[str, str]) -> str:
        if said.get("since") != self._happened():
            raise OneflowerError(
                f"Flower {release} cannot read the state that Flower {said['now']} wrote, and there were runs or other "
                "nodes since then, which would be lost.",
                f"Fetch the models and deploy again to use Flower {release}.",
                ExitCode.CONFLICT,
            )
        fresh = self._database.with_name(f"{self._database.name}.new")
        _copy(self._copy, fresh)
        with closing(sqlite3.connect(self._database)) as database:  # if this ends half-way, it is whole without the log
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for left in ("-wal", "-shm"):  # of the database that goes: SQLite would add them to the other one
            self._database.with_name(self._database.name + left).unlink(missing_ok=True)
        fresh.replace(self._database)
        self._write({"now": release})
        self._copy.unlink(missing_ok=True)
        return f"the state is again as Flower {release} left it"

    def _happened(self) -> str:
        """Return a digest of what must not be lost: which runs there are, and which nodes may join."""
        folder = self._home / RUNS
        runs = sorted(run.name for run in folder.iterdir()) if folder.is_dir() else []
        files = [
            path.read_bytes().hex() if path.exists() else "" for path in (self._home / MEMBERS, self._home / SITES)
        ]
        return hashlib.sha256(json.dumps([runs, files]).encode()).hexdigest()

    def _read(self) -> dict[str, str]:
        try:
            return {str(key): str(value) for key, value in json.loads(self._record.read_text("utf-8")).items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def _write(self, said: dict[str, str]) -> None:
        write_atomic(self._record, json.dumps(said))


def _was(said: Mapping[str, str], release: str) -> bool:
    """Whether the copy is of this release. Of a state from before this was recorded it is known that it is older."""
    return said["before"] == release if said.get("before") else _numbers(release) < _numbers(said.get("now", ""))


def _numbers(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", release)]


def _copy(source: Path, target: Path) -> None:
    """Copy a database with what is still in its log. The copy is whole, or it is not there."""
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    part.touch(0o600)
    with closing(sqlite3.connect(source)) as from_, closing(sqlite3.connect(part)) as to:
        from_.backup(to)
        to.execute("PRAGMA journal_mode=DELETE")
    part.replace(target)
