"""The bugs of Flower, shown on Flower's own functions: a test fails here when a release has fixed its bug.

Then take the release out of the list in `corrections`, and delete a correction that has none left.
"""

from __future__ import annotations

import importlib.metadata
import threading
from types import SimpleNamespace

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp.strategy import DifferentialPrivacyServerSideAdaptiveClipping, FedAvg

from oneflower_appliance import corrections
from oneflower_appliance.flower import internals
from oneflower_appliance.parameters import FLOWER_MINORS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the alembic that makes Flower's database


def shows(correction):
    """A test that shows a bug, on the releases that have it."""
    return pytest.mark.skipif(not correction.applies, reason="this release of Flower does not have this bug")


@pytest.mark.parametrize("correction", corrections.CORRECTIONS, ids=lambda found: found.where.split(":")[0])
def test_a_correction_names_its_bug_its_place_upstreams_word_and_supported_releases(correction):
    assert correction.bug.endswith(".")
    assert correction.where.startswith("flwr/")
    assert "https://github.com/flwrlabs/flower/" in correction.upstream
    assert set(correction.releases) <= set(FLOWER_MINORS)


def test_a_correction_applies_to_the_releases_that_it_names(monkeypatch):
    found = corrections.Correction("A bug.", "flwr/x.py", "https://...", ("1.41",))
    for version, applies in (("1.41.0", True), ("1.41.7", True), ("1.42.0", False), ("1.4.0", False)):
        monkeypatch.setattr(importlib.metadata, "version", lambda _name, version=version: version)
        assert found.applies is applies


class Node:
    """A SuperNode's own state, and its loop's two functions, with a SuperLink that is played."""

    def __init__(self):
        self.store = internals.object_store()
        self.state = internals.node_states().InMemoryNodeState(object_store=self.store)
        self.state.set_node_id(7)
        self.sent = []

    def message(self, run):
        message = Message(RecordDict({"config": ConfigRecord({"run": run})}), dst_node_id=7, message_type="train")
        message.metadata.__dict__.update(_run_id=run, _message_id=message.object_id, _dst_node_id=7)
        return message

    def pull(self, message, confirm):
        loop = internals.node_loop()
        known = SimpleNamespace(run_id=message.metadata.run_id, fab_hash="x", series_id=1, primary_task_type="")
        self.state.run_store[message.metadata.run_id] = known
        return loop._pull_and_store_message(
            state=self.state, object_store=self.store, node_config={}, get_run=None, get_fab=None,
            receive=lambda: (message, loop.get_object_tree(message)),
            pull_object=lambda _run, name: loop.get_all_nested_objects(message)[name].deflate(),
            confirm_message_received=confirm, trusted_entities=None,
        )  # fmt: skip

    def reply(self, message, content):
        loop = internals.node_loop()
        reply = Message(content, reply_to=message)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        self.state.store_message(reply)
        self.store.preregister(reply.metadata.run_id, loop.get_object_tree(reply))
        if reply.has_error():  # whole
            self.store.put(reply.object_id, reply.deflate())
        return reply

    def push(self):
        def send(reply, tree, _seconds):
            self.sent.append(reply.metadata.reply_to_message_id)
            return {one.object_id for one in internals.node_loop().iterate_object_tree(tree)}, "session"

        internals.node_loop()._push_messages(
            state=self.state, object_store=self.store, send=send, push_object=lambda *_: None
        )


@pytest.fixture
def node(monkeypatch):
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1, raising=False)
    return Node()


@shows(corrections.ANSWER_IN_TURN)
def test_flower_sends_the_reply_to_a_dropped_message_in_the_turn_of_the_next(node):
    def stopped(_run, _message):
        raise internals.run_errors().RunNotRunningException

    dropped, following = node.message(1), node.message(2)
    assert node.pull(dropped, stopped) is None, "the run was stopped while the message was taken"
    assert node.state.get_tasks(), "its task is there all the same"
    assert node.pull(following, lambda *_: None) == 2
    node.reply(dropped, Error(code=1))
    node.push()
    assert node.sent == [dropped.metadata.message_id], "the turn was that of the next message"


@shows(corrections.HALF_REPLIES)
def test_flower_waits_for_the_rest_of_a_reply_whose_clientapp_is_dead(node, monkeypatch):
    message = node.message(1)
    assert node.pull(message, lambda *_: None) == 1
    node.reply(message, RecordDict({"config": ConfigRecord({"half": 1})}))
    [task] = node.state.get_tasks()
    node.state.finish_task(task.task_id, sub_status="failed", details="")
    waited = threading.Event()

    class EnoughError(BaseException):
        pass

    def sleep(_seconds):
        waited.set()
        raise EnoughError

    monkeypatch.setattr(internals.node_loop(), "time", SimpleNamespace(sleep=sleep))
    with pytest.raises(EnoughError):
        node.push()
    assert waited.is_set()


@shows(corrections.ENDED_RUNS_ARE_KEPT)
def test_flower_keeps_a_run_on_its_nodes_after_its_last_message(node):
    for run in (1, 2):
        message = node.message(run)
        assert node.pull(message, lambda *_: None) == run
        node.reply(message, Error(code=1))
        node.push()
    assert set(node.state.run_store) == {1, 2}
    assert {task.run_id for task in node.state.get_tasks()} == {1, 2}


@shows(corrections.LOST_DELIVERIES)
def test_flower_neither_delivers_again_nor_answers_what_a_node_took_before_it_was_back(tmp_path, monkeypatch):
    from flwr.supercore.task_identity import TaskIdentity

    from .test_linkstate import Fleet

    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1, raising=False)
    fleet = Fleet(tmp_path, corrected=False)
    fleet.state.activate_node(fleet.node, 30)
    assert fleet.state.get_message_ins(fleet.node, limit=1) == [], "not delivered again"
    assert fleet.replies() == [], "and not answered"


@shows(corrections.ADAPTIVE_CLIPPING)
def test_flowers_clipping_norm_shrinks_when_all_updates_are_longer_than_it():
    strategy = DifferentialPrivacyServerSideAdaptiveClipping(
        FedAvg(), noise_multiplier=1.0, num_sampled_clients=20, initial_clipping_norm=1.0
    )
    strategy._geometric_update(1.0)
    assert strategy.clipping_norm < 1.0, "it is to grow"
