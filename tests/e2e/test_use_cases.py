"""Every strategy and every use case, with every framework that it has, on real federations."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oneflower.runtimes import runtime
from oneflower_appliance.parameters import STRATEGIES
from oneflower_appliance.use_cases import TREE_STRATEGIES

from .conftest import RELEASE

pytestmark = pytest.mark.e2e

PERSONAL = "personal-model.npz"  # on each node: the whole model with its own layers


def deploy(user, name, supernodes=2, **settings):
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return user("up", name, "--supernodes", str(supernodes), "--min-vms", str(supernodes), "--timeout", "900", *words)


def results(user, name, *arguments):
    return json.loads(user("run", *arguments, "-f", name, "-o", "json").stdout)


def outcome(result):
    """The metrics of the last round, from the nodes or the server."""
    metrics = result["rows"][-1]["metrics"]
    return metrics.get("server") or metrics["evaluate"]


def fetched(user, name, path):
    user("model", name, "--save", str(path))
    return np.load(path)


def test_every_strategy_trains(user):
    names = [name for name in STRATEGIES if name not in TREE_STRATEGIES]
    deploy(user, "three", 3, FL_MIN_AVAILABLE_CLIENTS=3, FL_MIN_FIT_CLIENTS=3)

    def run(strategy):
        return results(user, "three", "image-classification", "-r", "1", "-c", f"strategy={strategy}", "-c",
                       "proximal-mu=0.01")  # fmt: skip

    try:
        with ThreadPoolExecutor(4) as pool:
            found = dict(zip(names, pool.map(run, names), strict=True))
    finally:
        user("down", "three")
    for strategy, result in found.items():
        [row] = result["rows"]
        assert (row["nodes"], row["failures"]) == (3, 0), strategy
        assert json.loads((user.folder / result["metrics"]).read_text())["strategy"] == strategy
        assert row["accuracy"] > 0.5, strategy


def test_pytorch_classifies_images_and_finds_anomalies(user):
    deploy(user, "torch", ML_FRAMEWORK="pytorch", FL_MIXED_PRECISION="bf16")
    try:
        images = results(user, "torch", "image-classification", "-r", "1")
        in_half_precision = user("logs", "torch").stdout.count("Training in mixed precision, bf16.")
        tumours = results(user, "torch", "anomaly-detection", "-r", "1", "-c", "mixed-precision=fp16")
        in_full_precision = user("logs", "torch").stdout.count("Training in full precision: fp16 is for GPUs")
        config = ("model=cnn-bn", "personalization=fedbn", "fine-tune-epochs=1", "dirichlet-alpha=0.2")
        own = results(user, "torch", "image-classification", "-r", "1", *(word for c in config for word in ("-c", c)))
        kept = [dict(np.load(path)) for path in user.home.state.rglob(PERSONAL)]
        modes = {path.stat().st_mode & 0o777 for path in user.home.state.rglob("personal-*.npz")}
    finally:
        user("down", "torch")
    assert_layers_stay_at_the_nodes(np.load(user.folder / own["model"]), kept)
    assert modes == {0o600}
    assert "| `1.running_mean` | 16 |" in (user.folder / own["card"]).read_text()
    before_and_after = {"loss", "accuracy", "fine_tuned_loss", "fine_tuned_accuracy"}
    assert [set(node["metrics"]) for node in own["across"]["scores"]] == [before_and_after] * 2
    assert (in_half_precision, in_full_precision) == (2, 2), "one task on each node"
    assert outcome(images)["accuracy"] > 0.9
    assert np.load(user.folder / images["model"])["0.weight"].dtype == np.float32
    assert outcome(tumours)["roc_auc"] > 0.94
    assert "| roc_auc |" in (user.folder / tumours["card"]).read_text()


def test_scikit_learn_finds_anomalies_by_the_form_alone(user, tmp_path):
    """A column that is missing on one node is one sentence; once it is fixed, the same form trains."""
    rng = np.random.default_rng(5)
    for node in range(2):
        (tmp_path / str(node)).mkdir()
        labels = np.arange(100) % 5 == 0
        table = np.column_stack([rng.normal(size=(100, 3)) + 5 * labels[:, None], labels])
        np.savetxt(tmp_path / str(node) / "x.csv", table, delimiter=",", header="a,b,c,label", comments="")
    good = (tmp_path / "1" / "x.csv").read_text()
    (tmp_path / "1" / "x.csv").write_text(good.replace("c,label", "c,quality"))
    form = {"FL_USE_CASE": "anomaly-detection", "FL_DATA_PATH": f"{tmp_path}/{{partition}}"}
    words = [word for key, value in form.items() for word in ("--set", f"{key}={value}")]
    try:
        done = user("up", "tables", *words, code=8)
        assert "has no column 'label'; it has a, b, c, quality" in done.stderr
        (tmp_path / "1" / "x.csv").write_text(good)
        assert outcome(results(user, "tables"))["roc_auc"] > 0.95
        model = fetched(user, "tables", tmp_path / "model.npz")
        preparation = json.loads((tmp_path / "model" / "preparation.json").read_text())
    finally:
        user("down", "tables")
    assert preparation["columns"] == ["a", "b", "c"]
    hidden = (np.zeros(3) - preparation["mean"]) / preparation["scale"] @ model["0.weight"] + model["0.bias"]
    assert np.isfinite(hidden).all()


def assert_layers_stay_at_the_nodes(model, kept):
    """FedBN: the model lacks batch normalisation, and each node has a whole one with layers of its own."""
    assert set(model) == {"0.weight", "0.bias", "4.weight", "4.bias", "9.weight", "9.bias"}
    one, other = kept
    assert set(one) == set(other) > set(model)
    assert not np.allclose(one["1.running_mean"], other["1.running_mean"])


@pytest.mark.frameworks
def test_jax_finds_anomalies(user):
    deploy(user, "jax", ML_FRAMEWORK="jax")
    try:
        tumours = results(user, "jax", "anomaly-detection", "-r", "1")
    finally:
        user("down", "jax")
    assert outcome(tumours)["roc_auc"] > 0.94
    assert json.loads((user.folder / tumours["metrics"]).read_text())["versions"]["jax"]


def test_xgboost_grows_trees_by_the_form_alone_and_one_node_after_the_other(user, tmp_path):
    form = {"FL_USE_CASE": "anomaly-detection", "ML_FRAMEWORK": "xgboost", "FL_STRATEGY": "FedXgbBagging"}
    try:
        assert "completed, round 3 of 3" in deploy(user, "trees", **form).stdout
        model = fetched(user, "trees", tmp_path / "model.npz")
        cyclic = results(user, "trees", "anomaly-detection", "-r", "2", "-c", "strategy=FedXgbCyclic")
    finally:
        user("down", "trees")
    saved = (tmp_path / "model" / "trees.json").read_bytes()
    assert model["0"].tobytes() == saved
    forest = json.loads(saved)["learner"]["gradient_booster"]["model"]
    assert len(forest["trees"]) == 3 * 2 * 10, "ten trees of each node in each round"
    assert json.loads((tmp_path / "model-metrics.json").read_text())["rows"][-1]["evaluate"]["roc_auc"] > 0.97
    assert [row["nodes"] for row in cyclic["rows"]] == [1, 1]
    assert outcome(cyclic)["roc_auc"] > 0.97


@pytest.mark.frameworks
def test_lightgbm_grows_trees_on_one_node_after_the_other_by_the_form_alone(user, tmp_path):
    form = {"FL_USE_CASE": "anomaly-detection", "ML_FRAMEWORK": "lightgbm", "FL_STRATEGY": "FedXgbCyclic"}
    try:
        assert "completed, round 3 of 3" in deploy(user, "light", **form).stdout
        model = fetched(user, "light", tmp_path / "model.npz")
    finally:
        user("down", "light")
    saved = (tmp_path / "model" / "trees.txt").read_bytes()
    assert model["0"].tobytes() == saved
    assert saved.count(b"\nTree=") == 3 * 10, "ten trees of one node in each round"
    metrics = json.loads((tmp_path / "model-metrics.json").read_text())
    assert [row["nodes"] for row in metrics["rows"]] == [1, 1, 1]
    assert metrics["rows"][-1]["evaluate"]["roc_auc"] > 0.97
    assert metrics["versions"]["lightgbm"]


def test_tensorflow_classifies_images_of_ones_own_by_the_form_alone(user, tmp_path):
    rng = np.random.default_rng(6)
    for node in range(2):
        for kind in ("stripes", "noise"):
            folder = tmp_path / str(node) / kind
            folder.mkdir(parents=True)
            for number in range(20):
                pixels = rng.integers(0, 120, (40, 40, 3)).astype(np.uint8)
                pixels[::4] = 255 if kind == "stripes" else pixels[::4]
                Image.fromarray(pixels).save(folder / f"{number}.png")
    form = {"FL_USE_CASE": "image-classification", "ML_FRAMEWORK": "tensorflow", "FL_MODEL": "cnn",
            "FL_NUM_ROUNDS": 3, "FL_DATA_PATH": f"{tmp_path}/{{partition}}"}  # fmt: skip
    try:
        done = deploy(user, "tf", **form)
        assert "completed, round 3 of 3" in done.stdout
        assert user.show("tf")["training"]["row"]["accuracy"] > 0.8
        model = fetched(user, "tf", tmp_path / "own.npz")
    finally:
        user("down", "tf")
    assert model[model.files[-1]].shape == (2,)
    assert "own images" in (tmp_path / "own-card.md").read_text()


def test_a_language_model_is_tuned_and_peft_loads_the_adapter(user, tmp_path):
    python = runtime.ensure(user.home.runtimes, RELEASE, "pytorch").python
    script = Path(__file__).parent / "language_model.py"
    subprocess.run([python, script, "make", tmp_path], check=True, capture_output=True)
    form = {"ML_FRAMEWORK": "pytorch", "FL_MODEL": tmp_path / "model",
            "FL_DATA_PATH": f"{tmp_path}/data-{{partition}}"}  # fmt: skip
    more = ("-r", "1", "-c", "learning-rate=0.01", "-c", "local-epochs=10")
    try:
        deploy(user, "llm", **form)
        tuned = results(user, "llm", "llm-fine-tuning", *more)
        model = fetched(user, "llm", tmp_path / "tuned.npz")
    finally:
        user("down", "llm")
    assert outcome(tuned)["perplexity"] < 6
    assert all("lora" in name for name in model.files)
    adapter = tmp_path / "tuned" / "adapter"
    compare = [python, script, "compare", tmp_path, adapter]
    said = json.loads(subprocess.run(compare, check=True, capture_output=True, text=True).stdout)
    assert said["before"] < 0.5
    assert said["after"] > 0.9
