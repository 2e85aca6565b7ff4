"""The SuperNode's loop sends the reply to the message that it took, also after one that was dropped."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace

import pytest

from oneflower_appliance.flower import ended_tasks, internals, nodeloop
from oneflower_appliance.flower.warm import node as warm_node
from oneflower_appliance.flower.warm import runwatch


def test_a_reply_to_a_dropped_message_is_not_taken_for_that_to_the_next(monkeypatch):
    state = SimpleNamespace(msg_store={})
    incoming, replies, sent = ["dropped", "next"], [], []

    def pull(state, object_store, receive):
        message = incoming.pop(0)
        state.msg_store[message] = None
        return None if message == "dropped" else 5

    def push(state, object_store, send, push_object):
        if not replies:
            replies.append("next")  # its ClientApp takes longer
        message = replies.pop(0)
        sent.append(message)
        del state.msg_store[message]

    loop = SimpleNamespace(_pull_and_store_message=pull, _push_messages=push)
    monkeypatch.setattr(internals, "node_loop", lambda: loop)
    nodeloop.answer_in_turn()
    one_turn = {"state": state, "object_store": None, "receive": None}
    assert loop._pull_and_store_message(**one_turn) is None
    replies.append("dropped")
    assert loop._pull_and_store_message(**one_turn) == 5
    loop._push_messages(state=state, object_store=None, send=None, push_object=None)
    assert sent == ["dropped", "next"]
    assert state.msg_store == {}


def test_the_rest_of_a_reply_is_not_waited_for_when_its_clientapp_died(monkeypatch):
    """With Flower's own state, store and loop."""
    from flwr.app import Message, RecordDict
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.supernode import start_client_internal as loop
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1, raising=False)
    store = ObjectStoreFactory().store()
    state = InMemoryNodeState(object_store=store)
    task = state.create_task(task_type="flwr-clientapp", run_id=1, fab_hash="x")
    state.claim_task(task)
    state.activate_task(task_id=task)
    objects = nodeloop.ReplyObjects(store, state)
    message = Message(RecordDict(), dst_node_id=1, message_type="train")
    store.preregister(1, loop.get_object_tree(message))
    assert objects.get(message.object_id) == b"", "while the task works, there may be more to come"
    state.finish_task(task, sub_status="failed", details="")
    with pytest.raises(RuntimeError, match="died before"):
        objects.get(message.object_id)
    store.put(message.object_id, message.deflate())
    assert objects.get(message.object_id) == message.deflate()


@pytest.fixture
def node(monkeypatch):
    """Flower's own state of a node that has a message and a task for it."""
    from flwr.app import Message, RecordDict
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1, raising=False)
    state = InMemoryNodeState(object_store=ObjectStoreFactory().store())
    state.set_node_id(7)
    message = Message(RecordDict(), dst_node_id=7, message_type="train")
    message.metadata.__dict__["_message_id"] = message.object_id
    state.store_message(message)
    task = state.create_task(task_type="flwr-clientapp", run_id=1, fab_hash="x")
    token = state.claim_task(task)
    state.activate_task(task_id=task)
    return SimpleNamespace(state=state, message=message, task=task, token=token)


def test_a_clientapp_that_died_is_answered_for_even_before_it_took_its_message(node):
    nodeloop.answer_for(node.state, {1}, "was ended by signal 9")
    [reply] = node.state.get_messages_legacy(is_reply=True)
    assert reply.metadata.reply_to_message_id == node.message.metadata.message_id
    assert reply.error.reason == "The ClientApp of node 7 was ended by signal 9."
    nodeloop.answer_for(node.state, {1}, "again")
    assert not node.state.get_messages_legacy(is_reply=True), "once"


def test_a_task_that_its_site_ended_is_answered_with_the_reason_where_stock_flower_starts_tasks(node, tmp_path):
    folder, why = os.open(tmp_path, os.O_RDONLY), "took more time than the policy of its site allows"
    ended_tasks.leave(folder, "a lie", why)
    ended_tasks.answer(tmp_path, node.state)
    assert not node.state.get_messages_legacy(is_reply=True)
    ended_tasks.leave(folder, node.token, why)
    os.close(folder)
    ended_tasks.answer(tmp_path, node.state)
    [reply] = node.state.get_messages_legacy(is_reply=True)
    assert reply.error.reason == f"The ClientApp of node 7 {why}."
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_has_ended_ends_its_task_and_one_of_which_nothing_is_known_does_not(node, monkeypatch):
    from flwr.supercore.run import RunNotRunningException

    monkeypatch.setattr(warm_node, "BETWEEN_LOOKS", -1.0)
    monkeypatch.setattr(runwatch, "BETWEEN_LOOKS", 0.0)
    news, over, ended = [None, OSError("no answer")], threading.Event(), []

    def get_run(number):
        assert number == 1
        if news:
            if (found := news.pop(0)) is not None:
                raise found
        else:
            over.wait(10)
            raise RunNotRunningException

    watch = runwatch.RunWatch(1, get_run)
    waiting = warm_node.EndsWithRun(node.state, lambda: watch, lambda: ended.append(1))
    while news:
        assert not waiting.get_messages_legacy(is_reply=True)
    assert not ended
    assert node.state.get_task_by_token(node.token)
    over.set()
    watch.join()
    waiting.get_messages_legacy(is_reply=True)
    assert ended == [1]
    assert node.state.get_task_by_token(node.token) is None
    [reply] = waiting.get_messages_legacy(is_reply=True)
    assert reply.has_error()
