"""Flower's own loop, with the gate of a site: what is refused is answered with the reason, and nothing of it is kept."""

from __future__ import annotations

from hashlib import sha256
from types import SimpleNamespace

import pytest

from oneflower_appliance.audit import AuditLog, verify
from oneflower_appliance.flower import internals, nodeloop
from oneflower_appliance.flower.holding import Holding
from oneflower_appliance.flower.site_gate import keep_to
from oneflower_appliance.flower.site_record import SiteRecord
from oneflower_appliance.flower.task_gpus import gpus
from oneflower_appliance.site_policy import SitePolicy
from tests.unit.test_site_policy import PROJECT, bundle, packed

FAB = packed({"pyproject.toml": PROJECT, "mine.py": "app = 1"})


@pytest.fixture
def node(monkeypatch, tmp_path):
    """One turn of Flower's loop, with its own state: `pull` takes a message of a run of which it knows nothing."""
    from flwr.app import Message, RecordDict
    from flwr.supercore.fab import Fab
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.supercore.run import Run
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1, raising=False)
    loop = internals.node_loop()
    for name in ("_pull_and_store_message", "_push_messages"):
        monkeypatch.setattr(loop, name, getattr(loop, name))
    store = ObjectStoreFactory().store()
    state = InMemoryNodeState(object_store=store)
    state.set_node_id(7)
    message = Message(RecordDict(), dst_node_id=7, message_type="train")
    message.metadata.__dict__ |= {"_message_id": message.object_id, "_run_id": 5}
    opened = []
    monkeypatch.setattr(loop, "get_fused_config_from_fab", lambda *_: opened.append(1) or {})

    holding, audit = Holding(tmp_path / "asks", 0), AuditLog(tmp_path / "audit")

    def pull(policy, content=FAB, named=None, kind="flwr-serverapp"):
        keep_to(SitePolicy.parse(policy), holding, SiteRecord(audit))
        nodeloop.answer_in_turn()  # which comes after it, as in a SuperNode
        fab = Fab(named or sha256(content).hexdigest(), content, {})
        run = Run.create_empty(5)
        run.fab_hash, run.primary_task_type = fab.hash_str, kind
        tree = loop.get_object_tree(message)
        return loop._pull_and_store_message(
            state=state, object_store=store, node_config={}, receive=lambda: (message, tree), get_run=lambda _: run,
            get_fab=lambda *_: fab, pull_object=lambda *_: message.deflate(),
            confirm_message_received=lambda *_: None, trusted_entities=None,
        )  # fmt: skip

    def push():
        """Return what the node sends."""
        sent = []
        loop._push_messages(state=state, object_store=store, push_object=lambda *_: None,
                            send=lambda reply, *_: sent.append(reply) or (set(), ""))  # fmt: skip
        return sent

    return SimpleNamespace(
        pull=pull, push=push, state=state, message=message, opened=opened, holding=holding, audit=audit
    )


@pytest.mark.parametrize(
    ("policy", "content", "named", "reason"),
    [
        ('apps = "ask"', FAB, None, "waits for the approval of this site"),
        ('apps = "listed"', FAB, None, "not in the site's list"),
        ('apps = "any"', b"this is no zip", None, "not a whole zip archive"),
        ('apps = "any"', FAB, "ab" * 32, "sent another one than it named"),
        ('[hours]\nzone = "UTC"\nopen = []', FAB, None, "does not train at this time"),
    ],
)
def test_what_a_policy_does_not_allow_is_answered_with_the_reason_and_never_opened(
    node, caplog, policy, content, named, reason
):
    with caplog.at_level("WARNING", "flwr"):
        assert node.pull(policy, content, named) == 5
    assert not node.opened
    assert not node.state.fab_store
    assert not node.state.task_store
    assert node.state.get_run(5) is None
    [reply] = node.push()
    assert reason in reply.error.reason
    assert reply.metadata.reply_to_message_id == node.message.metadata.message_id
    assert reason in caplog.text, "the log of the node has it, too"
    assert not node.state.msg_store
    [entry] = verify(node.audit.read()).entries
    assert (entry["action"], entry["outcome"], entry["run"]) == ("policy.refuse", "refused", "5")
    assert reason in entry["why"]


def test_an_app_is_held_until_it_is_approved_while_the_node_runs(node, tmp_path):
    waits = []

    def approve_after_two_looks(_seconds):
        assert node.holding.asks.holds, "so the agent does not take it for a ClientApp that hangs"
        waits.append(node.holding._said)
        if len(waits) == 2:
            node.holding.asks.approve([bundle().content_hash])

    node.holding.__init__(tmp_path / "asks", 60, approve_after_two_looks)
    assert node.pull('apps = "ask"') == 5
    assert waits == ["5 me/mine%201.0"] * 2, "which its requests say meanwhile"
    assert not node.holding._said
    assert not node.holding.asks.holds
    assert len(node.state.task_store) == 1
    assert node.holding.asks.pending() == []


def test_a_run_is_held_once_and_an_app_that_changed_after_its_approval_is_another_one(node, tmp_path):
    node.holding.__init__(tmp_path / "asks", 60, lambda _: pytest.fail("it does not wait"))
    node.holding.asks.approve([bundle().content_hash])
    node.holding._ends[5] = 0.0  # it was held already
    changed = packed({"pyproject.toml": PROJECT, "mine.py": "app = 2"})
    assert node.pull('apps = "ask"', changed) == 5
    assert not node.state.task_store
    [reply] = node.push()
    assert "waits for the approval of this site" in reply.error.reason
    assert node.pull('apps = "ask"') == 5
    assert len(node.state.task_store) == 1


def test_a_task_sees_as_many_gpus_as_it_may_use_and_those_that_its_node_uses(tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()

    def seen(said, most):
        found, variable = gpus(said, most, tmp_path)
        return [path.rpartition("nvidia")[2] for path in found], variable.get("CUDA_VISIBLE_DEVICES")

    assert seen(None, None) == (["-uvm", "0", "1", "2", "ctl"], None)
    assert seen(None, 2) == (["-uvm", "ctl", "0", "1"], "0,1")
    assert seen("2,1", 1) == (["-uvm", "ctl", "2"], "0")
    assert seen("2,1", None) == (["-uvm", "ctl", "2", "1"], "0,1"), "its node does not use 0"
    assert seen("GPU-8f6a", None) == (["-uvm", "0", "1", "2", "ctl"], None)
    for said, most in ((None, 0), ("", 2), ("", None), ("7", 1), ("7", None), ("GPU-8f6a", 1), ("0,GPU-8f6a", 1)):
        assert seen(said, most) == ([], ""), "none, rather than one too many"


def test_where_tasks_are_confined_no_task_of_another_kind_is_started(node):
    assert node.pull("[task]", kind="flwr-agentapp") == 5
    assert not node.state.task_store
    [reply] = node.push()
    assert "only runs of a ServerApp" in reply.error.reason


def test_what_a_policy_allows_becomes_a_task(node):
    assert node.pull(f'apps = "listed"\nhashes = ["{bundle().content_hash}"]') == 5
    assert node.opened == [1]
    assert len(node.state.task_store) == 1
    [fab] = node.state.fab_store.values()
    assert fab.content == FAB
    [entry] = verify(node.audit.read()).entries
    assert (entry["action"], entry["app"], entry["content"]) == ("policy.allow", "me/mine 1.0", bundle().content_hash)
    record = SiteRecord(node.audit)
    for run in (6, 6, 7):
        record.note("policy.refuse", "refused", run, why="it is not signed")
    assert len(node.audit.read().lines) == 3, "once for each run"
