"""A federation that trains from the form: as Sunstone posts it, and as the command line fills it in."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pytest

from oneflower.local import daemon
from tests.conformance.fireedge import posted_for

from .conftest import until

pytestmark = pytest.mark.e2e


def test_a_federation_trains_by_what_sunstone_posts_for_the_form(user, tmp_path):
    user("register")
    cloud = daemon.find(user.home)
    filled = {"ONEAPP_FLOWER_TRAINING_USE_CASE": "image-classification", "ONEAPP_FLOWER_TRAINING_ROUNDS": "2",
              "ONEAPP_FLOWER_SURVIVAL_ENABLED": "YES", "ONEAPP_FLOWER_SURVIVAL_INTERVAL": "1"}  # fmt: skip
    with httpx.Client(base_url=cloud.oneflow, auth=tuple(cloud.auth.split(":", 1)), trust_env=False) as http:
        pool = http.get("/service_template").json()["DOCUMENT_POOL"]["DOCUMENT"]
        [form] = [document for document in pool if document["NAME"] == "oneflower-form"]
        merge = posted_for(form["TEMPLATE"]["BODY"], "sunstone", **filled)
        action = {"action": {"perform": "instantiate", "params": {"merge_template": merge}}}
        assert http.post(f"/service_template/{form['ID']}/action", json=action).status_code == 201
    try:
        until(lambda: user.is_ready("sunstone"), 120, "that all machines are ready")
        until(lambda: (user.show("sunstone")["training"] or {}).get("status") == "completed", 60, "the end of the run")
        status = user.show("sunstone")
        user("model", "sunstone", "--save", str(tmp_path / "model.npz"))
        checkpoints = list(user.machine(status["vms"][0]["id"]).rglob("round-*"))
    finally:
        user("down", "sunstone")
    assert (status["training"]["round"], status["training"]["rounds"]) == (2, 2)
    assert status["training"]["row"]["accuracy"] > 0.8
    assert (status["settings"]["FL_NUM_ROUNDS"], status["settings"]["FL_CHECKPOINT_INTERVAL"]) == ("2", "1")
    assert np.load(tmp_path / "model.npz").files
    assert checkpoints, "a setting of the form reached the SuperLink"


def check_log(user, status):
    """Check that every line of every machine is an object that says what it is about, and that none has a secret."""
    run = status["training"]["id"]
    for vm in status["vms"]:
        text = (user.machine(vm["id"]) / "console.log").read_text()
        objects = [json.loads(line) for line in text.splitlines()]
        assert {(each["role"], each["vm"]) for each in objects} == {(vm["role"], str(vm["id"]))}
        app = {"superlink": "flwr-serverapp", "supernode": "flwr-clientapp"}[vm["role"]]
        assert {"agent", f"flower-{vm['role']}", app} <= {each["process"] for each in objects}
        known = [each for each in objects if each["process"] == app and "round" in each]
        assert {(each["federation"], each["run"], each["round"]) for each in known} == {("filled", run, "1")}, vm
        if vm["role"] == "supernode":
            assert {(each["node"], each["partition"]) for each in known} == {(vm["node_id"], vm["partition"])}
        assert (user.machine(vm["id"]) / "context" / "token.txt").read_text().strip() not in text


def check_schedule(user, status, folder):
    """Check that a planned time that passed while the agent was away is made up for, and not once more after that."""
    link, first = status["vms"][0]["id"], status["training"]["id"]
    record = user.machine(link) / "var" / "schedule.json"

    def schedule():
        return json.loads(record.read_text())

    def away(since):
        """Let the agent be away for that long, as far as it knows."""
        agent = user.process(link, "oneflower_appliance.agent", without=("init.py",))
        agent.suspend()
        said = schedule() | {"looked": since.isoformat(timespec="seconds")}
        record.write_text(json.dumps(said | {"following": said["looked"]}))
        agent.kill()

    away(datetime.now(UTC) - timedelta(days=365))
    until(lambda: schedule()["model"] not in ("", first), 60, "the end of the planned run")
    [begun, planned] = schedule()["results"]
    assert (begun["run"], planned["outcome"], schedule()["model"]) == (first, "completed", planned["run"])
    until(lambda: user.show("filled")["schedule"]["model"] == planned["run"], 60, "that it is published")
    assert "planned time was missed" in " ".join(user.show("filled")["remarks"])
    user("model", "filled", "--save", str(folder / "model.npz"))
    metrics = json.loads((folder / "model-metrics.json").read_text())
    assert (metrics["run"], metrics["config"]["initial-run"]) == (planned["run"], first)
    away(datetime.fromisoformat(planned["planned"]) - timedelta(days=1))
    until(lambda: schedule()["looked"] > planned["begun"], 60, "the look after the reboot")
    assert [one["run"] for one in schedule()["results"]] == [first, planned["run"]], "no time is run twice"


def check_audit(user, status):
    """Check that both logs have what was done, with the app, and that a change on the SuperLink's machine shows."""
    found = json.loads(user("audit", "filled", "-o", "json").stdout)
    assert (found["operator"]["broken"], found["SuperLink"]["broken"]) == ("", "")
    done = [(entry["action"], entry["outcome"]) for entry in found["operator"]["entries"]]
    assert done[:2] == [("deploy", "begun"), ("deploy", "done")]
    theirs = [entry for entry in found["SuperLink"]["entries"] if entry["outcome"] == "done"]
    assert sum(entry["action"] == "node.admit" for entry in theirs) == status["supernodes"]
    [run] = [entry for entry in theirs if entry["action"] == "run.start"]
    assert (run["run"], run["says"]) == (status["training"]["id"], "the agent of this SuperLink")
    assert len(run["app_hash"]) == 64
    log = user.machine(status["vms"][0]["id"]) / "var" / "audit" / "audit.jsonl"
    log.write_text(log.read_text().replace("node.admit", "node.evict", 1))
    assert "was changed" in user("audit", "filled", code=11).stderr


def test_up_fills_in_the_form(user, tmp_path):
    given = ("FL_USE_CASE=image-classification", "FL_NUM_ROUNDS=1", "FL_LOG_FORMAT=json", "FL_LOG_LEVEL=DEBUG")
    given += ("FL_SCHEDULE=0 0 1 1,7 *",)
    words = [word for value in given for word in ("--set", value)]
    try:
        done = user("up", "filled", "--template", "oneflower-form", *words)
        status = user.show("filled")
        settings = status["settings"]
        context = (user.machine(status["vms"][0]["id"]) / "context" / "context.sh").read_text()
        check_log(user, status)
        check_audit(user, status)
        check_schedule(user, status, tmp_path)
    finally:
        user("down", "filled")
    assert "completed, round 1 of 1" in done.stdout
    assert (settings["FL_NUM_ROUNDS"], settings["FL_LOG_FORMAT"]) == ("1", "json")
    assert "FL_LOG_FORMAT='json'" in context, "what the form does not ask for"
    assert "FL_NUM_ROUNDS='1'" in context
