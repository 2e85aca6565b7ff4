"""A site whose policy asks for signed apps, with real Flower: worth its time because a refusal crosses every part."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from oneflower_appliance.use_cases import USE_CASES

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("execution", ["warm", "stock"])
def test_a_site_trains_what_it_trusts_and_refuses_the_rest_with_the_reason(user, tmp_path, execution):
    app, policy = tmp_path / "app", tmp_path / "policy.toml"
    shutil.copytree(USE_CASES["image-classification"].folder, app)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "alice"], check=True)
    policy.write_text('apps = "signed"\n')
    user("trust", "add", "alice@example.org", tmp_path / "alice.pub", "--policy", policy)
    user("up", "law", "-n", "2", "--policy", policy, "--set", f"FL_EXECUTION={execution}")
    try:
        assert "Site policy" in user("show", "law").stdout
        refused = user("run", app, "-f", "law", "-r", "1", code=8)
        assert "it is not signed; it must be signed by one of: alice@example.org" in refused.stderr
        user("sign", app, "--key", tmp_path / "alice")
        [row] = json.loads(user("run", app, "-f", "law", "-r", "1", "-o", "json").stdout)["rows"]
        assert (row["nodes"], row["failures"]) == (2, 0)
        if execution == "warm":
            (app / "image_classification" / "more.py").write_text("")
            changed = user("run", app, "-f", "law", "-r", "1", code=8)
            assert "the app was changed after it was signed" in changed.stderr
    finally:
        user("down", "law")
