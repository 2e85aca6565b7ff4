"""What a notebook shows of a run: while it trains, and at its end."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from oneflower.cloud import notebook
from oneflower.cloud.run_result import RunResult
from oneflower.events import Note, RunBegan, Step, StepEnded, ignore
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.runs import Fault, RunRow

FAULT = Fault("7", "train", "failed", "<script>alert(1)</script>", "supernode_1")
METRICS = {"train": {"train_loss": 0.5}, "evaluate": {"accuracy": 0.75, "f1": 0.5}}
ROWS = (
    RunRow(1, 2, 1.5, 1, 1, None, 0.75, METRICS, 2, 0.5, (FAULT,)),
    RunRow(2, 2, 0.5, 2, 0, None, 0.875, METRICS, 2, 0.25),
)


def test_elsewhere_nothing_is_shown(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert notebook.observers(None, None) == (ignore, ignore)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=SimpleNamespace))
    assert notebook.observers(None, None) == (ignore, ignore)


def test_a_notebook_shows_one_table_that_grows(monkeypatch):
    shown = []

    class Handle:
        def update(self, table):
            shown.append(table._repr_html_())

    def display(table, *, display_id):
        assert display_id
        Handle().update(table)
        return Handle()

    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    assert notebook.observers(None, print) == (ignore, print), "what was given comes first"
    add, notify = notebook.observers(None, None)
    for event in (Step("submitting <it>"), Note("one node is away"), RunBegan("17"), StepEnded()):
        notify(event)
    assert "submitting &lt;it&gt;" in shown[0]
    assert "run 17" in shown[2]
    assert "run 17" not in shown[3]
    add(ROWS[0])
    assert "<td>1/2</td><td>0.5000</td><td>-</td><td>0.7500</td><td>1.5</td><td>1/2</td><td>f1 0.500</td>" in shown[4]
    assert "&lt;script&gt;" in shown[4]
    assert "<script>" not in shown[4]
    assert "round 2 of 2" in shown[4]
    add(ROWS[1])
    assert "<td>2/2</td>" in shown[5]
    assert "Note: one node is away" in shown[5]


def test_a_result_is_ready_for_pandas(monkeypatch, tmp_path):
    result = RunResult("17", "mine", ROWS, 2.0, model=tmp_path / "model.npz")
    assert result.records[1] == {
        "round": 2, "rounds": 2, "seconds": 0.5, "nodes": 2, "asked": 2, "failures": 0, "loss": None, "accuracy": 0.875,
        "train_loss": 0.25, "train.train_loss": 0.5, "evaluate.accuracy": 0.75, "evaluate.f1": 0.5,
    }  # fmt: skip
    assert f"<li>{tmp_path}/model.npz</li>" in result._repr_html_()
    assert "    2/2      0.2500" in str(result)
    assert str(result).endswith("\n  " + str(tmp_path / "model.npz"))
    frames = SimpleNamespace(DataFrame=SimpleNamespace(from_records=lambda records, index: (records, index)))
    monkeypatch.setitem(sys.modules, "pandas", frames)
    assert result.to_pandas() == (result.records, "round")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(OneflowerError, match="pandas is not installed"):
        result.to_pandas()
