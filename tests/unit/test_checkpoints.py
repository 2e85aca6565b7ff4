"""Checkpoints, and runs that resume from them: Flower's strategies, the pre-built app's clients, no processes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from flwr.serverapp.strategy import Strategy

from oneflower_appliance import node_reports
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.orders import FORM_VARIABLE
from oneflower_appliance.training import supervisor

from . import federation


class Killed(BaseException):
    """What kill -9 is in one process."""


class SuperLink:
    """The folders of a SuperLink, and what happens to its runs."""

    def __init__(self, folder, monkeypatch):
        self.runs, self.checkpoints = folder / "runs", folder / "checkpoints"
        self._monkeypatch = monkeypatch
        self.form(FL_CHECKPOINT_ENABLED="YES", FL_CHECKPOINT_INTERVAL="2")
        monkeypatch.setattr(Strategy, "start", Strategy.start)
        supervisor.supervise(self.runs, self.checkpoints)

    def form(self, **values):
        self._monkeypatch.setenv(FORM_VARIABLE, json.dumps(values))

    def train(self, run_id, resumes=None, killed_in=None, killed_at="train", **settings):
        if resumes:
            (self.runs / str(run_id)).mkdir(parents=True)
            origin = {"resumes": str(resumes), "first": "1"}
            (self.runs / str(run_id) / "origin.json").write_text(json.dumps(origin))

        def spoil(_node, message, reply):
            number, what = message.content["config"].get("server-round"), message.metadata.message_type
            if killed_in and (number, what) == (killed_in, killed_at):
                raise Killed
            return reply

        settings = {"framework": "sklearn", "num_server_rounds": 6, "local_epochs": 2, **settings}
        return federation.train(self._monkeypatch, "image-classification", spoil=spoil, run_id=run_id, **settings)

    def rows(self, run_id):
        return [json.loads(line) for line in (self.runs / str(run_id) / "metrics.jsonl").read_text().splitlines()]

    def reports(self, run_id):
        return list(node_reports.lines_after(self.runs / str(run_id)))

    def kept(self):
        return sorted(path.name for path in (self.checkpoints / "1").iterdir())


@pytest.fixture
def link(tmp_path, monkeypatch):
    return SuperLink(tmp_path, monkeypatch)


@pytest.mark.parametrize("strategy", ["FedAvg", "FedAdam", "FedYogi", "FedAdagrad"])
def test_a_run_that_was_killed_and_goes_on_ends_where_an_unbroken_one_ends(link, strategy):
    unbroken = link.train(9, strategy=strategy)
    with pytest.raises(Killed):
        link.train(1, killed_in=4, strategy=strategy)
    resumed = link.train(2, resumes=1, strategy=strategy)
    for name, array in unbroken.result.arrays.items():
        assert np.array_equal(array.numpy(), resumed.result.arrays[name].numpy()), name
    assert resumed.accuracy == unbroken.accuracy
    assert [row["round"] for row in link.rows(2)] == [1, 2, 3, 4, 5, 6]
    assert [row["rounds"] for row in link.rows(2)] == [6] * 6
    assert sorted(resumed.result.train_metrics_clientapp) == [3, 4, 5, 6]


def test_a_run_may_be_killed_again_and_again(link):
    unbroken = link.train(9)
    for number, round_ in ((1, 3), (2, 4), (3, 6)):
        with pytest.raises(Killed):
            link.train(number, resumes=number - 1 or None, killed_in=round_)
    assert link.train(4, resumes=3).accuracy == unbroken.accuracy
    assert [row["round"] for row in link.rows(4)] == [1, 2, 3, 4, 5, 6]


def test_a_run_that_was_killed_after_its_last_round_only_ends(link):
    unbroken = link.train(1)
    again = link.train(2, resumes=1)
    assert np.array_equal(again.result.arrays["weights"].numpy(), unbroken.result.arrays["weights"].numpy())
    assert len(link.rows(2)) == 6
    assert (link.runs / "2" / "model.npz").exists()


def alike(rows):
    return [{key: value for key, value in row.items() if key not in {"seconds", "ended"}} for row in rows]


@pytest.mark.parametrize("checkpoints", ["YES", "NO"])
def test_killed_in_its_last_evaluation_a_run_has_its_model_and_goes_on_to_evaluate_it(link, checkpoints):
    link.form(FL_CHECKPOINT_ENABLED=checkpoints, FL_CHECKPOINT_INTERVAL="2")
    unbroken = link.train(9)
    with pytest.raises(Killed):
        link.train(1, killed_in=6, killed_at="evaluate")
    summary = json.loads((link.runs / "1" / "result.json").read_text())
    assert (summary["rounds"], summary["last"]["train"]) == (6, link.rows(9)[5]["train"])
    (link.runs / "2").mkdir()  # resumed by a run that died before it could record anything
    (link.runs / "2" / "origin.json").write_text('{"resumes": "1", "first": "1", "attempt": 2}')
    again = link.train(3, resumes=2)
    assert alike(link.rows(3)) == alike(link.rows(9))
    assert link.reports(3) == link.reports(9)
    assert again.accuracy == unbroken.accuracy
    for run in (1, 3):
        with np.load(link.runs / str(run) / "model.npz") as model:
            assert all(np.array_equal(model[name], unbroken.result.arrays[name].numpy()) for name in model.files)
    assert json.loads((link.runs / "3" / "result.json").read_text())["last"] == link.rows(3)[5]


def test_killed_in_an_evaluation_a_run_evaluates_that_round_again(link):
    link.form(FL_CHECKPOINT_ENABLED="YES", FL_CHECKPOINT_INTERVAL="1")
    link.train(9)
    with pytest.raises(Killed):
        link.train(1, killed_in=4, killed_at="evaluate")
    link.train(2, resumes=1)
    assert alike(link.rows(2)) == alike(link.rows(9))
    assert link.reports(2) == link.reports(9)


def test_what_a_checkpoint_holds(link):
    link.train(1, strategy="FedAdam", num_server_rounds=5)
    assert (link.checkpoints / "1" / "latest").read_text() == "round-00005\n"
    facts = json.loads((link.checkpoints / "1" / "round-00005.json").read_text())
    assert (facts["round"], facts["rounds"], facts["run"], facts["strategy"]) == (5, 5, "1", "FedAdam")
    assert facts["arrays"] == {"weights": [64, 10], "biases": [10]}
    assert facts["metrics"]["train_loss"] > 0
    assert facts["time"].startswith("20")
    model = np.load(link.checkpoints / "1" / "round-00005.npz")
    assert {name: model[name].shape for name in model} == {"weights": (64, 10), "biases": (10,)}
    assert set(np.load(link.checkpoints / "1" / "round-00005.state.npz")) == {
        "m_t/weights", "m_t/biases", "v_t/weights", "v_t/biases",
    }  # fmt: skip


def test_the_newest_are_kept(link):
    link.form(FL_CHECKPOINT_ENABLED="YES", FL_CHECKPOINT_INTERVAL="1", FL_CHECKPOINT_KEEP="2")
    link.train(1)
    assert link.kept() == ["latest", "round-00005.json", "round-00005.npz", "round-00006.json", "round-00006.npz"]


def test_nothing_is_written_unless_asked_for_and_another_folder_may_be_named(link, tmp_path):
    link.form()
    link.train(1, num_server_rounds=1)
    assert not link.checkpoints.exists()
    link.form(FL_CHECKPOINT_ENABLED="YES", FL_CHECKPOINT_PATH=str(tmp_path / "volume"))
    link.train(2, num_server_rounds=1)
    assert (tmp_path / "volume" / "2" / "round-00001.npz").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "round-00006.npz").write_bytes(b"half"),
        lambda folder: (folder / "round-00006.npz").unlink(),
        lambda folder: (folder / "round-00006.json").write_text('{"round": 6,'),
        lambda folder: (folder / "round-00006.json").unlink(),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(link, damage):
    unbroken = link.train(1)
    damage(link.checkpoints / "1")
    resumed = link.train(2, resumes=1)
    assert sorted(resumed.result.train_metrics_clientapp) == [5, 6]
    assert resumed.accuracy == unbroken.accuracy


def test_without_any_checkpoint_a_run_begins_anew(link):
    link.form()
    with pytest.raises(Killed):
        link.train(1, killed_in=4)
    assert sorted(link.train(2, resumes=1).result.train_metrics_clientapp) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"strategy": "FedAdam"}, "was trained with FedAvg, not FedAdam"),
        ({"num_server_rounds": 3}, "is of round 6, and the run is to have 3"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(link, settings, sentence):
    link.train(1)
    with pytest.raises(OneflowerError, match=sentence):
        link.train(2, resumes=1, **settings)


def test_a_checkpoint_of_another_model_is_refused(link, monkeypatch):
    link.train(1)
    softmax = federation.app_module("image-classification", "softmax")
    monkeypatch.setattr(softmax, "initial", lambda *_: {"weights": np.zeros((64, 11)), "biases": np.zeros(11)})
    with pytest.raises(OneflowerError, match="is of another model"):
        link.train(2, resumes=1)


def test_a_disk_that_is_full_costs_the_checkpoint_and_not_the_run(link, caplog, monkeypatch):
    link.checkpoints.write_text("in the way")
    assert link.train(1).accuracy > 0.8
    assert "The run continues; the checkpoint of round 2 is lost" in caplog.text
