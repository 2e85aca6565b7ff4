"""The best round of a run by a metric, and the models that are kept of such rounds."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from oneflower.cloud.best_model import best_model_file
from oneflower_appliance.best_round import Best, best_of, lower_is_better, metrics_of, usual_best
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.runs import RunRow
from oneflower_appliance.training import best_models
from oneflower_appliance.training.best_models import BestModels


def row(number, server=None, **evaluate):
    fixed = {"rounds": 9, "seconds": 1, "nodes": 2, "failures": 0}
    return RunRow.parse(
        json.dumps({"round": number, **fixed, "evaluate": evaluate} | ({"server": server} if server else {}))
    )


ROWS = [
    row(1, loss=0.5, accuracy=0.7, f1=0.1, note="text"),
    row(2, loss=0.2, accuracy=0.9, f1=0.3),
    row(3, loss=float("nan"), accuracy=0.9, f1=0.2),
    row(4, loss=0.3, accuracy=0.8, f1=0.2),
]


@pytest.mark.parametrize(
    ("name", "found"),
    [("loss", (2, 0.2)), ("accuracy", (3, 0.9)), ("f1", (2, 0.3)), ("note", None), ("nothing", None)],
)
def test_the_best_round_by_a_metric_is_the_later_of_two_equal_ones(name, found):
    assert best_of(ROWS, name) == (Best(name, *found) if found else None)


def test_the_usual_metric_is_the_loss_then_the_accuracy_then_the_first_by_name():
    assert usual_best(ROWS).metric == "loss"
    assert usual_best([row(1, accuracy=0.5, auc=0.7)]).metric == "accuracy"
    assert usual_best([row(1, f1=0.5, auc=0.7)]).metric == "auc"
    assert usual_best([row(1)]) is None
    assert metrics_of(ROWS) == ["loss", "accuracy", "f1"]
    assert best_of([row(1, server={"f1": 0.9}, f1=0.1)], "f1").value == 0.9, "the server's evaluation counts more"


def test_the_direction_is_in_the_last_word_of_a_name():
    assert all(map(lower_is_better, ("loss", "val_loss", "test-RMSE", "evaluate.mae")))
    assert not any(map(lower_is_better, ("accuracy", "lossless", "f1", "auc")))


def model(number):
    return ArrayRecord({"w": Array(np.full(3, number))})


def trained(folder, rows=ROWS, **options):
    best = BestModels(folder, at_once=options.get("at_once", False))
    for one in rows:
        best.offer(one, model(one.round))
    return best


def kept(folder):
    return {path.name: np.load(path)["w"][0] for path in sorted(folder.glob("best-*.npz"))}


def test_the_models_of_the_best_rounds_are_there_at_the_end_without_that_of_the_last(tmp_path):
    best = trained(tmp_path)
    assert kept(tmp_path) == {}, "rounds cost nothing"
    best.finish(4)
    assert kept(tmp_path) == {"best-00002.npz": 2, "best-00003.npz": 3}
    trained(tmp_path / "other", ROWS[:2]).finish(2)
    assert kept(tmp_path / "other") == {}


@pytest.mark.parametrize("large", [True, False])
def test_a_large_model_or_one_of_a_run_with_checkpoints_is_not_held_in_memory(tmp_path, monkeypatch, large):
    monkeypatch.setattr(best_models, "_HELD_BYTES", 1 if large else 1 << 20)
    best = trained(tmp_path, ROWS[:3], at_once=not large)
    best.wait()
    assert kept(tmp_path) == {"best-00002.npz": 2}
    best.offer(row(5, loss=0.1, accuracy=0.95, f1=0.5), model(5))
    assert kept(tmp_path) == {}, "it is not the best any more"
    best.finish(5)


def test_no_more_than_a_few_metrics_count(tmp_path):
    names = [f"m{number}" for number in range(9)]
    rows = [row(number + 1, **{name: float(name == names[number]) for name in names}) for number in range(9)]
    trained(tmp_path, rows).finish(9)
    assert len(kept(tmp_path)) == best_models.MOST


def test_a_run_that_resumes_a_lost_one_has_its_best_models(tmp_path):
    lost = trained(tmp_path / "5", ROWS[:3], at_once=True)
    lost.wait()
    checkpoint = SimpleNamespace(round=3, arrays={"w": np.full(3, 3)})
    again = BestModels(tmp_path / "6", at_once=True)
    again.resume(ROWS[:3], [tmp_path / "died at once", tmp_path / "5"], checkpoint)
    again.offer(ROWS[3], model(4))
    again.finish(4)
    assert kept(tmp_path / "6") == {"best-00002.npz": 2, "best-00003.npz": 3}


def test_a_model_that_was_not_kept_is_not_replaced_by_another():
    files = ["model.npz", "best-00002.npz"]
    assert best_model_file("5", ROWS, files, "")[0] == "best-00002.npz"
    assert best_model_file("5", ROWS[:2], files, "loss")[0] == "model.npz"
    with pytest.raises(OneflowerError, match="not kept the model of round 3, the best by accuracy") as caught:
        best_model_file("5", ROWS, files, "accuracy")
    assert "best by loss, f1" in caught.value.hint
    with pytest.raises(OneflowerError, match="has a metric 'recall'") as caught:
        best_model_file("5", ROWS, files, "recall")
    assert caught.value.hint == "It has: loss, accuracy, f1."
    with pytest.raises(OneflowerError, match="was not evaluated"):
        best_model_file("5", [row(1)], files, "")
