"""Attacks on the privacy that a site's policy asks for, in the loop of a SuperNode: what an app gets out of its node.

The app is played: it stores a reply in the state of the SuperNode, as Flower's Runtime API does for a ClientApp.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.flower import gaussian_mechanism, internals, nodeloop
from oneflower_appliance.flower.private_replies import PrivateReplies
from oneflower_appliance.flower.wiredtype import narrow
from oneflower_appliance.privacy_ledger import PrivacyLedger
from oneflower_appliance.run_privacy import RECORD, NodeSpent
from oneflower_appliance.site_policy import PolicyError
from oneflower_appliance.site_privacy import SitePrivacy

MODEL = {"w": np.zeros((40, 50), "float32"), "b": np.arange(9, dtype="float64"), "seen": np.array(7)}


def arrays(values):
    from flwr.app import Array, ArrayRecord

    return ArrayRecord({name: Array(np.asarray(value)) for name, value in values.items()})


@pytest.fixture
def node(monkeypatch, tmp_path):
    """A SuperNode's loop over its own state: `ask` gives it a message, `tell` plays the app, `sent` is what leaves."""
    from flwr.app import Message, RecordDict
    from flwr.app.message.message import remove_content_from_message
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.supercore.run import Run
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1, raising=False)
    loop, objects = internals.node_loop(), internals.inflatable_objects()
    for name in ("_pull_and_store_message", "_push_messages"):
        monkeypatch.setattr(loop, name, getattr(loop, name))
    monkeypatch.setattr(loop, "time", SimpleNamespace(sleep=lambda _: None))
    store = ObjectStoreFactory().store()
    state = InMemoryNodeState(object_store=store)
    state.set_node_id(7)
    run = Run.create_empty(5)
    run.primary_task_type = "flwr-serverapp"
    state.store_run(run)
    ledger = PrivacyLedger(tmp_path / "privacy.json")

    def start(**privacy):
        PrivateReplies(SitePrivacy(**{"clip": 1.0, "noise": 1e-6} | privacy), ledger).start()
        nodeloop.answer_in_turn()  # which comes after it, as in a SuperNode

    def ask(kind="train", **records):
        message = Message(RecordDict({"arrays": arrays(MODEL)} | records), dst_node_id=7, message_type=kind)
        vars(message.metadata)["_run_id"] = 5
        vars(message.metadata)["_message_id"] = message.object_id
        contents = {name: one.deflate() for name, one in objects.get_all_nested_objects(message).items()}
        loop._pull_and_store_message(
            state=state, object_store=store, node_config={},
            receive=lambda: (remove_content_from_message(message), objects.get_object_tree(message)),
            get_run=lambda _: run, get_fab=None, pull_object=lambda _, name: contents[name],
            confirm_message_received=lambda *_: None, trusted_entities=None,
        )  # fmt: skip
        state.get_messages_legacy(is_reply=False)
        store.delete(message.metadata.message_id)  # a ClientApp has it
        return message

    def tell(message, content, left_out=0, **metadata):
        reply = Message(content, reply_to=message)
        vars(reply.metadata).update(metadata)
        vars(reply.metadata)["_message_id"] = reply.object_id
        session = state.start_session(5)
        _, names = state.store_message_and_object_tree(reply, objects.get_object_tree(reply), session)
        found = objects.get_all_nested_objects(reply)
        for name in names[left_out:]:
            assert state.store_object(5, session, name, found[name].deflate())

    def sent():
        """Return the replies that leave, as the SuperLink gets them."""
        left, found = {}, []

        def send(reply, tree, _seconds):
            found.append((reply, tree))
            return {one.object_id for one in objects.iterate_object_tree(tree)}, ""

        loop._push_messages(
            state=state, object_store=store, send=send, push_object=lambda _run, _s, name, one: left.update({name: one})
        )
        assert not state.msg_store
        assert not store.store
        replies = []
        for reply, tree in found:
            whole = internals.inflatables().inflate_object_from_contents(tree.object_id, left)
            assert whole.metadata.reply_to_message_id == reply.metadata.reply_to_message_id
            replies.append(whole)
        return replies

    return SimpleNamespace(start=start, ask=ask, tell=tell, sent=sent, state=state, ledger=ledger)


