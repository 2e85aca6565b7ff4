"""A site whose policy asks for signed apps, with real Flower: worth its time because a refusal crosses every part."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from oneflower_appliance.use_cases import USE_CASES

pytestmark = pytest.mark.e2e


def test_a_site_trains_what_it_trusts_and_refuses_the_rest_with_the_reason(user, tmp_path):
    app, policy = tmp_path / "app", tmp_path / "policy.toml"
    shutil.copytree(USE_CASES["image-classification"].folder, app)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "alice"], check=True)
    policy.write_text('apps = "signed"\n[task]\nseconds = 300\nmemory = "2 GiB"\negress = "none"\n')
    user("trust", "add", "alice@example.org", tmp_path / "alice.pub", "--policy", policy)
    user("up", "law", "-n", "2", "--policy", policy)
    try:
        assert "Site policy" in user("show", "law").stdout
        refused = user("run", app, "-f", "law", "-r", "1", code=8)
        assert "it is not signed; it must be signed by one of: alice@example.org" in refused.stderr
        user("sign", app, "--key", tmp_path / "alice")
        [row] = json.loads(user("run", app, "-f", "law", "-r", "1", "-o", "json").stdout)["rows"]
        assert (row["nodes"], row["failures"]) == (2, 0)
        nodes = [vm for vm in user.show("law")["vms"] if vm["role"] == "supernode"]
        for vm in nodes:
            log = user.home.console(vm["id"]).read_text()
            assert "signed by alice@example.org" in log
            assert "cannot be confined" not in log
    finally:
        user("down", "law")
