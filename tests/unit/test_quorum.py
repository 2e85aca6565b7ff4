"""A round with a quorum (FL_ROUND_QUORUM): how many nodes it needs, and that it waits for them after its time is over."""

import json

import pytest

from oneflower_appliance.orders import FORM_VARIABLE
from oneflower_appliance.training import quorum
from oneflower_appliance.training.quorum import Quorum

from .test_supervisor import Grid, record, rows, start  # noqa: F401 - a fixture


class Late(Grid):
    """Node 2 answers only after the time of a phase is over, at the third request for its reply; or never."""

    def __init__(self, *, ever=True, unwell=False):
        super().__init__(unwell)
        self.ever, self.asked, self.waited, self.seconds = ever, {}, [], None

    def send_and_receive(self, messages, *, timeout=None):
        self.seconds = timeout
        for message in messages:
            number = f"{message.metadata.message_type}-{message.metadata.dst_node_id}"
            message.metadata.__dict__["_message_id"] = number
            self.asked[number] = message
        return [self.answer(message) for message in messages if message.metadata.dst_node_id == 1]

    def pull_messages(self, message_ids):
        self.waited.append(set(message_ids))
        late = [self.asked[number] for number in message_ids]
        return [self.answer(message) for message in late] if self.ever and len(self.waited) % 3 == 0 else []


@pytest.fixture
def form(monkeypatch):
    monkeypatch.setattr(quorum.time, "sleep", lambda _seconds: None)
    return lambda value: monkeypatch.setenv(FORM_VARIABLE, json.dumps({"FL_ROUND_QUORUM": value}))


@pytest.mark.parametrize(
    ("text", "needed"), [("", 0), ("2", 2), ("9", 5), ("0.5", 3), ("1.0", 5), (".2", 1), ("0.6", 3), ("0.61", 4)]
)
def test_a_quorum_is_a_share_or_a_number_of_the_five_nodes_that_were_asked(text, needed):
    assert Quorum.of(text).needed(5) == needed
    assert Quorum.of(text).needed(0) == 0


def test_a_phase_waits_for_its_quorum_after_its_time_and_a_phase_that_has_it_does_not(record, form, caplog):  # noqa: F811
    form("2")
    grid = Late()
    start(grid, num_rounds=1, timeout=1)
    assert grid.waited == [{"train-2"}] * 3 + [{"evaluate-2"}] * 3
    assert [(row["nodes"], row["evaluated"], row["faults"]) for row in rows(record)] == [(2, 2, [])]
    assert "1 of the 2 nodes that it needs (FL_ROUND_QUORUM)" in caplog.text
    assert "send_and_receive" not in vars(grid), "the grid is as it was"


def test_a_node_that_is_late_is_named(record, form):  # noqa: F811
    form("0.5")
    grid = Late()
    start(grid, num_rounds=1, timeout=7)
    assert grid.waited == []
    [row] = rows(record)
    assert (row["nodes"], row["asked"]) == (1, 2)
    fault = {"node": "2", "kind": "no answer", "reason": "nothing came within 7 s"}
    assert row["faults"] == [fault | {"phase": "train"}, fault | {"phase": "evaluate"}]


def test_a_round_without_its_quorum_changes_nothing_and_names_every_node(record, form):  # noqa: F811
    form("1.0")
    result = start(Late(unwell=True), num_rounds=1, timeout=1)
    assert result.arrays.to_numpy_ndarrays()[0].max() == 0
    [row] = rows(record)
    trained = {fault["node"]: fault["reason"] for fault in row["faults"] if fault["phase"] == "train"}
    assert trained == {
        "1": "its round changes nothing: 1 of the 2 results that it needs (FL_ROUND_QUORUM)",
        "2": "ValueError: unwell",
    }
