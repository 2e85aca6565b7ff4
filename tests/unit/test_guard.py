"""Weights that would ruin the global model are left out, and the node is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedXgbBagging, FedXgbCyclic, Strategy
from flwr.supercore.task_identity import TaskIdentity

from oneflower_appliance.training import supervisor
from oneflower_appliance.training.guard import Update, sift

from . import federation


def change(name, make):
    def spoil(reply):
        arrays = {key: array.numpy() for key, array in reply.content["arrays"].items()}
        arrays[name] = make(arrays.get(name))
        reply.content["arrays"] = ArrayRecord({key: Array(array) for key, array in arrays.items()})

    return spoil


def no_examples(reply):
    reply.content["metrics"]["num-examples"] = 0


def forest(leaf=0.5, **more):
    """Two trees with one split each, as XGBoost writes them."""
    tree = {"split_conditions": [1.0, leaf, -0.5], "left_children": [1, -1, -1], "right_children": [2, -1, -1], **more}
    model = {"gbtree_model_param": {"num_trees": "2", "num_parallel_tree": "2"}, "iteration_indptr": [0, 2],
             "tree_info": [0, 0], "trees": [tree, dict(tree)]}  # fmt: skip
    return json.dumps({"learner": {"gradient_booster": {"model": model}}}).encode()


@pytest.fixture
def boost(tmp_path, monkeypatch):
    """Return a function that trains with trees that nodes send, and returns the model and the rows of the run."""
    monkeypatch.setattr(Strategy, "start", Strategy.start)
    for name, value in (("_task_id", 1), ("_run_id", 17), ("_node_id", 0)):
        monkeypatch.setattr(TaskIdentity, name, value)
    supervisor.supervise(tmp_path / "runs", tmp_path / "checkpoints")

    def train(strategy, rounds, trees_of):
        class Grid(federation.Grid):
            def _answer(self, message):
                node, kind = message.metadata.dst_node_id, message.metadata.message_type
                content = RecordDict({"metrics": MetricRecord({"num-examples": 1})})
                if kind == "train":
                    grown = trees_of(node, message.content["config"]["server-round"])
                    content["arrays"] = ArrayRecord([np.frombuffer(grown, dtype=np.uint8)])
                reply = Message(content, reply_to=message)
                reply.metadata.__dict__["_src_node_id"] = node
                return reply

        start = ArrayRecord([np.zeros(0, dtype=np.uint8)])
        result = strategy.start(grid=Grid(None, {}, 3), initial_arrays=start, num_rounds=rounds)
        lines = (tmp_path / "runs" / "17" / "metrics.jsonl").read_text().splitlines()
        return result.arrays["0"].numpy().tobytes(), [json.loads(line) for line in lines]

    return train


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"\x80\x04 no trees", "its trees cannot be read"),
        (b"[" * 100_000, "its trees cannot be read"),
        (b"{}", "its trees cannot be read"),
        (forest().replace(b'"num_trees": "2"', b'"num_trees": "9"'), "its trees are not complete"),
        (forest(right_children=[7, -1, -1]), "its trees are not complete"),
        (forest(leaf=float("nan")), "its trees have values that are not finite"),
        (forest(leaf=1e30), "its trees have a value that is too large: 1e+30"),
    ],
)
def test_trees_that_would_end_the_run_are_left_out_and_the_node_is_named(boost, bad, reason):
    model, rows = boost(FedXgbBagging(), 2, lambda node, _: bad if node == 101 else forest())
    grown = json.loads(model)["learner"]["gradient_booster"]["model"]["trees"]
    assert len(grown) == 2 * 2 * 2, "two trees of two nodes in two rounds"
    assert [(row["nodes"], row["failures"]) for row in rows] == [(2, 1), (2, 1)]
    assert [fault["reason"] for fault in rows[0]["faults"]] == [reason]


def test_the_rounds_of_several_strategies_in_one_run_are_counted_through(boost, tmp_path):
    for strategy in (FedXgbBagging(), FedXgbCyclic()):
        _, rows = boost(strategy, 2, lambda *_: forest())
    assert [(row["round"], row["rounds"], row["nodes"]) for row in rows] == [(1, 2, 3), (2, 2, 3), (3, 4, 1), (4, 4, 1)]
    assert (
        json.loads((tmp_path / "runs" / "17" / "result.json").read_text())["strategy"] == "FedXgbBagging, FedXgbCyclic"
    )


UBJ = b"{L\0\0\0\0"  # XGBoost's binary format
LINEAR = b'{"learner": {"gradient_booster": {"name": "gblinear", "model": {"weights": [1.0]}}}}'


@pytest.mark.parametrize(
    ("good", "bad", "reason"),
    [
        (forest(), b"\x80\x04 no trees", "its model has another format than the one that it was sent"),
        (forest(), b"{}", "its model has another format than the one that it was sent"),
        (forest(), b"", "its model is empty"),
        (forest(), forest(leaf=float("nan")), "its trees have values that are not finite"),
        (UBJ, b"[" * 100_000, "its model has another format than the one that it was sent"),
        (LINEAR, forest(), "its model has another format than the one that it was sent"),
    ],
)
def test_a_model_that_is_handed_on_is_not_replaced_by_one_that_nobody_can_read(boost, good, bad, reason):
    model, rows = boost(FedXgbCyclic(), 3, lambda _, server_round: bad if server_round == 2 else good)
    assert model == good
    assert [(row["nodes"], row["failures"]) for row in rows] == [(1, 0), (0, 1), (1, 0)]
    assert [fault["reason"] for fault in rows[1]["faults"]] == [reason]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (change("weights", lambda array: np.where(array == array.max(), np.nan, array)), "its weights has values that are not finite"),
        (change("biases", lambda array: array - np.inf), "its biases has values that are not finite"),
        (change("weights", lambda array: array * 1e12), "its weights is too large: "),
        (change("weights", lambda array: array[:, :5]), "its weights has the shape 64 x 5, the global model's 64 x 10"),
        (change("more", lambda _: np.zeros(3)), "its model has other arrays than those of other nodes"),
        (no_examples, "it has no examples"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("strategy", ["FedAvg", "FedMedian"])
def test_what_would_ruin_the_model_is_left_out_and_the_node_is_named(tmp_path, monkeypatch, spoil, reason, strategy):
    def second_node(node, message, reply):
        if node == 101 and message.metadata.message_type == "train":
            spoil(reply)
        return reply

    monkeypatch.setattr(Strategy, "start", Strategy.start)
    supervisor.supervise(tmp_path / "runs", tmp_path / "checkpoints")
    trained = federation.train(
        monkeypatch, "image-classification", 3, spoil=second_node, framework="sklearn", num_server_rounds=2,
        local_epochs=2, strategy=strategy,
    )  # fmt: skip
    assert trained.accuracy > 0.8
    rows = [json.loads(line) for line in (tmp_path / "runs" / "17" / "metrics.jsonl").read_text().splitlines()]
    assert [(row["nodes"], row["failures"]) for row in rows] == [(2, 1), (2, 1)]
    [fault] = rows[0]["faults"]
    assert (fault["node"], fault["phase"], fault["kind"]) == ("101", "train", "left out")
    assert reason in fault["reason"]


def raw(dtype="int64", stype="numpy.ndarray", data=None, shape=(3,)):
    return Array(dtype, shape, stype, Array(np.arange(3)).data if data is None else data)


@pytest.mark.parametrize(
    ("model", "bad", "reason"),
    [
        (raw(), raw(stype="theirs"), "its w cannot be read"),
        (raw(), raw(data=b"no array"), "its w cannot be read"),
        (raw(), raw(data=Array(np.array([1.0, np.nan, 2.0])).data), "its w has values that are not finite"),
        (raw(), raw("of their own"), ""),
        (raw("float32", "theirs", b"3 numbers"), raw("float32", "theirs", b"and 3 more"), ""),
        (raw(shape=(0,)), raw(stype="theirs"), "its w cannot be read"),
    ],
)
def test_what_an_array_says_of_itself_is_not_believed_and_what_only_the_app_can_read_is_left_to_it(model, bad, reason):
    updates = [Update(node, [("w", array)], empty=False, reply=node) for node, array in ((1, model), (2, bad))]
    sound, reasons = sift(updates, ArrayRecord({"w": model}))
    assert (sound, reasons) == (([1], {2: reason}) if reason else ([1, 2], {}))
