"""What a SuperLink's agent does about runs, against an API that remembers its requests."""

from __future__ import annotations

import base64
import json
import os

import pytest

from oneflower_appliance.agent import run_keeper as module
from oneflower_appliance.agent.run_keeper import RunKeeper
from oneflower_appliance.node_reports import NodeReport, file_name, write_line
from oneflower_appliance.parameter import Level
from oneflower_appliance.progress import RunProgress
from oneflower_appliance.run_state import RunState
from oneflower_appliance.runs import unpack
from oneflower_appliance.settings import resolve
from oneflower_appliance.training.recorder import earlier_rounds

NODES = (11, 12)


class Door:
    """A SuperLink: its runs and nodes, and what was started on it."""

    def __init__(self):
        self.known, self.started, self.online = [], [], 2

    def runs(self):
        return [RunState.parse(run) for run in self.known]

    def nodes_online(self):
        return self.online

    def add(self, number, app="us/theirs", **more):
        run = {"id": number, "app": app, "status": "running", "sub_status": "", "details": "", "lost": "NO"}
        self.known.append(run | {"resumed_as": "", "why_lost": "", "given_up": "", "attempt": 1} | more)
        return number

    def start(self, use_case, config):
        self.started.append((use_case, config))
        return self.add(str(len(self.known) + 1), f"oneflower/{use_case}")

    def resume(self, number):
        run = next(run for run in self.known if run["id"] == number)
        run |= {"status": "finished", "sub_status": "stopped", "resumed_as": number + "1"}
        return self.add(number + "1", run["app"], attempt=run["attempt"] + 1)


class Gate:
    """OneGate, as far as a form is read from a SuperNode's VM."""

    def __init__(self, **attributes):
        self.found = {"READY": "YES", "ML_FRAMEWORK": "pytorch", **attributes}

    def attributes(self, vm):
        assert vm in NODES
        return self.found


@pytest.fixture
def door():
    return Door()


def make(door, tmp_path, **settings):
    return RunKeeper(door, resolve(settings, (Level.SERVICE, Level.SUPERLINK)), tmp_path)


def test_the_run_that_the_form_asks_for_is_started_once_even_by_an_agent_that_began_anew(door, tmp_path):
    gate = Gate(FL_USE_CASE="image-classification")
    for _ in range(2):
        keeper = make(door, tmp_path, FL_NUM_ROUNDS="7", FL_STRATEGY="FedYogi")
        for _ in range(3):
            keeper.look(gate, NODES)
    [(use_case, config)] = door.started
    assert use_case == "image-classification"
    assert config["num-server-rounds"] == 7
    assert (config["strategy"], config["framework"], config["server-lr"]) == ("FedYogi", "pytorch", 0.1)


def test_nothing_starts_before_enough_nodes_are_online_and_ready(door, tmp_path):
    gate = Gate(FL_USE_CASE="image-classification", READY="NO")
    keeper = make(door, tmp_path)
    keeper.look(gate, NODES)
    gate.found["READY"] = "YES"
    door.online = 1
    keeper.look(gate, NODES)
    assert not door.started
    door.online = 2
    keeper.look(gate, NODES)
    assert len(door.started) == 1


def test_without_a_use_case_nothing_starts(door, tmp_path):
    keeper = make(door, tmp_path)
    for gate in (Gate(), Gate(FL_USE_CASE="none")):
        keeper.look(gate, NODES)
    keeper.look(None, ())
    assert not door.started


def test_a_lost_run_goes_on_when_there_are_checkpoints(door, tmp_path):
    door.add("5", lost="YES", status="finished", sub_status="failed", details="No heartbeat received.")
    make(door, tmp_path, FL_CHECKPOINT_ENABLED="YES").look(None, ())
    assert [run["id"] for run in door.known] == ["5", "51"]


def test_a_lost_run_without_checkpoints_is_said_to_be_lost(door, tmp_path, caplog):
    door.add("5", lost="YES", status="finished", sub_status="failed", details="No heartbeat received.")
    keeper = make(door, tmp_path)
    for _ in range(3):
        keeper.look(None, ())
    assert [run["id"] for run in door.known] == ["5"]
    assert not keeper.following
    assert caplog.text.count("Run 5 was lost") == 1
    assert "FL_CHECKPOINT_ENABLED=YES it would be resumed" in caplog.text
    assert "FL_CHECKPOINT_ENABLED=YES it would be resumed" in (tmp_path / "5" / "given-up").read_text()


