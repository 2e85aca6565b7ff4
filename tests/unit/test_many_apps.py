"""The apps in tests/apps are apps, and the table in docs/apps.md has all of them."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest
from scripts.apps import Result, compare

from oneflower.cloud.apps import load_app
from tests import apps

PAGE = (Path(__file__).parent.parent.parent / "docs" / "apps.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", apps.KINDS)
def test_every_app_is_one_and_is_in_the_table_with_the_result_of_stock_flower(kind, tmp_path):
    chosen = [app for app in apps.find_all() if app.kind == kind]
    assert len(chosen) >= 10
    for app in chosen:
        folder = app.write(tmp_path)
        for path in folder.rglob("*.py"):
            ast.parse(path.read_text())
        if app.says.get("pyproject", True):
            assert load_app(str(folder), {}).name == app.name
            assert tomllib.loads(app.pyproject())
        [row] = [line for line in PAGE.splitlines() if line.startswith(f"| {app.name}: {app.about} |")]
        assert "DIFFERENT" not in row


LOG = "INFO :      Aggregated MetricRecord: {'loss': 0.30000000000000004}\nsaved\n"


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        ({"log": LOG}, {"log": LOG.replace("00004", "00005")}, "the same printed lines (1), lines of metrics (1)"),
        ({"log": LOG}, {"log": LOG.replace("0.30", "0.31")}, "DIFFERENT metrics"),
        ({"log": LOG}, {"log": LOG + "and sent\n"}, "DIFFERENT lines"),
        ({"log": LOG + "and sent\n"}, {"log": LOG}, "DIFFERENT lines"),
        ({"log": LOG, "losses": [0.4]}, {"log": LOG}, "DIFFERENT records"),
        ({"log": LOG, "files": {"a.csv": Path()}}, {"log": LOG}, "DIFFERENT files"),
        ({"log": LOG, "error": "Why."}, {"log": LOG}, "DIFFERENT end"),
        ({}, {}, "DIFFERENT nothing to compare"),
    ],
)
def test_what_differs_from_stock_flower_is_seen(ours, theirs, told):
    assert compare(apps.App("grid", "app", ""), Result(**ours), Result(**theirs)) == told
    assert compare(apps.App("grid", "app", ""), Result(**ours), None) == "not run"
