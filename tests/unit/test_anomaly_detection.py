"""The anomaly detection app: its tables, how it judges over all nodes, and that it learns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from flwr.app import Context, RecordDict
from pyarrow import csv, parquet

from oneflower.cloud.apps import load_app
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.training.data import DataError
from oneflower_appliance.training.survey import Survey

from .federation import app_module, train

CONFIG = dict(load_app("anomaly-detection", {}).config)


def last(trained):
    """The metrics of the last round over all nodes."""
    return dict(trained.result.evaluate_metrics_clientapp[max(trained.result.evaluate_metrics_clientapp)])


def write(folder, rows=40, seed=0, **columns):
    """A table of two features, a quarter of its rows being anomalies far from the others."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(rows) % 4 == 0).astype(int)
    content = {"a": rng.normal(size=rows) + 8 * labels, "b": rng.normal(size=rows), "label": labels} | columns
    folder.mkdir(exist_ok=True)
    csv.write_csv(pa.table({name: values for name, values in content.items() if values is not None}), folder / "x.csv")
    return folder


def context(folder, **config):
    return Context(1, 2, {"data-path": str(folder)}, RecordDict(), CONFIG | config)


def load(folder, **config):
    return app_module("anomaly-detection", "tables").load(context(folder, **config))


@pytest.mark.parametrize("more", [{}, {"strategy": "FedProx"}, {"dirichlet_alpha": 0.1}])
def test_malignant_tumours_are_told_from_benign_ones_that_alone_were_learnt(monkeypatch, more):
    found = last(train(monkeypatch, "anomaly-detection", 3, framework="sklearn", num_server_rounds=2, **more))
    assert found["roc_auc"] > 0.92
    assert found["pr_auc"] > 0.88
    assert found["f1"] > 0.75


def test_own_tables_are_learnt_and_the_scale_is_left_with_the_model(monkeypatch, tmp_path):
    monkeypatch.setenv("ONEFLOWER_RUNS", str(tmp_path / "runs"))
    nodes = [{"data-path": str(write(tmp_path / str(seed), 80, seed))} for seed in (1, 2)]
    found = last(train(monkeypatch, "anomaly-detection", node_configs=nodes, framework="sklearn", bottleneck=1))
    assert found["roc_auc"] > 0.95
    [preparation] = (tmp_path / "runs").rglob("preparation.json")
    assert '"columns": [\n  "a",\n  "b"\n ]' in preparation.read_text()
    [data] = (tmp_path / "runs").rglob("data.json")
    assert "anomalies" in data.read_text()
    assert "_sums" not in data.read_text()


def test_trees_need_anomalies_to_learn_from_and_begin_at_their_share():
    found = app_module("anomaly-detection", "models").detector_of({"framework": "xgboost", "strategy": "FedXgbBagging"})
    rows = {1: {"examples": 60, "anomalies": 0}, 2: {"examples": 40, "anomalies": 10}}
    assert found.preparation(Survey(rows)) == {"nodes": 2, "prevalence": 0.1}
    with pytest.raises(OneflowerError, match="None of the 60 rows of all nodes is labelled 1"):
        found.preparation(Survey({1: rows[1]}))
    assert found.loss(np.array([4.0, 0.25]), np.array([1, 0])) == pytest.approx(-np.log(0.8))


def test_parquet_and_csv_are_the_same(tmp_path):
    from_csv = load(write(tmp_path / "csv"))
    (tmp_path / "parquet").mkdir()
    parquet.write_table(csv.read_csv(tmp_path / "csv" / "x.csv"), tmp_path / "parquet" / "x.parquet")
    from_parquet = load(tmp_path / "parquet")
    assert from_parquet.columns == from_csv.columns == ("a", "b")
    np.testing.assert_allclose(from_parquet.features, from_csv.features)
    assert from_parquet.labels.tolist() == from_csv.labels.tolist()


def test_what_cannot_be_used_is_named_with_file_and_column(tmp_path):
    cases = {
        r"x.csv has no column 'label'; it has a, b": {"label": None},
        r"x.csv: 2 of 40 values in column 'b' are missing": {"b": [None, float("nan"), *range(38)]},
        r"x.csv: column 'b' is not numeric \(string\)": {"b": ["red"] * 40},
        r"column 'label' has values other than 0 and 1": {"label": [2] * 40},
        r"x.csv: column 'b' has infinite values": {"b": [float("inf")] * 40},
        r"has no column but 'label'": {"a": None, "b": None},
    }
    for number, (sentence, columns) in enumerate(cases.items()):
        with pytest.raises(DataError, match=sentence):
            load(write(tmp_path / str(number), **columns))
    with pytest.raises(DataError, match="None of the .* rows to train on is normal"):
        load(write(tmp_path / "sick", label=[1] * 40)).split(7)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "readme.txt").write_text("nothing here")
    with pytest.raises(DataError, match="has no table"):
        load(tmp_path / "none")
    write(tmp_path / "two")
    csv.write_csv(pa.table({"a": [1.0], "c": [1.0], "label": [0]}), tmp_path / "two" / "y.csv")
    with pytest.raises(DataError, match="x.csv and y.csv have different columns: b, c"):
        load(tmp_path / "two")
    (tmp_path / "two" / "y.csv").write_bytes(b"\0\xff,\n\n,,,")
    with pytest.raises(DataError, match="y.csv"):
        load(tmp_path / "two")


def test_nodes_with_different_columns_are_told_apart(monkeypatch, tmp_path):
    nodes = [{"data-path": str(write(tmp_path / name, **{name: list(range(40))}))} for name in ("c", "d")]
    with pytest.raises(OneflowerError, match="columns is"):
        train(monkeypatch, "anomaly-detection", node_configs=nodes, framework="sklearn")


def test_a_node_without_anomalies_or_whose_test_has_normal_rows_only_takes_part(monkeypatch, tmp_path):
    nodes = [{"data-path": str(write(tmp_path / "one", 80, 1))},
             {"data-path": str(write(tmp_path / "two", 80, 2, label=[0] * 80))}]  # fmt: skip
    assert last(train(monkeypatch, "anomaly-detection", node_configs=nodes, framework="sklearn"))["roc_auc"] > 0.5


def test_the_metrics_of_all_nodes_together_are_those_of_all_their_rows():
    scores = app_module("anomaly-detection", "scores")
    rng = np.random.default_rng(3)
    normal, odd, trained = rng.lognormal(0, 1, 3000), rng.lognormal(1.5, 1, 700), rng.lognormal(0, 1, 5000)
    labels, everything = np.r_[np.zeros(3000), np.ones(700)], np.r_[normal, odd]
    found = scores.metrics(*map(scores.histogram, (normal, odd, trained)), 0.95)
    threshold = np.quantile(trained, 0.95)
    from sklearn import metrics  # slow to import, and collected by every worker

    assert found["roc_auc"] == pytest.approx(metrics.roc_auc_score(labels, everything), abs=0.005)
    assert found["pr_auc"] == pytest.approx(metrics.average_precision_score(labels, everything), abs=0.01)
    assert found["f1"] == pytest.approx(metrics.f1_score(labels, everything > threshold), abs=0.01)
    assert found["threshold"] == pytest.approx(threshold, rel=0.05)
    assert set(scores.metrics(scores.histogram(normal), scores.histogram(odd[:0]), [1] * 1024, 0.9)) == {
        "accuracy",
        "threshold",
    }
