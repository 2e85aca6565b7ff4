"""The SuperLink's state before another release of Flower opens it, and the way back."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing

import pytest

from oneflower_appliance.agent.state_release import StateRelease
from oneflower_appliance.errors import ExitCode, OneflowerError

OLD, NEW = "1.41.0", "1.42.0"


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "state" / "state.db"
    path.parent.mkdir()
    write(path, "old")
    return path


def write(path, value):
    with closing(sqlite3.connect(path)) as state, state:
        state.execute("PRAGMA journal_mode=WAL")
        state.execute("CREATE TABLE IF NOT EXISTS said (value)")
        state.execute("DELETE FROM said")
        state.execute("INSERT INTO said VALUES (?)", (value,))


def read(path):
    with closing(sqlite3.connect(path)) as state:
        return state.execute("SELECT value FROM said").fetchone()[0]


@pytest.mark.parametrize("known", [True, False], ids=["", "made before this was recorded"])
def test_the_release_before_gets_back_the_state_that_it_left(tmp_path, database, known):
    state = StateRelease(tmp_path, database)
    if known:
        assert state.prepare(OLD) == "the state of Flower before was copied"
        assert state.prepare(OLD) == ""
    assert "copied" in state.prepare(NEW)
    write(database, "new")
    (database.parent / "state.db-wal").write_bytes(b"of the newer one")
    assert state.prepare(OLD) == f"the state is again as Flower {OLD} left it"
    assert read(database) == "old"
    assert stat.S_IMODE(database.stat().st_mode) == 0o600
    assert {path.name for path in database.parent.iterdir()} == {"state.db", "state.db.release.json"}
    assert "copied" in state.prepare(NEW), "and forth again"


@pytest.mark.parametrize("what", ["runs/7", "members.json", "sites.json"])
def test_it_does_not_go_back_over_a_run_or_a_node_and_keeps_what_there_is(tmp_path, database, what):
    state = StateRelease(tmp_path, database)
    state.prepare(OLD)
    state.prepare(NEW)
    write(database, "new")
    (tmp_path / what).parent.mkdir(exist_ok=True)
    (tmp_path / what).write_text("since then")
    with pytest.raises(OneflowerError, match="there were runs or other nodes since then") as refused:
        state.prepare(OLD)
    assert refused.value.code is ExitCode.CONFLICT
    assert read(database) == "new"
    assert state.prepare(NEW) == ""
