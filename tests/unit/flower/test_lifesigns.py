"""The messages of a ServerApp are counted on their way through Flower's own grid."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from oneflower_appliance.flower import internals, lifesigns
from oneflower_appliance.training import waiting
from oneflower_appliance.training.traffic import Traffic


@pytest.fixture
def grid(monkeypatch):
    for name, value in (("_task_id", 1), ("_run_id", 17), ("_node_id", 0)):
        monkeypatch.setattr(TaskIdentity, name, value)
    kind, sent = internals.grid_class(), {}

    def push(self, messages):
        for message in messages:
            message.metadata.__dict__["_message_id"] = message.object_id
            sent[message.object_id] = message
        return [message.object_id for message in messages]

    def pull(self, ids):
        asked = [sent[number] for number in ids]
        return [
            Message(Error(1, "unwell"), reply_to=message) if message.metadata.dst_node_id == 2
            else Message(RecordDict(), reply_to=message)
            for message in asked
        ]  # fmt: skip

    monkeypatch.setattr(kind, "push_messages", push)
    monkeypatch.setattr(kind, "pull_messages", pull)
    monkeypatch.setattr(kind, "run", SimpleNamespace(run_id=17))
    return kind("127.0.0.1:1", insecure=True, token="x")


@pytest.mark.parametrize("ends", [None, SystemExit(3)])
def test_what_an_app_sends_by_itself_is_counted_to_its_end(grid, monkeypatch, tmp_path, ends):
    def app(grid, context):
        assert Traffic.known(grid).run_config == {"privacy": "dp-local"}
        messages = [Message(RecordDict(), dst_node_id=node, message_type="query") for node in (1, 2, 3)]
        assert len(list(grid.send_and_receive(messages))) == 3
        grid.push_messages([Message(RecordDict(), dst_node_id=1, message_type="query")])
        if ends:
            raise ends

    task = internals.serverapp_task()
    monkeypatch.setattr(task, "run_", app)
    lifesigns.count_messages(tmp_path)
    context = SimpleNamespace(run_config={"privacy": "dp-local"})
    if ends:
        with pytest.raises(SystemExit):
            task.run_(grid=grid, context=context)
    else:
        task.run_(grid=grid, context=context)
    assert json.loads((tmp_path / "17" / "messages.json").read_text()) == {"sent": 4, "answered": 2, "failed": 1}


def test_an_app_that_only_asks_who_is_online_is_said_to_wait_until_it_sends_something(grid, monkeypatch, tmp_path):
    monkeypatch.setattr(waiting, "_PATIENCE", 0.01)
    monkeypatch.setattr(internals.grid_class(), "get_node_ids", lambda _: [7])
    said = tmp_path / "17" / "waiting"

    def app(grid, context):
        while not said.exists():
            assert list(grid.get_node_ids()) == [7]
        assert said.read_text().startswith("The app asks again and again which nodes are online")
        grid.push_messages([Message(RecordDict(), dst_node_id=1, message_type="query")])
        assert not said.exists()
        while not said.exists():
            grid.get_node_ids()

    task = internals.serverapp_task()
    monkeypatch.setattr(task, "run_", app)
    lifesigns.count_messages(tmp_path)
    task.run_(grid=grid, context=None)
    assert not said.exists(), "it has ended"


def test_an_app_that_sends_nothing_leaves_no_counts(grid, monkeypatch, tmp_path):
    task = internals.serverapp_task()
    monkeypatch.setattr(task, "run_", lambda grid, context: None)
    lifesigns.count_messages(tmp_path)
    task.run_(grid=grid, context=None)
    assert not (tmp_path / "17").exists()