def test_a_run_that_was_trained_and_lost_in_its_last_evaluation_goes_on_without_checkpoints(door, tmp_path):
    door.add("5", lost="YES", status="finished", sub_status="failed")
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "model.npz").write_bytes(b"...")
    (tmp_path / "51").mkdir()
    (tmp_path / "51" / "origin.json").write_text(json.dumps({"resumes": "5", "first": "5", "attempt": 2}))
    keeper = make(door, tmp_path)
    keeper.look(None, ())
    assert keeper.following
    assert [run["id"] for run in door.known] == ["5", "51"]
    door.known[1] |= {"lost": "YES", "status": "finished"}  # before it could record anything itself
    keeper.look(None, ())
    assert [run["id"] for run in door.known] == ["5", "51", "511"]


def attempts(door, tmp_path, *rounds):
    """Lose a run once for each number, after that many rounds; return the outcome."""
    numbers = ["5", "51", "511", "5111", "51111", "511111"]
    keeper = make(door, tmp_path, FL_CHECKPOINT_ENABLED="YES")
    door.add("5")
    for number, before, done in zip(numbers, ["", *numbers], rounds, strict=False):
        if number not in [run["id"] for run in door.known]:
            break
        folder = tmp_path / number
        folder.mkdir()
        row = {"rounds": 9, "seconds": 1.0, "nodes": 2, "failures": 0}
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row | {"round": n + 1}) + "\n" for n in range(done)))
        if before:
            (folder / "origin.json").write_text(json.dumps({"resumes": before, "first": "5"}))
        door.known[-1] |= {"lost": "YES", "status": "finished"}
        keeper.look(None, ())
    return [run["id"] for run in door.known]


def test_a_run_that_is_lost_again_and_again_at_the_same_point_is_given_up(door, tmp_path):
    assert attempts(door, tmp_path, 4, 4, 4, 4, 4, 4) == ["5", "51", "511", "5111"]
    assert "3 times in a row without a new round" in (tmp_path / "5111" / "given-up").read_text()


def test_a_run_that_never_has_a_round_is_given_up(door, tmp_path):
    assert attempts(door, tmp_path, 0, 0, 0, 0, 0, 0) == ["5", "51", "511"]
    assert "3 times in a row without a new round" in (tmp_path / "511" / "given-up").read_text()


def test_a_run_that_is_lost_often_goes_on_as_long_as_there_are_new_rounds(door, tmp_path):
    # An attempt that dies before it could record anything has no rows at all.
    assert attempts(door, tmp_path, 1, 1, 0, 2, 2, 3)[-1] == "511111" + "1"


def test_what_the_superlink_refuses_is_said_and_not_tried_again(door, tmp_path, caplog):
    def refuse(*_):
        door.started.append(())
        raise ValueError("the app cannot be built")

    door.start = door.resume = refuse
    keeper = make(door, tmp_path, FL_CHECKPOINT_ENABLED="YES")
    gate = Gate(FL_USE_CASE="image-classification")
    news = keeper.look(gate, NODES)
    assert (news["FL_RUN_STATUS"], news["FL_RUN_APP"]) == ("failed", "oneflower/image-classification")
    assert base64.b64decode(news["FL_RUN_ERROR"]) == b"the app cannot be built"
    keeper.look(gate, NODES)
    assert len(door.started) == 1
    door.add("5", lost="YES", status="finished")
    for _ in range(2):
        keeper.look(gate, NODES)
    assert len(door.started) == 2
    assert caplog.text.count("cannot be resumed: the app cannot be built") == 1


