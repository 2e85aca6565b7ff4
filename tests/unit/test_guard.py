"""Weights that would ruin the global model are left out, and the node is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import Strategy

from oneflower_appliance.training import supervisor

from . import federation


def change(name, make):
    def spoil(reply):
        arrays = {key: array.numpy() for key, array in reply.content["arrays"].items()}
        arrays[name] = make(arrays.get(name))
        reply.content["arrays"] = ArrayRecord({key: Array(array) for key, array in arrays.items()})

    return spoil


def no_examples(reply):
    reply.content["metrics"]["num-examples"] = 0


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
