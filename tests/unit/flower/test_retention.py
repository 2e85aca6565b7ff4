"""What a SuperLink keeps of its runs: folders, checkpoints, and Flower's own state."""

from __future__ import annotations

import dataclasses
import hashlib
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, RecordDict
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from oneflower_appliance.agent.retention import Retention
from oneflower_appliance.flower import internals
from oneflower_appliance.flower.linkstate import LinkState
from oneflower_appliance.flower.noderuns import forget_what_has_ended
from oneflower_appliance.run_folder import ORIGIN, Origin
from oneflower_appliance.run_state import RunState
from tests.unit.flower_state import linkstate_factory

USE_CASES = Path(__file__).parents[3] / "appliance/src/oneflower_appliance/apps"


class Door:
    """A SuperLink that has runs, and forgets what it is told to forget."""

    def __init__(self):
        self.known, self.tidied = [], 0

    def add(self, number, app="us/theirs", status="finished"):
        self.known.append(RunState(str(number), app, status))

    def tidy(self, forget):
        self.tidied += 1
        self.known = [run for run in self.known if run.id not in forget]


@pytest.fixture
def folders(tmp_path):
    """Return a way to make what a run leaves, and one to tell what is left of all."""

    def left(number, resumes="", first="", attempt=1):
        run, first = tmp_path / "runs" / str(number), str(first or number)
        run.mkdir(parents=True)
        (run / "model.npz").write_bytes(bytes(1000))
        if resumes:
            (run / ORIGIN).write_text(Origin(str(resumes), first, attempt).text)
        (tmp_path / "checkpoints" / first).mkdir(parents=True, exist_ok=True)

    def there(kind="runs"):
        return sorted((int(path.name) for path in (tmp_path / kind).iterdir()), key=int)

    return left, there


def make(door, tmp_path, keep=3):
    return Retention(door, keep, tmp_path / "runs", tmp_path / "checkpoints")


def test_of_many_runs_the_newest_are_kept(tmp_path, folders):
    left, there = folders
    door = Door()
    retention = make(door, tmp_path)
    for number in range(50):
        left(number)
        door.add(number)
        retention.look(door.known)
        assert len(there()) <= 3
        assert len(there("checkpoints")) <= 3
    assert there() == there("checkpoints") == [47, 48, 49]
    assert [run.id for run in door.known] == ["47", "48", "49"]


def test_between_two_ends_nothing_is_asked(tmp_path, folders):
    left, _ = folders
    door = Door()
    retention = make(door, tmp_path)
    for number in range(5):
        left(number)
        door.add(number)
    for _ in range(4):
        retention.look(door.known)
    assert door.tidied == 1


def test_what_a_run_that_is_going_needs_stays(tmp_path, folders):
    """Run 1 has been active for long. Run 9 resumes 3, and 3 resumes 2, whose checkpoints it uses."""
    left, there = folders
    door = Door()
    left(1)
    door.add(1, status="running")
    left(2)
    door.add(2)
    left(3, resumes=2, first=2)
    door.add(3)
    for number in range(4, 9):
        left(number)
        door.add(number)
    left(9, resumes=3, first=2)
    door.add(9, status="running")
    make(door, tmp_path, keep=1).look(door.known)
    assert there() == [1, 2, 3, 9]
    assert there("checkpoints") == [1, 2]
    door.known = [dataclasses.replace(run, status="finished") for run in door.known]
    make(door, tmp_path, keep=1).look(door.known)
    assert there() == [9]
    assert there("checkpoints") == [2], "the newest run can be gone on with"


def test_what_tells_that_the_form_was_served_stays(tmp_path, folders):
    left, there = folders
    door = Door()
    for number, app in enumerate(["oneflower/image-classification"] * 2 + ["us/theirs"] * 5):
        left(number)
        door.add(number, app)
    make(door, tmp_path).look(door.known)
    assert there() == [1, 4, 5, 6]