def trained(**changed):
    from flwr.app import MetricRecord, RecordDict

    record = {"arrays": arrays(MODEL | changed), "metrics": MetricRecord({"num-examples": 40, "loss": 0.5})}
    return RecordDict(record)


def _with(**records):
    content = trained()
    for name, record in records.items():
        content[name] = record
    return content


def _damaged():
    from flwr.app import Array, ArrayRecord

    return _with(arrays=ArrayRecord({**arrays(MODEL), "w": Array("float32", (40, 50), "numpy.ndarray", b"4711")}))


def _only_a_record():
    from flwr.app import ConfigRecord, RecordDict

    return RecordDict({"secret-4711": ConfigRecord({"data": "4711"})})


def update_in(reply):
    return {name: one.numpy() - MODEL[name] for name, one in reply.content["arrays"].items()}


@pytest.mark.parametrize("size", [1e-3, 5.0, 1e30])
def test_an_update_leaves_clipped_whatever_its_size(node, size):
    node.start()
    node.tell(node.ask(), trained(w=np.full((40, 50), size, "float32")))
    [reply] = node.sent()
    update = update_in(reply)
    norm = np.sqrt(sum(np.square(one).sum() for one in update.values()))
    assert norm == pytest.approx(min(1.0, size * np.sqrt(2000)), rel=1e-3)
    assert [one.dtype for one in update.values()] == [np.float32, np.float64, np.int64]
    assert list(reply.content["arrays"]) == list(MODEL)


def test_the_noise_has_its_size_and_is_never_the_same_again(node):
    node.start(noise=3.0)
    found = []
    for _ in range(2):
        node.tell(node.ask(), trained())
        found.append(update_in(*node.sent())["w"])
    assert all(2.8 < one.std() < 3.2 and abs(one.mean()) < 0.3 for one in found)
    assert not np.isclose(*found).any()
    grain = 2.0 ** (1 - 20)
    whole = update_in(*[_again(node)])["b"] / grain
    assert np.array_equal(whole, np.rint(whole)), "no low digit tells what was added to what"


def _again(node):
    node.tell(node.ask(), trained())
    [reply] = node.sent()
    return reply


def test_nothing_else_leaves_with_an_update(node, caplog):
    from flwr.app import ConfigRecord, MetricRecord

    node.start(metrics=("loss", "missing", "list"), records=("plan",))
    content = trained(seen=np.array(1234))
    content["metrics"]["secret-4711"], content["metrics"]["list"] = 1.0, [1.0, 2.0]
    content["more"] = MetricRecord({"num-examples": 4711})
    content["plan"], content["secret"] = ConfigRecord({"x": 1}), ConfigRecord({"data": b"4711"})
    message = node.ask()
    with caplog.at_level("INFO", "flwr"):
        node.tell(message, content, _group_id="4711", _ttl=47.11, _message_type="train.4711", _src_node_id=4711)
    [reply] = node.sent()
    assert set(reply.content) == {"arrays", "metrics", "plan", RECORD}
    assert NodeSpent.of(dict(reply.content[RECORD])).total == pytest.approx(SitePrivacy(1.0, 1e-6).epsilon(4e12))
    assert dict(reply.content["metrics"]) == {"num-examples": 1, "loss": 0.5}
    assert update_in(reply)["seen"] == 0, "whole numbers go back as they came"
    metadata = reply.metadata
    assert (metadata.group_id, metadata.message_type, metadata.src_node_id) == ("", "train", 7)
    assert metadata.ttl != 47.11


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: trained(more=np.zeros(3)), "arrays of the message, by the same names, and no others"),
        (lambda: _with(other=arrays(MODEL)), "by the same names"),
        (lambda: _with(arrays=arrays({"w": MODEL["w"]})), "by the same names"),
        (lambda: trained(w=np.zeros((50, 40), "float32")), "another type or shape"),
        (lambda: trained(w=np.zeros((40, 50), "float16")), "another type or shape"),
        (lambda: trained(seen=np.array("4711")), "another type or shape"),
        (lambda: trained(w=np.full((40, 50), np.nan, "float32")), "not a finite number"),
        (lambda: trained(b=np.full(9, np.inf)), "not a finite number"),
        (_damaged, "it is not valid"),
        (_only_a_record, "among the `records`"),
    ],
)
def test_a_reply_that_is_not_an_update_of_the_model_stays(node, content, reason):
    node.start()
    node.tell(node.ask(), content())
    [reply] = node.sent()
    assert reason in reply.error.reason
    assert "4711" not in reply.error.reason
    assert node.ledger.total() == 0


