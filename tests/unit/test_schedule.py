"""The form's run is started again at planned times, once each, and the best results give the model."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from oneflower.cloud.results import run_with_model
from oneflower.cloud.status import FederationStatus
from oneflower_appliance import attributes
from oneflower_appliance.agent.retention import Retention
from oneflower_appliance.agent.run_keeper import RunKeeper
from oneflower_appliance.parameter import Level
from oneflower_appliance.schedule import FILE, Schedule
from oneflower_appliance.settings import InvalidParametersError, resolve

from .test_run_keeper import NODES, Door, Gate

DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
NIGHTLY = {"FL_SCHEDULE": "0 2 * * *", "FL_SCHEDULE_ZONE": "Europe/Madrid"}


class Federation:
    """A SuperLink whose machine reboots and whose clock is moved, and what it has published."""

    def __init__(self, folder, **settings):
        self.folder, self.settings = folder, settings
        self.door, self.gate = Door(), Gate(FL_USE_CASE="image-classification")
        self.now = datetime(2026, 12, 1, 12, tzinfo=UTC)
        self.published = {}
        self.reboot()

    def reboot(self):
        settings = resolve({**NIGHTLY, **self.settings}, (Level.SERVICE, Level.SUPERLINK))
        self.keeper = RunKeeper(self.door, settings, self.folder / "runs", lambda: self.now)

    def look(self, after=timedelta(), times=2):
        self.now += after
        for _ in range(times):
            self.published |= self.keeper.look(self.gate, NODES)
        return self.schedule

    @property
    def schedule(self):
        return Schedule.recall(attributes.SCHEDULE.read(self.published))

    def end(self, loss=0.5, status="completed", model=True):
        """End the newest run, after a last round with this loss."""
        run = self.door.known[-1]
        folder = self.folder / "runs" / run["id"]
        folder.mkdir(parents=True)
        row = {"round": 1, "rounds": 1, "seconds": 1.0, "nodes": 2, "failures": 0, "evaluate_asked": 2, "evaluated": 2}
        (folder / "metrics.jsonl").write_text(json.dumps(row | {"evaluate": {"eval_loss": loss}}) + "\n")
        if model:
            (folder / "model.npz").write_bytes(b"...")
        run |= {"status": "finished", "sub_status": status}

    @property
    def runs(self):
        return len(self.door.started)

    @property
    def begun_with(self):
        return [config.get("initial-run") for _, config in self.door.started]


@pytest.fixture
def fed(tmp_path):
    """A federation whose first run has ended, an hour before midnight."""
    found = Federation(tmp_path)
    found.look()
    found.end()
    found.look()
    assert found.runs == 1
    return found


def test_the_run_is_started_again_at_each_planned_time_from_the_last_model(fed):
    schedule = fed.schedule
    assert schedule.following == "2026-12-02T02:00:00+01:00"
    assert fed.keeper.pause == 13 * 3600
    for night in range(3):
        fed.look(DAY if night else 13 * 60 * MINUTE, times=5)
        assert fed.runs == night + 2
        fed.end()
        fed.look(MINUTE)
    assert fed.begun_with == [None, "1", "2", "3"]
    assert [(one.number, one.run, one.outcome) for one in fed.schedule.results] == [
        (number, str(number), "completed") for number in (1, 2, 3, 4)
    ]
    assert (fed.schedule.model, fed.schedule.troubles) == ("4", [])


def test_a_new_model_each_time_if_that_is_wanted(tmp_path):
    fed = Federation(tmp_path, FL_SCHEDULE_FROM="none")
    fed.look()
    fed.end()
    fed.look(DAY)
    assert fed.begun_with == [None, None]


def test_no_time_is_run_twice_after_a_reboot_or_when_the_clock_is_moved(fed, caplog):
    for move in (DAY, -60 * MINUTE, 61 * MINUTE, -2 * DAY, 2 * DAY):
        fed.look(move)
        fed.reboot()
        fed.look()
        if fed.door.known[-1]["status"] != "finished":
            fed.end()
    planned = [one.planned for one in fed.schedule.results]
    assert planned == ["", "2026-12-02T02:00:00+01:00", "2026-12-01T02:00:00+01:00"], "each of them once"
    assert "The clock went back" in caplog.text


def test_of_times_that_were_missed_the_newest_is_made_up_for_and_the_others_are_told(fed):
    fed.look(4 * DAY)
    assert fed.runs == 2
    assert fed.schedule.results[-1].planned == "2026-12-05T02:00:00+01:00"
    assert "begun 2026-12-05T13:00:00+01:00" in fed.schedule.results[-1].sentence
    [trouble] = fed.schedule.troubles
    assert "3 planned times were missed, the last 2026-12-04T02:00:00+01:00" in trouble
    fed.end()
    fed.look(13 * 60 * MINUTE)
    assert (fed.runs, fed.schedule.troubles) == (3, []), "a run that begins on time ends the remark"


def test_a_time_waits_for_the_run_before_and_is_missed_when_the_next_one_comes(fed):
    fed.look(14 * 60 * MINUTE)
    assert fed.runs == 2
    fed.look(DAY)
    assert "has not begun: run 2 is going" in fed.schedule.troubles[0]
    fed.look(DAY)
    assert fed.runs == 2
    fed.end()
    fed.look()
    assert fed.runs == 3
    assert [one.planned[:10] for one in fed.schedule.results] == ["", "2026-12-02", "2026-12-04"]
    assert [trouble.split(",")[0] for trouble in fed.schedule.troubles] == ["Schedule: One planned time was missed"]


def test_a_time_waits_for_nodes_also_after_a_reboot(fed):
    fed.gate.found["READY"] = "NO"
    fed.reboot()
    fed.look(DAY)
    assert "has not begun: no SuperNode is ready" in fed.schedule.troubles[0]
    fed.gate.found["READY"], fed.door.online = "YES", 1
    fed.look()
    assert "has not begun: 1 of 2 SuperNodes are online" in fed.schedule.troubles[0]
    fed.door.online = 2
    fed.look()
    assert (fed.runs, fed.schedule.troubles) == (2, [])


def test_a_form_without_a_use_case_is_told_at_once(tmp_path):
    fed = Federation(tmp_path)
    fed.gate.found["FL_USE_CASE"] = "none"
    assert "the form has no use case (FL_USE_CASE)" in fed.look().troubles[0]
    fed.look(DAY)
    assert fed.runs == 0


@pytest.mark.parametrize("started", [True, False])
def test_a_crash_between_the_start_of_a_run_and_its_record(fed, monkeypatch, started):
    real = Door.start

    def crash(*arguments):
        if started:
            real(*arguments)
        raise ConnectionResetError

    monkeypatch.setattr(Door, "start", crash)
    with pytest.raises(ConnectionResetError):
        fed.look(DAY)
    monkeypatch.setattr(Door, "start", real)
    fed.look()
    assert fed.runs == 1 + started, "the request may still be on its way: it is not repeated at once"
    fed.reboot()
    fed.look()
    assert fed.runs == 2
    assert [one.run for one in fed.schedule.results] == ["1", "2"]


def test_a_run_that_flower_refuses_is_told_and_not_tried_again(fed, monkeypatch):
    def refuse(*_):
        raise ValueError("The app is not valid.")

    monkeypatch.setattr(Door, "start", refuse)
    fed.look(DAY, times=4)
    [first, second] = fed.schedule.results
    assert second.sentence.endswith("run - failed: The app is not valid.")
    assert fed.schedule.model == first.run


def test_nothing_starts_when_it_cannot_be_written_down(fed, monkeypatch):
    (fed.folder / FILE).unlink()
    (fed.folder / FILE).mkdir()
    fed.look(DAY)
    assert fed.runs == 1
    (fed.folder / FILE).rmdir()
    fed.look()
    assert fed.runs == 2


@pytest.mark.parametrize(
    "damaged", ['{"results": [1]}', '{"following": "tomorrow"}', '{"looked": "2026-12-01T12:00:00"}', "[]"]
)
def test_a_record_that_is_damaged_makes_nothing_run_again(fed, caplog, damaged):
    (fed.folder / FILE).write_text(damaged)
    fed.now += DAY
    fed.reboot()
    fed.look()
    assert "the schedule begins again" in caplog.text
    assert (fed.runs, fed.schedule.following[:10]) == (1, "2026-12-03")


def test_a_result_that_is_worse_than_the_best_by_more_than_the_gain_is_not_the_model(tmp_path):
    fed = Federation(tmp_path, FL_MIN_GAIN="0.05")
    fed.look()
    for loss, status, model in (
        (0.50, "completed", "1"),
        (0.20, "completed", "2"),
        (0.24, "completed", "3"),
        (0.28, "completed", "3"),  # not compared with the model, of which it is near, but with the best
        (float("nan"), "completed", "3"),
        (0.10, "failed", "3"),
        (0.21, "completed", "7"),
    ):
        fed.end(loss, status)
        fed.look()
        assert fed.schedule.model == model, loss
        fed.look(DAY)
    sentences = [one.sentence for one in Schedule.parse((tmp_path / FILE).read_text()).results]
    assert "It is not the model: loss 0.28 is worse than the best, 0.2 of run 2, by more than 0.05" in sentences[3]
    assert "It is not the model: it has no loss to compare" in sentences[4]
    assert "run 6 failed" in sentences[5]
    assert fed.begun_with == [None, "1", "2", "3", "3", "3", "3", "7"]


def test_the_run_that_resumes_a_lost_one_gives_the_result(fed):
    fed.look(DAY)
    fed.door.known[-1] |= {"lost": "YES", "status": "finished", "sub_status": "failed"}
    fed.look()
    assert [run["id"] for run in fed.door.known] == ["1", "2", "21"]
    fed.end()
    fed.look()
    assert (fed.schedule.model, fed.runs) == ("21", 2)
    assert "run 21 completed" in fed.schedule.results[-1].sentence


def test_the_run_with_the_model_is_kept(fed, tmp_path):
    retention = Retention(fed.door, 1, tmp_path / "runs", tmp_path / "checkpoints", lambda: fed.keeper.kept)
    fed.door.tidy = lambda forget: fed.door.known.clear() if forget else None
    fed.look(DAY)
    fed.end(status="failed")
    fed.look()
    retention.look(fed.keeper.runs)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"1", "2"}


def test_the_superlink_says_which_model_is_that_of_the_federation_and_no_machine_can(fed):
    fed.look(DAY)
    fed.end(status="failed")
    fed.door.add("9", "me/mine", status="finished", sub_status="completed")
    fed.end()
    fed.look()
    runs = fed.folder / "runs"
    link = SimpleNamespace(
        runs=fed.door.runs, json=lambda path: sorted(each.name for each in (runs / path.split("/")[2]).iterdir())
    )
    assert fed.schedule.model == "1"
    assert run_with_model(link, "lab", None, scheduled=True) == ("1", "image-classification")
    assert run_with_model(link, "lab", "9", scheduled=True) == run_with_model(link, "lab", None) == ("9", "mine")
    (runs / "1" / "accepted").unlink()
    assert run_with_model(link, "lab", None, scheduled=True) == ("9", "mine"), "before the first result"


def test_a_client_shows_what_a_superlink_says_and_ignores_what_cannot_be_read(fed):
    schedule = fed.look(DAY)
    status = FederationStatus(1, "lab", "RUNNING", 2, settings=NIGHTLY, schedule=schedule)
    first, second, third = status.schedule_lines
    assert first.startswith(
        "Schedule: 0 2 * * * (Europe/Madrid). Next run 2026-12-03T02:00:00+01:00. The model is that"
    )
    assert "of run 1, result 1." in first
    assert "Result 2, planned for 2026-12-02T02:00:00+01:00, begun" in second
    assert "Result 1, when the federation began: run 1 completed, loss 0.5" in third
    for wrong in ("", "{}x", "[]", '{"results": 3}', '{"missed": "many"}', '{"results": [{}]}'):
        assert Schedule.recall(wrong) is None, wrong


@pytest.mark.parametrize(
    ("given", "name", "told"),
    [
        ({"FL_SCHEDULE": "0 25 * * *"}, "FL_SCHEDULE", "'25' is not a valid hour, from 0 to 23; expected five fields"),
        ({"FL_SCHEDULE": "0 2 * * *", "FL_USE_CASE": "none"}, "FL_SCHEDULE", "starts the run of FL_USE_CASE again"),
        ({"FL_SCHEDULE": "0 2 * * *", "FL_SCHEDULE_ZONE": "Mars/Olympus"}, "FL_SCHEDULE_ZONE", "like Europe/Madrid"),
        (
            {"FL_USE_CASE": "anomaly-detection", "ML_FRAMEWORK": "xgboost", "FL_STRATEGY": "FedXgbBagging", **NIGHTLY},
            "FL_SCHEDULE_FROM",
            "would add its trees",
        ),
        ({**NIGHTLY, "FL_PERSONALIZATION": "fedper"}, "FL_SCHEDULE_FROM", "layers of their own"),
    ],
)
def test_a_schedule_that_cannot_be_kept_is_refused(given, name, told):
    with pytest.raises(InvalidParametersError) as caught:
        resolve({"FL_USE_CASE": "image-classification", **given})
    [problem] = caught.value.problems
    assert problem.where == name
    assert told in problem.text