def test_what_cannot_be_removed_is_not_forgotten_and_tried_again(tmp_path, folders, monkeypatch, caplog):
    left, there = folders
    door = Door()
    for number in range(5):
        left(number)
        door.add(number)
    retention = make(door, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", lambda _: (_ for _ in ()).throw(PermissionError(13, "no")))
        retention.look(door.known)
    assert len(door.known) == 5
    assert "cannot be removed" in caplog.text
    left(5)
    door.add(5)
    retention.look(door.known)
    assert there() == [3, 4, 5]


@pytest.fixture
def state(tmp_path):
    """Flower's own state, in a file."""
    return linkstate_factory(tmp_path)


def rows(tmp_path):
    with sqlite3.connect(tmp_path / "state.db") as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {name: database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}  # noqa: S608 - its own names
    database.close()
    return {name: count for name, count in found.items() if count}


def size(tmp_path):
    return sum(path.stat().st_size for path in tmp_path.glob("state.db*"))


def run_once(link, factory, number):
    """A run with an app and a log of its own, and an end."""
    state = factory.state()
    run = int(link.start(USE_CASES / "image-classification", {"num-server-rounds": number + 1}))
    task = state.get_run_info(run_ids=[run])[0].primary_task_id
    state.add_task_log(task, f"a line of run {number}\n" * 100)
    link.stop(run)
    return run


def hand_over(store, run, megabytes):
    """Put arrays of a run into a store, as those of a message are."""
    arrays = ArrayRecord([np.full(megabytes * 131072, run % 1000, dtype=np.float64)])
    store.preregister(run, get_object_tree(arrays))
    for key, found in get_all_nested_objects(arrays).items():
        store.put(key, found.deflate())


@pytest.mark.e2e
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Flower makes its database with an alembic that warns
def test_nothing_is_left_of_a_run_that_is_forgotten(tmp_path, state):
    link = LinkState(state)
    kept = run_once(link, state, 0)
    before = rows(tmp_path)
    runs = [run_once(link, state, number) for number in range(1, 30)]
    assert rows(tmp_path)["run"] == 30
    link.tidy(runs)
    assert rows(tmp_path) == before
    assert [run.id for run in link.runs()] == [str(kept)]
    assert "a line of run 0" in link.log(kept, 0)["text"]
    link.tidy([kept])
    assert {"run", "task", "task_logs", "fab", "run_series"}.isdisjoint(rows(tmp_path))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_that_is_going_is_not_forgotten(tmp_path, state):
    link = LinkState(state)
    number = int(link.start(USE_CASES / "image-classification", {}))
    link.tidy([number])
    assert not link.run(number).finished


@pytest.mark.e2e
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_space_of_what_is_gone_is_given_back(tmp_path, state):
    link = LinkState(state)
    going = int(link.start(USE_CASES / "image-classification", {}))
    factory = state.state()
    small = size(tmp_path)
    for _ in range(6):
        run = int(link.start(USE_CASES / "image-classification", {}))
        hand_over(factory.object_store, run, 8)
        task = factory.get_run_info(run_ids=[run])[0].primary_task_id
        assert factory.finish_task(task, "stopped", "")
    assert size(tmp_path) > small + 48 * 2**20
    link.tidy([])
    assert "objects" not in rows(tmp_path), "the run that ended needs none of them"
    assert size(tmp_path) > 48 * 2**20, "not while a run is going"
    link.stop(going)
    for _ in range(100):  # a state that is in use at that moment is rewritten the next time
        link.tidy([])
        if size(tmp_path) < small + 2**20:
            return
        time.sleep(0.05)
    pytest.fail(f"The state still has {size(tmp_path)} bytes.")


def app_of(run):
    return f"the app of run {run}".encode() * 10_000


def hash_of(run):
    return hashlib.sha256(app_of(run)).hexdigest()


class Fleet:
    """A SuperLink that sends one message of one run at a time; runs of `ended` have ended."""

    def __init__(self):
        self.ended, self.asked = set(), []

    def get_run(self, number):
        self.asked.append(number)
        if number in self.ended:
            raise RunNotRunningException
        if number == 666 and len(self.asked) > 1:
            raise RuntimeError("no route to the SuperLink")
        return number


@pytest.fixture
def node(monkeypatch):
    """Return a SuperNode's state, and its loop's step `pull`, which is sent a message of the run that it is told."""
    loop = internals.node_loop()
    store = ObjectStoreFactory().store()
    state = InMemoryNodeState(store)
    fleet = Fleet()

    def receive(*, state, object_store, get_run, run):
        if state.get_run(run) is None:
            get_run(run)
            state.store_fab(Fab(hash_of(run), app_of(run), {}))
            state.store_run(Run.create_empty(run))
            state.run_store[run].fab_hash = hash_of(run)
            state.run_store[run].series_id = run
            state.set_run_series_context(run, Context(run, 1, {}, RecordDict(), {}, series_id=run))
        task = state.create_task("flwr-clientapp", run, hash_of(run))
        state.add_task_log(task, "a line")
        hand_over(store, run, 1)
        return run

    monkeypatch.setattr(loop, "_pull_and_store_message", receive)
    forget_what_has_ended()

    def pull(run):
        return loop._pull_and_store_message(state=state, object_store=store, get_run=fleet.get_run, run=run)

    return state, store, fleet, pull


def test_a_node_forgets_runs_that_have_ended_with_their_apps(node, tmp_path, monkeypatch):
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    state, store, fleet, pull = node
    for run in range(1, 40):
        (tmp_path / "apps" / f"me.app.1.0.{hash_of(run)[:8]}").mkdir(parents=True, exist_ok=True)
        assert pull(run) == run
        fleet.ended.add(run)
        assert len(state.run_store) == len(state.fab_store) == len(state.task_store) == len(state.task_logs) == 1
        assert len(store.run_objects_mapping) == len(list((tmp_path / "apps").iterdir())) == 1
        assert len(state.run_series_context_store) <= 21


def test_a_node_keeps_runs_that_go_on(node):
    state, _, fleet, pull = node
    for run in (666, 2, 3):
        assert pull(run) == run
    fleet.ended.add(2)
    asked = len(fleet.asked)
    assert pull(3) == 3
    assert len(fleet.asked) == asked, "nothing is asked for a run that is known"
    pull(4)
    assert sorted(state.run_store) == [3, 4, 666], "also one of which the SuperLink could not tell"
    assert set(state.fab_store) == {hash_of(run) for run in (3, 4, 666)}
    assert 2 in state.run_series_context_store, "a later run of its series continues from it"
