"""How far a run is, from the agent that publishes it to the client that reads it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneflower_appliance.attributes import ATTRIBUTES, NOTHING
from oneflower_appliance.gaussian_privacy import cost_of
from oneflower_appliance.progress import RunProgress
from oneflower_appliance.run_privacy import RunPrivacy
from oneflower_appliance.run_state import RunState
from oneflower_appliance.runs import Fault, RunRow

_TEXT = st.text(st.characters(exclude_categories=("C",)), min_size=1, max_size=50)
_NUMBER = st.none() | st.integers(0, 799).map(lambda number: number / 8)  # no digit of which is lost
_FAULT = st.builds(Fault, st.from_regex("[0-9]{1,20}", fullmatch=True), st.sampled_from(["train", "evaluate"]),
                   st.sampled_from(["failed", "left out", "no answer", "away"]), _TEXT.map(lambda text: " ".join(text.split())).filter(bool))  # fmt: skip
_ROW = st.builds(
    RunRow, round=st.integers(1, 999), rounds=st.just(999), seconds=st.integers(0, 9999).map(float), nodes=st.integers(0, 99),
    failures=st.integers(0, 99), loss=_NUMBER, accuracy=_NUMBER, metrics=st.just({}), asked=st.none() | st.integers(0, 99),
    train_loss=_NUMBER, faults=st.lists(_FAULT, max_size=2).map(tuple),
)  # fmt: skip


@given(
    st.lists(_ROW, max_size=15, unique_by=lambda row: row.round),
    _TEXT,
    st.sampled_from(["running", "completed", "failed"]),
)
def test_what_an_agent_publishes_of_a_run_is_what_a_client_reads(rows, error, status):
    written = RunProgress("5", "us/app", status, error=error, model="/var/model.npz").after(rows)
    found = RunProgress.read(written.published, {})
    assert (found.id, found.app, found.status, found.model) == ("5", "us/app", status, "/var/model.npz")
    assert found.error == error
    assert [row.round for row in found.latest] == [row.round for row in rows[-10:]]
    assert (found.fault, found.fault_round) == (written.fault, written.fault_round)
    if rows:
        last = found.row
        assert (last.loss, last.accuracy, last.train_loss, last.asked) == (
            rows[-1].loss, rows[-1].accuracy, rows[-1].train_loss, rows[-1].asked,
        )  # fmt: skip


def test_every_attribute_of_a_run_is_published_even_where_nothing_is_known():
    published = RunProgress("5", "us/app", "running").published
    assert set(published) == {name for name in ATTRIBUTES if name.startswith("FL_RUN_")}
    unknown = {
        name: value for name, value in published.items() if name not in {"FL_RUN_ID", "FL_RUN_APP", "FL_RUN_STATUS"}
    }
    assert set(unknown.values()) == {NOTHING}, "so that nothing of an earlier run stays"


def test_without_a_run_there_is_nothing_to_read():
    assert RunProgress.read({"READY": "YES"}, {}) is None


def test_a_node_is_called_as_its_machine():
    row = RunRow(2, 3, 1.0, 1, 1, None, None, {}, faults=(Fault("7", "train", "failed", "no data"),))
    found = RunProgress.read(RunProgress("5", "us/app", "running").after([row]).published, {"7": "supernode_1"})
    assert found.fault.sentence == "supernode_1 (node 7) failed in training: no data"
    assert found.row.faults == (found.fault,)


def test_what_a_run_has_spent_is_a_sentence_for_who_looks():
    spent = RunPrivacy("dp-central", 1.0, 4.0, 1e-5, cost_of(4), 8.0)
    row = RunRow(1, 3, 1.0, 2, 0, None, None, {"privacy": spent.entry})
    found = RunProgress.read(RunProgress("5", "us/app", "running").after([row]).published, {})
    assert found.privacy == "epsilon 1.99 of 8 at delta 1e-05 (dp-central, clip 1, noise 4)"


def test_a_run_of_the_api_is_read_as_it_was_written_over_json():
    state = RunState("5", "us/app", "finished", "failed", "boom", lost=True, why_lost="died", resumed_as="6", attempt=2)
    assert RunState.parse(json.loads(json.dumps(state.entry))) == state
    assert (state.finished, state.outcome) == (True, "failed")
    going = RunState.parse({"id": 5, "app": "us/app", "status": "running", "a word of a later release": 1})
    assert (going.id, going.finished, going.outcome, going.lost) == ("5", False, "running", False)
    with pytest.raises(KeyError):
        RunState.parse({"status": "running"})
