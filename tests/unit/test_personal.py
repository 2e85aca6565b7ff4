"""Layers that stay at the nodes and models of their own, with the pre-built app and no processes.

The real FedBN, with PyTorch, is in tests/e2e/test_across.py.
"""

from __future__ import annotations

import json
import stat

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.orders import RUNS_VARIABLE
from oneflower_appliance.settings import InvalidParametersError, resolve
from oneflower_appliance.training.personal import Personal, choose, refuse

from . import federation

ARRAYS = {name: np.zeros(2) for name in ("0.weight", "1.weight", "1.bias", "4.weight", "4.bias")}


def chosen(kind, layers="", norms=(), arrays=ARRAYS):
    return choose({"personalization": kind, "personal-layers": layers}, arrays, norms, "cnn")


def test_fedbn_keeps_normalisation_and_fedper_the_last_layer_or_what_is_named():
    assert chosen("none") == []
    assert chosen("fedbn", norms=["1.weight", "1.bias"]) == ["1.weight", "1.bias"]
    assert chosen("fedper") == ["4.weight", "4.bias"]
    assert chosen("fedper", "0.*, 1.bias") == ["0.weight", "1.bias"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("fedbn",), "FedBN keeps batch normalisation at the nodes, and the model cnn has none."),
        (("fedper", "5.*"), "No array of the model cnn is called 5.*."),
        (("fedper", "*"), "Every array of the model cnn would stay at the nodes"),
        (("fedper", "", (), {"weights": np.zeros(1), "biases": np.zeros(1)}), "Every array of the model cnn would"),
    ],
)
def test_what_would_keep_nothing_or_everything_is_refused(given, sentence):
    with pytest.raises(OneflowerError, match=sentence.replace("*", r"\*")):
        chosen(*given)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"FL_USE_CASE": "anomaly-detection", "FL_PERSONALIZATION": "fedper"}, "has no personal models"),
        ({"FL_USE_CASE": "llm-fine-tuning", "ML_FRAMEWORK": "pytorch", "FL_FINE_TUNE_EPOCHS": "1"}, "has no personal"),
        ({"FL_USE_CASE": "image-classification", "FL_PERSONALIZATION": "fedbn"}, "FL_MODEL=cnn-bn and PyTorch"),
    ],
)
def test_the_form_says_what_cannot_be_personal(given, problem):
    with pytest.raises(InvalidParametersError, match=problem):
        resolve(given)
    monai = {"FL_USE_CASE": "image-classification", "ML_FRAMEWORK": "monai", "FL_MODEL": "cnn-bn"}
    resolve(monai | {"FL_PERSONALIZATION": "fedbn", "FL_FINE_TUNE_EPOCHS": "2"})


def test_another_app_refuses_a_run_config_that_asks_for_it():
    refuse({"personalization": "none", "fine-tune-epochs": 0})
    with pytest.raises(OneflowerError, match="fine-tune-epochs=3"):
        refuse({"personalization": "none", "fine-tune-epochs": 3})


def test_a_file_of_another_model_or_a_damaged_one_is_refused_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv(RUNS_VARIABLE, str(tmp_path))
    own = Personal(Context(1, 2, {}, RecordDict(), {}), {"personal": ["b"], "first-run": "17"})
    own.keep({"a": np.ones(2), "b": np.ones(3)})
    [path] = tmp_path.rglob("*.npz")
    assert path == tmp_path / "17" / "files" / "personal-layers.npz"
    with pytest.raises(OneflowerError, match="does not fit the model: b"):
        own.complete({"a": np.ones(2)}, {"a": np.ones(2), "b": np.ones(4)})
    path.write_bytes(b"half")
    with pytest.raises(OneflowerError, match=str(path)):
        own.complete({"a": np.ones(2)}, {"a": np.ones(2), "b": np.ones(3)})
    outside = Personal(Context(1, 2, {}, RecordDict(), {}), {"personal": ["b"], "first-run": "../../17"})
    outside.keep({"a": np.ones(2), "b": np.ones(3)})
    assert list(tmp_path.rglob("*.npz")) == [path], "the server names no other folder"


@pytest.mark.parametrize("kept", ["in a file", "in Flower's context"])
def test_personal_layers_are_never_sent_and_each_node_has_its_own(kept, monkeypatch, tmp_path):
    if kept == "in a file":
        monkeypatch.setenv(RUNS_VARIABLE, str(tmp_path))
        monkeypatch.chdir(tmp_path)
    crossed, evaluations = [], []

    def watch(node, message, reply):
        for one in (message, reply):
            crossed.extend(name for record in one.content.array_records.values() for name in record)
        if message.metadata.message_type == "evaluate":
            evaluations.append(dict(reply.content.metric_records["metrics"]))
        return reply

    trained = federation.train(
        monkeypatch, "image-classification", spoil=watch, framework="sklearn", num_server_rounds=2, local_epochs=1,
        personalization="fedper", personal_layers="bias*", fine_tune_epochs=2, dirichlet_alpha=0.3,
    )  # fmt: skip
    assert set(crossed) == {"weights"}
    assert list(trained.result.arrays) == ["weights"]
    assert trained.rounds == [], "the server cannot test it"
    assert ["fine_tuned_accuracy" in found for found in evaluations] == [False, False, True, True]
    assert all(found["fine_tuned_loss"] != found["loss"] for found in evaluations[2:])
    files = {path.name: path for path in tmp_path.rglob("*.npz")}
    assert set(files) == ({"personal-layers.npz", "personal-model.npz"} if kept == "in a file" else set())
    for path in files.values():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    if files:
        assert list(np.load(files["personal-model.npz"])) == ["weights", "biases"]
        said = json.loads((tmp_path / "17" / "personal.json").read_text())
        assert said == {"kind": "fedper", "arrays": {"biases": [10]}, "parameters": 10, "all": 650}
