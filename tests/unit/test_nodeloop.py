"""The SuperNode's loop sends the reply to the message that it took, also after one that was dropped."""

from __future__ import annotations

from types import SimpleNamespace

from oneflower_appliance import nodeloop


def test_a_reply_to_a_dropped_message_is_not_taken_for_that_to_the_next(monkeypatch):
    state = SimpleNamespace(msg_store={})
    incoming, replies, sent = ["dropped", "next"], [], []

    def pull(state):
        message = incoming.pop(0)
        state.msg_store[message] = None
        return None if message == "dropped" else 5

    def push(state):
        if not replies:
            replies.append("next")  # its ClientApp takes longer
        message = replies.pop(0)
        sent.append(message)
        del state.msg_store[message]

    loop = SimpleNamespace(_pull_and_store_message=pull, _push_messages=push)
    monkeypatch.setattr(nodeloop.importlib, "import_module", lambda _: loop)
    nodeloop.answer_in_turn()
    assert loop._pull_and_store_message(state=state) is None
    replies.append("dropped")
    assert loop._pull_and_store_message(state=state) == 5
    loop._push_messages(state=state)
    assert sent == ["dropped", "next"]
    assert state.msg_store == {}


def test_flower_has_what_is_corrected():
    from flwr.supernode import start_client_internal
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

    assert start_client_internal._pull_and_store_message
    assert start_client_internal._push_messages
    assert InMemoryNodeState(object_store=None).msg_store == {}
