"""The script that tries Flower's examples: it sees what an example needs, and when results differ."""

from __future__ import annotations

import pytest
from scripts import examples

LOG = """
INFO :          └──> Aggregated MetricRecord: {'loss': 0.30000000000000004}
INFO :          └──> Aggregated MetricRecord: {'accuracy': 0.75, 'per_class': [0.5, 1.0]}
saved the model
"""
METRICS = [{"loss": 0.3}, {"accuracy": 0.75, "per_class": [0.5, 1.0]}]


@pytest.mark.parametrize(
    ("printed", "metrics", "draws", "found"),
    [
        (["saved the model"], METRICS, False, "the same printed lines (1) and aggregated metrics (3)"),
        (["saved another model"], METRICS, False, "DIFFERENT"),
        ([], METRICS[:1], False, "DIFFERENT"),
        ([], [{"loss": 0.31}, METRICS[1]], False, "DIFFERENT"),
        (
            [],
            [{"loss": 0.31}, METRICS[1]],
            True,
            "metrics of the same names; their values are random numbers that the app draws",
        ),
        ([], [], False, "nothing that could be compared"),
        ([], [{"other": 0.3}, METRICS[1]], True, "DIFFERENT"),
    ],
)
def test_what_stock_flower_says_is_compared(printed, metrics, draws, found):
    assert examples.compare(printed, metrics, LOG, draws=draws) == found


def test_what_an_example_needs_is_found_in_its_code(tmp_path, monkeypatch):
    answers = {"huggingface.co": False, "example.org": True}
    monkeypatch.setattr(examples, "_answers", answers)
    app = tmp_path / "examples/one"
    app.mkdir(parents=True)
    (tmp_path / "examples/phone").mkdir()
    project = '[project]\ndependencies = ["torch>=2"]\n[tool.flwr.app.components]\n[tool.flwr.app.config]\nmodel.name = "a/b"\n'
    (app / "pyproject.toml").write_text(project)
    (app / "task.py").write_text('FederatedDataset(dataset="c/d")\nfetch("https://example.org/data.zip")\n')
    one, phone = examples.find_examples(tmp_path)
    assert one.lacks() == "it needs `a/b`, `c/d`, which this machine cannot fetch"
    assert one.framework == "pytorch"
    assert "no app" in phone.lacks()
    answers["huggingface.co"] = True
    assert one.lacks() == ""
