"""Runs in the tools that people use. tests/e2e/test_tracking.py has the real ones."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from oneflower.cli import track
from oneflower.cli.app import app
from oneflower.cloud import RunResult
from oneflower.events import RunBegan
from oneflower.tracking import Tracking, tracking
from oneflower.tracking.values import (
    Moments,
    first_line,
    node_name,
    of_node,
    of_round,
    path,
    settings_of,
    without_login,
)
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.node_reports import NodeReport
from oneflower_appliance.run_state import RunState
from oneflower_appliance.runs import RunRow

ROW = RunRow.parse(json.dumps({
    "round": 2, "rounds": 3, "seconds": 0.5, "nodes": 2, "failures": 0, "faults": [],
    "train": {"train_loss": 0.25}, "evaluate": {"accuracy": 0.75, "a/../b": 1, "ok": True, "what": "text"},
}))  # fmt: skip
REPORT = NodeReport(2, "77", "train", examples=10, seconds=0.25, metrics={"train_loss": 0.5})


class Tool:
    """A tracker that remembers, and fails in `broken`."""

    def __init__(self, broken=""):
        self.seen, self._broken = [], broken

    def _see(self, what, *of):
        if what == self._broken:
            raise ConnectionError("the server is gone\nwith details")
        self.seen.append((what, *of))

    def begin(self, federation, run):
        self._see("begin", federation, run)

    def add(self, row):
        self._see("add", row.round)

    def finish(self, result, outcome):
        self._see("finish", result.id, outcome)
        return "over there"

    def fail(self):
        self._see("fail")


def tracked(tools, notes):
    return Tracking(tools, "lab", lambda event: notes.append(str(event)))


def train(*, on_row, notify):
    notify(RunBegan("5"))
    on_row(ROW)
    return RunResult("5", "app", (ROW,), 1.0)


def test_names_of_numbers_are_those_of_the_record_and_nothing_else_is_sent():
    assert of_round(ROW) == {
        "accuracy": 0.75, "train_loss": 0.25, "seconds": 0.5, "nodes": 2, "failures": 0, "train/train_loss": 0.25,
        "evaluate/accuracy": 0.75, "evaluate/a_.._b": 1,
    }  # fmt: skip
    assert of_node(REPORT) == {"train/examples": 10, "train/seconds": 0.25, "train/train_loss": 0.5}
    assert node_name(REPORT) == "node 77"


@pytest.mark.parametrize("hostile", ["../../x", "/etc/passwd", "..", "", "\x1b[31m", "a" * 300])
def test_no_name_leads_out_of_its_folder(hostile):
    found = path(hostile)
    assert "/" not in found
    assert found.strip(".")
    assert len(found) <= 80
    assert found.isprintable()


def test_settings_are_those_of_the_saved_metrics(tmp_path):
    metrics = tmp_path / "metrics.json"
    metrics.write_text(json.dumps({"strategy": "FedAvg", "config": {"lr": 0.1}, "versions": {"flwr": "1.42.0"}}))
    result = RunResult("5", "app", (), 0, metrics=metrics)
    assert dict(settings_of(result)) == {
        "app": "app",
        "strategy": "FedAvg",
        "config/lr": "0.1",
        "versions/flwr": "1.42.0",
    }


def test_a_run_is_sent_while_it_goes_on_and_then_as_a_whole():
    tool, rows, notes = Tool(), [], []
    with tracked({"tool": tool}, notes) as tracking:
        result = tracking.during(train)(on_row=rows.append)
    assert result.id == "5"
    assert rows == [ROW]
    assert tool.seen == [("begin", "lab", "5"), ("add", 2), ("finish", "5", "completed")]
    assert notes == ["Note: tracked: over there"]


@pytest.mark.parametrize("broken", ["begin", "add", "finish"])
def test_a_tool_that_fails_is_reported_once_and_neither_the_run_nor_another_tool_suffers(broken):
    tool, notes = Tool(), []
    with tracked({"mlflow:https://me:secret@host": Tool(broken), "tool": tool}, notes) as tracking:
        assert tracking.during(train)().id == "5"
    assert tool.seen == [("begin", "lab", "5"), ("add", 2), ("finish", "5", "completed")]
    [told] = [note for note in notes if "not tracked" in note]
    assert told == (
        "Note: this run is not tracked in full: the server is gone. Send it again later: "
        "oneflower track lab --run 5 --to mlflow"
    )


def test_runs_are_sent_one_after_the_other_as_they_are():
    tool, broken, notes = Tool(), Tool("add"), []
    with tracked({"tool": tool, "mlflow": broken}, notes) as tracking:
        for run, outcome in (("5", "failed"), ("6", "running")):
            tracking.send(RunResult(run, "app", (ROW,), 1.0), outcome)
    assert tool.seen == [
        ("begin", "lab", "5"), ("add", 2), ("finish", "5", "failed"),
        ("begin", "lab", "6"), ("add", 2), ("finish", "6", "running"),
    ]  # fmt: skip
    assert tracking.incomplete == ["mlflow"]


def test_moments_are_the_same_whenever_a_run_is_sent():
    ended = RunRow.parse(json.dumps({**ROW.metrics, "round": 3, "ended": 1_800_000_000.25}))
    wrong = [RunRow.parse(json.dumps({**ROW.metrics, "round": 4, "ended": said})) for said in ("x", -1, 1e300)]
    for rows in ([ROW, ended], [ROW, ended, *wrong]):
        moments = Moments(1_000)
        for row in rows:
            moments.end_round(row)
        assert [moments.of(number) for number in (1, 2, 3)] == [1_000, 1_500, 1_800_000_000_250]
    assert moments.of(4) == 1_000 + 5 * 500


def test_no_login_is_in_what_is_said_of_an_error():
    said = first_line(OSError("request to https://me:sec@ret@mlflow.example.org/api failed\nwith details"))
    assert said == "request to https://mlflow.example.org/api failed"


def test_a_run_that_fails_is_marked_as_failed():
    tool = Tool()

    def fails(*, on_row, notify):
        notify(RunBegan("5"))
        on_row(ROW)
        raise OneflowerError("The run failed.", "")

    with pytest.raises(OneflowerError), tracked({"tool": tool}, []) as tracking:
        tracking.during(fails)()
    assert tool.seen[-1] == ("fail",)


@pytest.mark.parametrize(
    ("places", "register", "why"),
    [
        (["wandb"], "", "is not a tool for tracking"),
        (["tensorboard"], "digits", "cannot be registered"),
        (["mlflow:./mlruns"], "", "cannot be a folder of files"),
    ],
)
def test_what_cannot_be_tracked_is_refused_before_the_run(places, register, why):
    with pytest.raises(OneflowerError, match=why):
        Tracking.to(*places, federation="lab", register=register)


@pytest.mark.parametrize(("tool", "module"), [("mlflow", "mlflow.tracking"), ("tensorboard", "tensorboard.summary")])
def test_a_library_that_is_missing_is_named(tool, module, monkeypatch):
    for name in (module, "mlflow.entities"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(OneflowerError, match=r"not installed here") as found:
        tracking.open_tracker(tool)
    assert f"oneflower[{tool}]" in found.value.hint


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://me:secret@mlflow.example.org:5000/x@y", "https://mlflow.example.org:5000/x@y"),
        ("postgresql://me:secret@db.example.org/mlflow", "postgresql://db.example.org/mlflow"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
    ],
)
def test_an_address_is_shown_without_its_login(uri, shown):
    assert without_login(uri) == shown


def test_runs_are_chosen_and_what_could_not_be_sent_is_an_error(monkeypatch):
    runs = [RunState("4", "a/app", "finished", "failed", resumed_as="5"), RunState("5", "a/app", "finished", "failed"),
            RunState("6", "a/app", "running")]  # fmt: skip
    tool, notes = Tool(), []
    federation = SimpleNamespace(
        name="lab", runs=lambda: runs, fetch_files=lambda _, run: RunResult(run, "app", (ROW,), 1.0)
    )
    monkeypatch.setattr("oneflower.cli.session.Session.cloud", lambda: None)
    monkeypatch.setattr("oneflower.cloud.Federation.find", lambda *_: federation)
    monkeypatch.setattr(track, "tracking_to", lambda *_: tracked({"tool": tool}, notes))
    done = CliRunner().invoke(app, ["track", "lab", "-o", "json"])
    assert [(run["run"], run["status"]) for run in json.loads(done.stdout)] == [("5", "failed"), ("6", "running")]
    assert CliRunner().invoke(app, ["track", "lab", "--run", "4"]).exit_code == 0
    assert [seen[2] for seen in tool.seen if seen[0] == "begin"] == ["5", "6", "4"]
    for arguments, code in (["--run", "7"], ExitCode.NOT_FOUND), (["--register", "digits"], ExitCode.USAGE):
        assert CliRunner().invoke(app, ["track", "lab", *arguments]).exception.code is code
    monkeypatch.setattr(track, "tracking_to", lambda *_: tracked({"mlflow": Tool("finish")}, notes))
    assert CliRunner().invoke(app, ["track", "lab"]).exception.code is ExitCode.ENVIRONMENT
