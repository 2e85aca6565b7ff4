"""A site whose policy asks for signed apps, with real Flower: worth its time because a refusal crosses every part."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oneflower_appliance.run_privacy import RunPrivacy
from oneflower_appliance.use_cases import USE_CASES
from tests.e2e.conftest import until

pytestmark = pytest.mark.e2e


def test_a_site_trains_what_it_trusts_and_refuses_the_rest_with_the_reason(user, tmp_path):
    app, policy = tmp_path / "app", tmp_path / "policy.toml"
    shutil.copytree(USE_CASES["image-classification"].folder, app)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "alice"], check=True)
    policy.write_text(
        'apps = "signed"\n[task]\nseconds = 300\nmemory = "2 GiB"\negress = "none"\n'
        '[privacy]\nclip = 1.0\nnoise = 0.02\nmetrics = ["num-examples"]\nrecords = ["description"]\n'
    )
    user("trust", "add", "alice@example.org", tmp_path / "alice.pub", "--policy", policy)
    user("up", "law", "-n", "2", "--policy", policy)
    try:
        assert "Site policy" in user("show", "law").stdout
        refused = user("run", app, "-f", "law", "-r", "1", code=8)
        assert "it is not signed; it must be signed by one of: alice@example.org" in refused.stderr
        user("sign", app, "--key", tmp_path / "alice")
        [row] = json.loads(user("run", app, "-f", "law", "-r", "1", "-o", "json").stdout)["rows"]
        assert (row["nodes"], row["failures"]) == (2, 0)
        spent = RunPrivacy.in_row(row["metrics"]).nodes
        assert {(one.clip, one.noise, one.epsilon == one.total > 0) for one in spent.values()} == {(1.0, 0.02, True)}
        assert len(spent) == 2
        assert row["metrics"]["train"] == {}, "and the loss stays where it is"
        check_plain_flwr(user, app, tmp_path)
        nodes = [vm for vm in user.show("law")["vms"] if vm["role"] == "supernode"]
        for vm in nodes:
            log = user.home.console(vm["id"]).read_text()
            assert "signed by alice@example.org" in log
            assert "cannot be confined" not in log
    finally:
        user("down", "law")


def check_plain_flwr(user, app, folder):
    """Open Flower's own command, which knows nothing of oneflower: a signed app trains, and after a change it does not."""
    said, before = json.loads(user("connect", "law", "-o", "json").stdout), user.show("law")["training"]["id"]
    (folder / "config.toml").write_text(
        f'[superlink.law]\naddress = "{said["address"]}"\nroot-certificates = "{said["root-certificates"]}"\n'
    )
    environment = {
        **os.environ,
        "FLWR_HOME": str(folder),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }

    def train():
        nonlocal before
        flwr = Path(sys.executable).with_name("flwr")
        command = [flwr, "run", app, "law", "--run-config", "num-server-rounds=1"]
        subprocess.run(command, env=environment, capture_output=True, check=True)
        ended = ("completed", "failed")
        until(lambda: (now := user.show("law")["training"])["id"] != before and now["status"] in ended, 60, "the run")
        found = user.show("law")["training"]
        before = found["id"]
        return found

    found = train()
    assert (found["status"], found["row"]["nodes"], found["error"]) == ("completed", 2, "")
    with (app / "pyproject.toml").open("a") as stream:
        stream.write('[tool.changed]\nafter = "it was signed"\n')
    found = train()
    assert found["status"] == "failed"
    assert "the app was changed after it was signed" in found["error"]


def test_an_app_waits_for_the_approval_of_its_site_and_trains_with_nothing_restarted(user, tmp_path):
    """Worth its time because ask and approval cross the SuperNode, both agents, OneGate, the cloud and the SuperLink."""
    app, policy = tmp_path / "app", tmp_path / "site" / "policy.toml"
    shutil.copytree(USE_CASES["image-classification"].folder, app)
    policy.parent.mkdir()
    policy.write_text('apps = "ask"\nask-seconds = 300\n')
    user("up", "asks", "-n", "2", "--policy", policy)
    try:
        run, lines = user.say("run", app, "-f", "asks", "-r", "1")
        until(lambda: len(json.loads(user("policy", "asks", "-o", "json").stdout)) == 2, 60, "the asks")
        ask, _ = json.loads(user("policy", "asks", "-o", "json").stdout)
        said = "wait for their operator's approval of oneflower/image-classification"
        # It is said when the first node asks, which may be before the other one does.
        first = re.compile(r"supernode_.* operator's approval of oneflower/image-classification")
        until(lambda: first.search("".join(lines)), 20, "a word about it in the run")
        until(lambda: said in user("show", "asks").stdout, 20, "a word about it in show")
        refused = user("policy", "approve", ask["content"], "--policy", policy, code=2)
        assert "Nobody was asked, so nothing was approved" in refused.stderr
        approved = user("policy", "approve", ask["content"][:12], "--policy", policy, "--yes")
        began = time.monotonic()
        assert "added    pyproject.toml" in approved.stderr
        assert "Now on asks/supernode_0" in approved.stdout
        assert run.wait(60) == 0, lines.all()
        assert time.monotonic() - began < 20, "within seconds, and the rest is a round"
        assert json.loads(user("policy", "asks", "-o", "json").stdout) == []
        [entry] = [one for one in read_own_log(user) if one["action"] == "policy.approve" and one["outcome"] == "done"]
        assert (entry["content"], entry["machines"]) == (ask["content"], "asks/supernode_0, asks/supernode_1")
    finally:
        user("down", "asks")


def read_own_log(user):
    return json.loads(user("audit", "-o", "json").stdout)["operator"]["entries"]
