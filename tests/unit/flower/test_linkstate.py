"""What a SuperLink's state forgets of nodes that died, with Flower's own state on a disk."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.task_identity import TaskIdentity

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.flower import deliveries, linkstate
from oneflower_appliance.flower.late_replies import LateReplies
from oneflower_appliance.training.abandoned import Abandoned
from tests.unit.flower_state import linkstate_factory

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the alembic that makes Flower's database


class Fleet:
    """A running run, a node that took a message of it, and what was called when something was forgotten."""

    def __init__(self, folder, *, corrected=True):
        factory = linkstate_factory(folder)
        self.changes = []
        if corrected:
            replies = deliveries.forget_lost_deliveries(lambda: self.changes.append(1))
        self.state = factory.state()
        self.link = linkstate.LinkState(factory, warm=True, replies=replies if corrected else None)
        self.abandoned = Abandoned.beside(folder / "runs")
        self.late = LateReplies(self.link, self.abandoned)
        self.late.refuse()
        self.run = self.state.create_run(
            "us/app", "1", "hash", {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        self.task = self.state.get_run_info(run_ids=[self.run])[0].primary_task_id
        self.token = self.state.claim_task(self.task)
        assert self.state.activate_task(self.task)
        self.node = self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, b"key", 30, name="north/0")
        assert self.state.activate_node(self.node, 30)
        TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = self.run, 1, self.task
        self.sent = self.send(RecordDict({"arrays": ArrayRecord([np.zeros(3)])}))
        self.content = RecordDict({"arrays": ArrayRecord([np.ones(3)])})

    def send(self, content):
        message = Message(content, dst_node_id=self.node, message_type="train")
        message.metadata.__dict__["_message_id"] = message.object_id
        self.store(message)
        [taken] = self.state.get_message_ins(self.node, limit=1)
        return taken

    def store(self, message):
        session = self.state.start_session(self.run)
        return self.state.store_message_and_object_tree(message, get_object_tree(message), session)

    def reply(self, what):
        TaskIdentity._node_id = self.node
        reply = Message(what, reply_to=self.sent)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        stored, missing = self.store(reply)
        return stored, missing, reply

    def replies(self):
        return self.state.get_message_res({self.sent.metadata.message_id}, self.run)


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    for name in ("activate_node", "store_message_and_object_tree", "deactivate_node", "delete_node",
                 "_check_and_tag_offline_nodes"):  # fmt: skip
        monkeypatch.setattr(SqlLinkState, name, getattr(SqlLinkState, name))
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1, raising=False)
    return Fleet(tmp_path)


def test_half_a_reply_is_forgotten_when_its_node_is_back(fleet):
    stored, missing, reply = fleet.reply(fleet.content)
    assert stored
    assert missing
    assert fleet.state.get_object(fleet.run, reply.object_id) == b"", "there is more to come"
    fleet.state.deactivate_node(fleet.node)
    fleet.state.activate_node(fleet.node, 30)
    assert fleet.changes, "who waits for the rest is told"
    assert fleet.state.get_object(fleet.run, reply.object_id) is None
    [found] = fleet.replies()
    assert found.has_error()


def test_half_a_reply_is_forgotten_also_when_the_serverapp_has_its_message_and_waits_for_the_rest(fleet):
    _, _, reply = fleet.reply(fleet.content)
    assert fleet.replies()
    fleet.state.delete_messages({fleet.sent.metadata.message_id})  # as Flower does when it is pulled
    fleet.state.activate_node(fleet.node, 30)
    assert fleet.changes
    assert fleet.state.get_object(fleet.run, reply.object_id) is None


@pytest.mark.parametrize("how", ["leaves", "is silent", "is no member"])
def test_half_a_reply_is_forgotten_when_its_node_does_not_come_back(fleet, how, monkeypatch):
    _, _, reply = fleet.reply(fleet.content)
    assert fleet.replies()
    fleet.state.delete_messages({fleet.sent.metadata.message_id})  # as Flower does when it is pulled
    assert fleet.link.is_online(fleet.node)
    assert fleet.state.get_object(fleet.run, reply.object_id) == b"", "a node that is there is waited for"
    if how == "leaves":
        fleet.state.deactivate_node(fleet.node)
    elif how == "is no member":
        fleet.link.unregister(fleet.node)
    else:
        assert fleet.state.acknowledge_node_heartbeat(fleet.node, -1)  # the next one is overdue
        assert not fleet.link.is_online(fleet.node)
    assert fleet.changes, "who waits for the rest is told"
    assert fleet.state.get_object(fleet.run, reply.object_id) is None


def test_a_whole_reply_is_kept_when_its_node_is_back(fleet):
    _, missing, reply = fleet.reply(fleet.content)
    objects = get_all_nested_objects(reply)
    for name in missing:
        assert fleet.state.store_object(fleet.run, "", name, objects[name].deflate())
    fleet.state.activate_node(fleet.node, 30)
    [found] = fleet.replies()
    assert not found.has_error()
    assert not fleet.changes


def test_a_node_may_say_that_there_is_no_more_of_its_reply_and_why(fleet):
    _, _, half = fleet.reply(fleet.content)
    stored, _, _ = fleet.reply(Error(code=3, reason="was ended by signal 9"))
    assert stored
    assert fleet.state.get_object(fleet.run, half.object_id) is None
    [found] = fleet.replies()
    assert found.error.reason == "was ended by signal 9"


def test_another_nodes_error_takes_the_place_of_nothing(fleet):
    _, _, half = fleet.reply(fleet.content)
    fleet.node, mine = fleet.state.create_node("x", "y", b"another key", 30), fleet.node
    TaskIdentity._node_id = fleet.node
    forged = Message(Error(code=3, reason="forged"), reply_to=fleet.sent)
    forged.metadata.__dict__["_src_node_id"] = fleet.node
    forged.metadata.__dict__["_message_id"] = forged.object_id
    fleet.store(forged)
    assert fleet.state.get_object(fleet.run, half.object_id) == b""
    assert mine != fleet.node


def test_a_reply_that_comes_after_its_round_gave_up_on_it_is_refused_before_its_objects_are_sent(fleet, caplog):
    message = fleet.sent.metadata.message_id
    fleet.abandoned.note({fleet.node: message})
    assert fleet.late.settle(fleet.node), "it is at work for nobody"
    stored, missing, reply = fleet.reply(fleet.content)
    assert (stored, missing) == (False, [])
    assert f"The reply of north/0 (node {fleet.node}) to message {message} is refused" in caplog.text
    assert reply.object_id not in fleet.state.object_store
    assert not fleet.late.settle(fleet.node), "it is free"
    assert fleet.abandoned.of(fleet.node) == []
    assert (fleet.state.num_message_ins(), fleet.state.num_message_res()) == (0, 0)
    assert not fleet.reply(fleet.content)[0], "sent again, because the answer was lost"
    assert f"The reply of north/0 (node {fleet.node}) to message {message} is refused: nothing waits" in caplog.text


@pytest.mark.parametrize("sent", ["whole", "half"])
def test_a_reply_that_came_while_its_round_gave_up_on_it_goes_with_the_next_message_of_the_serverapp(fleet, sent):
    _, missing, reply = fleet.reply(fleet.content)
    objects = get_all_nested_objects(reply)
    for name in missing if sent == "whole" else missing[:1]:
        assert fleet.state.store_object(fleet.run, "", name, objects[name].deflate())
    fleet.abandoned.note({fleet.node: fleet.sent.metadata.message_id})
    TaskIdentity._node_id = 1
    taken = fleet.send(RecordDict({"arrays": ArrayRecord([np.full(3, 2.0)])}))
    assert [name for name in (reply.object_id, *objects) if name in fleet.state.object_store] == []
    assert not fleet.state.store_object(fleet.run, "", missing[-1], objects[missing[-1]].deflate())
    fleet.sent = taken
    TaskIdentity._node_id = fleet.node
    assert fleet.reply(fleet.content)[0], "the next reply is taken"


def test_a_serverapp_that_died_fails_its_run_at_once(fleet):
    assert fleet.link.run_of_serverapp(fleet.token) == fleet.run
    fleet.link.fail(fleet.token, "Its ServerApp was ended by signal 9.")
    found = fleet.link.run(fleet.run)
    assert (found.status, found.sub_status) == ("finished", "failed")
    assert found.details == "Its ServerApp was ended by signal 9."
    assert fleet.link.run_of_serverapp(fleet.token) is None
    fleet.link.fail(fleet.token, "again")
    assert fleet.link.run(fleet.run) == found


APP = {
    "pyproject.toml": b'[project]\nname = "own"\nversion = "1.0.0"\nlicense = "Apache-2.0"\n[tool.flwr.app]\n'
    b'publisher = "us"\n[tool.flwr.app.components]\nserverapp = "own:app"\nclientapp = "own:app"\n'
    b"[tool.flwr.app.config]\nrate = 1.0\n",
    "own.py": b"app = None\n",
}


def test_a_run_of_an_app_is_started_from_its_files_and_what_is_wrong_with_it_is_said(tmp_path):
    factory, started = linkstate_factory(tmp_path), []
    link = linkstate.LinkState(factory, lambda: started.append(1), warm=True)
    number = link.submit(APP, {"rate": 0.5})
    assert (link.run(int(number)).app, started) == ("us/own", [1])
    assert factory.state().get_run_info(run_ids=[int(number)])[0].override_config == {"rate": 0.5}
    with pytest.raises(OneflowerError) as caught:
        link.submit(APP, {"speed": 1})
    assert caught.value.code is ExitCode.RUN_FAILED
    for files in ({}, {"pyproject.toml": b"["}, {"pyproject.toml": b""}, APP | {"a/" * 20 + "b.py": b""}):
        with pytest.raises(OneflowerError) as caught:
            link.submit(files, {})
        assert caught.value.code is ExitCode.INVALID_INPUT
    assert [run.id for run in link.runs()] == [number]
    with pytest.raises(OneflowerError) as caught:
        linkstate.LinkState(factory).submit(APP, {})
    assert caught.value.code is ExitCode.ENVIRONMENT, "stock Flower is started by flwr run"
