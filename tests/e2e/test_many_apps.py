"""A few of the apps in tests/apps, as a user runs them; scripts/apps.py runs all of them, and with stock Flower too."""

from __future__ import annotations

import json

import pytest

from tests import apps

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("kind", "name", "printed", "files"),
    [
        ("message", "fedadam-then-fedyogi", "after FedYogi ", []),
        ("legacy", "client-fn-with-cid", "", []),
        ("grid", "ring", "lap 1, node ", ["ring.npz"]),
        ("needs", "extra", "requests 2", []),
    ],
)
def test_an_app_of_each_kind_runs_unchanged(user, fed, tmp_path, kind, name, printed, files):
    done = user("run", str(apps.find(kind, name).write(tmp_path)), "-f", fed, "--install", "-o", "json")
    result = json.loads(done.stdout)
    assert printed in done.stderr
    assert [path.rpartition("/")[2] for path in result["more"]] == files
    rounds = {"message": 4, "legacy": 1}.get(kind, 0)
    assert [row["nodes"] for row in result["rows"]] == [2] * rounds


def test_an_app_that_ends_itself_with_a_status_fails_and_says_so(user, fed, tmp_path):
    done = user("run", str(apps.find("grid", "exits-with-3").write(tmp_path)), "-f", fed, code=8)
    assert done.stderr.count("the check of the settings failed") == 1
    assert "The ServerApp ended itself with exit status 3." in done.stderr