def test_an_error_leaves_without_its_text_and_ours_with_it(node):
    from flwr.app import Error

    node.start()
    node.tell(node.ask(), Error(4711, "patient 4711 is ill"))
    [reply] = node.sent()
    assert "4711" not in f"{reply.error.code} {reply.error.reason}"
    assert "the log of its node has it" in reply.error.reason
    node.ask()
    nodeloop.answer_for(node.state, {5}, "took more than 3600 seconds")
    [reply] = node.sent()
    assert "took more than 3600 seconds" in reply.error.reason


def test_an_app_that_ends_with_its_reply_half_sent_is_answered_for_and_costs_nothing(node):
    node.start()
    node.tell(node.ask(), trained(), left_out=1)
    for task in node.state.get_tasks():
        node.state.finish_task(task.task_id, sub_status="failed", details="it died")
    [reply] = node.sent()
    assert "died before it had sent its whole reply" in reply.error.reason
    assert node.ledger.total() == 0


def test_a_message_has_one_reply_and_a_reply_to_nothing_stays(node):
    node.start()
    message = node.ask()
    node.tell(message, trained())
    node.tell(message, trained(b=np.ones(9)))
    node.tell(message, trained(), _reply_to_message_id="ab" * 32)
    assert len(node.sent()) == 1


def test_a_coordinator_that_asks_again_and_again_spends_the_budget_and_no_more(node):
    node.start(noise=4.0, max_epsilon=3.5)
    for _ in range(2):
        node.tell(node.ask(), trained())
        [reply] = node.sent()
        assert not reply.has_error()
    with pytest.raises(PolicyError, match="budget of this site is used up: epsilon .* of 3.5"):
        node.ask()
    node.tell(node.ask(kind="query"), trained())  # which does not say that it asks for an update
    [reply] = node.sent()
    assert "budget of this site is used up" in reply.error.reason
    assert json.loads(node.ledger.path.read_text())[0]["replies"] == 2


def test_what_was_not_charged_does_not_leave(node):
    node.start()
    message = node.ask()
    node.ledger.path.mkdir()  # so it cannot be written
    node.tell(message, trained())
    [reply] = node.sent()
    assert "privacy.json" in reply.error.reason
    with pytest.raises(OneflowerError, match="cannot be read"):
        PrivateReplies(SitePrivacy(1.0, 1.0), node.ledger).start()


def test_an_evaluation_costs_nothing_and_tells_what_is_named(node):
    from flwr.app import MetricRecord, RecordDict

    node.start(metrics=("num-examples", "accuracy"))
    node.tell(node.ask("evaluate"), RecordDict({"metrics": MetricRecord({"accuracy": 0.5, "num-examples": 3, "x": 1})}))
    [reply] = node.sent()
    assert dict(reply.content["metrics"]) == {"num-examples": 3, "accuracy": 0.5}
    assert node.ledger.total() == 0


def test_a_model_in_half_as_many_bytes_comes_back_so(node):
    from flwr.app import Array, ArrayRecord

    node.start()
    half = ArrayRecord({name: narrow(Array(np.asarray(value)), "bfloat16") for name, value in MODEL.items()})
    content = _with(arrays=ArrayRecord({**half, "w": Array(np.ones((40, 50), "float32"))}))
    node.tell(node.ask(arrays=half), content)
    [reply] = node.sent()
    assert [one.stype for one in reply.content["arrays"].values()] == ["oneflower.bfloat16"] * 2 + ["numpy.ndarray"]


def test_gaussian_numbers_are_gaussian():
    found = gaussian_mechanism.gaussian(100_001)
    assert found.shape == (100_001,)
    assert abs(found.mean()) < 0.02
    assert [round(float((abs(found) < limit).mean()), 1) for limit in (0.6745, 1.645)] == [0.5, 0.9]
    assert abs(float((found[:50_000] * found[-50_000:]).mean())) < 0.03
