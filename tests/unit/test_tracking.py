"""Runs in the tools that people use. tests/e2e/test_tracking.py has the real ones."""

from __future__ import annotations

import json
import sys

import pytest

from oneflower.cloud import RunResult
from oneflower.events import RunBegan
from oneflower.tracking import Tracking, tracking
from oneflower.tracking.mlflow import shown
from oneflower.tracking.values import node_name, of_node, of_round, path, settings_of
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.node_reports import NodeReport
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

    def finish(self, result):
        self._see("finish", result.id)
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
    assert tool.seen == [("begin", "lab", "5"), ("add", 2), ("finish", "5")]
    assert notes == ["Note: tracked: over there"]


@pytest.mark.parametrize("broken", ["begin", "add", "finish"])
def test_a_tool_that_fails_is_reported_once_and_neither_the_run_nor_another_tool_suffers(broken):
    tool, notes = Tool(), []
    with tracked({"mlflow:https://me:secret@host": Tool(broken), "tool": tool}, notes) as tracking:
        assert tracking.during(train)().id == "5"
    assert tool.seen == [("begin", "lab", "5"), ("add", 2), ("finish", "5")]
    [told] = [note for note in notes if "not tracked" in note]
    assert told == (
        "Note: this run is not tracked in full: the server is gone. Send it again later: "
        "oneflower model lab --run 5 --track mlflow"
    )


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
    [(["wandb"], "", "is not a tool for tracking"), (["tensorboard"], "digits", "cannot be registered")],
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


def test_an_address_is_shown_without_its_password():
    assert shown("https://me:secret@mlflow.example.org:5000/x") == "https://mlflow.example.org:5000/x"
    assert shown("http://127.0.0.1:5000") == "http://127.0.0.1:5000"
    assert shown("sqlite:////tmp/x.db") == "sqlite:////tmp/x.db"