def test_progress_is_published_as_it_changes_but_not_more_than_one_update_in_five_seconds(door, tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    door.add("5", "us/app")
    keeper = make(door, tmp_path)
    news = keeper.look(None, ())
    assert (news["FL_RUN_ID"], news["FL_RUN_STATUS"]) == ("5", "running")
    folder = tmp_path / "5"
    folder.mkdir()
    row = {
        "round": 2,
        "rounds": 3,
        "seconds": 1.5,
        "nodes": 2,
        "failures": 0,
        "server": {"loss": 0.12345678, "accuracy": 1},
    }
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    now[0] += 4
    assert keeper.look(None, ()) == {}
    row |= {"round": 3, "faults": [{"node": "7", "phase": "train", "kind": "no answer", "reason": "nothing, really"}]}
    each = [[NodeReport(n, node, "train", seconds=2.0 if node == "8" else 9.0) for node in "78"] for n in (2, 3)]
    lines = [write_line(number, reports, withheld=False) for number, reports in zip((2, 3), each, strict=True)]
    (folder / file_name(2)).write_text("\n".join(lines) + "\n")
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    now[0] += 2
    news = keeper.look(None, ())
    assert [found.round for found in unpack(news["FL_RUN_ROWS"])] == [2, 3], "both rounds since the last time"
    assert not set(news["FL_RUN_ROWS"] + news["FL_RUN_FAULT"]) & set(',[]\\"'), "what OneGate does not take"
    assert json.loads(base64.b64decode(news["FL_RUN_FAULT"])) == {"round": 3, **row["faults"][0]}
    assert (news["FL_RUN_ROUND"], news["FL_RUN_LOSS"], news["FL_RUN_ACCURACY"]) == ("3", "0.123457", "1")
    found = RunProgress.read({"FL_RUN_ID": "5", "FL_RUN_FINDINGS": news["FL_RUN_FINDINGS"]}, {"7": "supernode_1"})
    assert [one.sentence for one in found.findings] == [
        "supernode_1 is slow: 9.0 s for training, the median of the others is 2.0 s"
    ]
    assert "FL_RUN_ID" not in news
    now[0] += 10
    assert keeper.look(None, ()) == {}
    door.known[0] |= {"status": "finished", "sub_status": "failed", "details": "boom " * 500}
    news = keeper.look(None, ())
    assert news["FL_RUN_STATUS"] == "failed"
    assert base64.b64decode(news["FL_RUN_ERROR"]).decode() == ("boom " * 500)[:500]


def test_a_record_that_is_damaged_costs_the_rounds_that_cannot_be_read_and_nothing_else(
    door, tmp_path, caplog, monkeypatch
):
    door.add("5", "us/app")
    keeper = make(door, tmp_path)
    (tmp_path / "5").mkdir()
    row = {"rounds": 3, "seconds": 1.5, "nodes": 2, "failures": 0}
    lines = [json.dumps(row | {"round": 1}).encode(), b"\xff\x00", json.dumps(row | {"round": 2}).encode(), b'{"rou']
    for number in (2, 4):
        (tmp_path / "5" / "metrics.jsonl").write_bytes(b"\n".join(lines[:number]))
        os.utime(tmp_path / "5" / "metrics.jsonl", (number, number))
        monkeypatch.setattr(module.time, "monotonic", lambda number=number: 100.0 * number)
        keeper.report_again()
        news = keeper.look(None, ())
    assert [found.round for found in unpack(news["FL_RUN_ROWS"])] == [1, 2]
    assert sum("is damaged" in text for text in caplog.messages) == 1
    assert len(earlier_rounds(tmp_path / "5")) == 2


def test_the_end_is_told_at_once_with_the_last_round_and_again_when_it_could_not_be_published(
    door, tmp_path, monkeypatch
):
    monkeypatch.setattr(module.time, "monotonic", lambda: 100.0)
    door.add("5", "us/app")
    keeper = make(door, tmp_path)
    keeper.look(None, ())
    assert keeper.following
    (tmp_path / "5").mkdir()
    row = {"round": 3, "rounds": 3, "seconds": 1.5, "nodes": 2, "failures": 0, "evaluate_asked": 2, "evaluated": 0}
    (tmp_path / "5" / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert keeper.look(None, ()) == {}, "a round alone has time"
    door.known[0] |= {"status": "finished", "sub_status": "completed"}
    news = keeper.look(None, ())
    assert (news["FL_RUN_STATUS"], news["FL_RUN_ROUND"]) == ("completed", "3")
    assert "never evaluated" in base64.b64decode(news["FL_RUN_ERROR"]).decode()
    assert not keeper.following
    assert keeper.look(None, ()) == {}
    keeper.report_again()
    assert keeper.look(None, ())["FL_RUN_STATUS"] == "completed"
