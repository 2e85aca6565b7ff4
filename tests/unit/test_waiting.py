"""Waiting for the run that a form begins by itself, told by what the SuperLink publishes."""

from __future__ import annotations

import base64
import json

import pytest

from oneflower.cli.screen import RunTable, progress_line
from oneflower.cloud import Federation
from oneflower.cloud import federation as module
from oneflower.cloud.status import FederationStatus, RunProgress, VmStatus, read_status
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.runs import RunRow


class Vm:
    """A running VM that published something."""

    state, lcm_state, id, name, ip = 3, 3, 1, "superlink_0_(service_1)", "10.0.0.1"

    def __init__(self, **attributes):
        self.attributes = attributes


BODY = {
    "state": 2, "roles": [{"name": "superlink", "state": 2, "cardinality": 1, "nodes": [{"deploy_id": 1}]},
                          {"name": "supernode", "state": 2, "cardinality": 0, "min_vms": 0, "nodes": []}],
}  # fmt: skip
RUN = {"FL_RUN_ID": "5", "FL_RUN_APP": "us/app", "FL_RUN_STATUS": "running", "FL_RUN_ROUND": "-", "FL_RUN_ERROR": "-"}
ROUND = {
    "FL_RUN_ROUND": "2",
    "FL_RUN_ROUNDS": "3",
    "FL_RUN_NODES": "4",
    "FL_RUN_FAILURES": "1",
    "FL_RUN_SECONDS": "9.5",
}


def training(**published):
    return read_status(1, "lab", BODY, {1: Vm(READY="YES", **published)}, ()).training


def test_what_is_published_of_a_run_is_read():
    assert training() is None
    begun = training(**RUN)
    assert (begun.id, begun.status, begun.row, begun.error, begun.finished) == ("5", "running", None, "", False)
    found = training(**RUN | ROUND, FL_RUN_LOSS="0.25", FL_RUN_ACCURACY="-").row
    assert (found.round, found.rounds, found.nodes, found.failures) == (2, 3, 4, 1)
    assert (found.loss, found.accuracy) == (0.25, None)
    failed = training(**RUN | {"FL_RUN_STATUS": "failed", "FL_RUN_ERROR": base64.b64encode(b"no data").decode()})
    with pytest.raises(OneflowerError, match="Run 5 of us/app failed: no data") as caught:
        failed.completed()
    assert caught.value.code is ExitCode.RUN_FAILED


def test_garbage_that_a_superlink_publishes_is_no_row():
    assert training(**RUN | ROUND | {"FL_RUN_ROUND": "two"}).row is None


def status(found=None, error=""):
    vm = VmStatus(1, "superlink_0", "superlink", "running", not error, error=error)
    return FederationStatus(1, "lab", "RUNNING", 0, vms=(vm,), training=found)


@pytest.fixture
def wait(monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda _: None)

    def wait(*statuses):
        federation, seen, left = Federation(None, 1, "lab"), [], iter(statuses)
        federation.status = lambda: next(left)
        return federation.wait_trained(lambda row: seen.append(row.round)), seen

    return wait


def test_rounds_are_told_once_and_a_loss_that_mends_itself_is_waited_through(wait):
    two = training(**RUN | ROUND)
    three = training(**RUN | ROUND | {"FL_RUN_ROUND": "3", "FL_RUN_STATUS": "completed"})
    ended, seen = wait(status(), status(two), status(two, error="killed"), status(two), status(three))
    assert (ended.status, seen) == ("completed", [2, 3])


def test_a_federation_that_stays_broken_is_given_up(wait, monkeypatch):
    monkeypatch.setattr(module, "HEALING", -1)
    with pytest.raises(OneflowerError, match="lab is not ready any more(.|\n)*superlink_0: killed"):
        wait(status(), status(error="killed"))


def test_a_run_that_fails_is_a_failure(wait):
    with pytest.raises(OneflowerError, match="stopped: no reason is known"):
        wait(status(RunProgress("5", "us/app", "stopped")))


def test_a_round_is_told_with_what_it_was_tested_by_and_who_failed(capsys):
    metrics = {"round": 2, "rounds": 3, "seconds": 1.5, "nodes": 4, "failures": 1, "reasons": ["Traceback\nno data"],
               "evaluate": {"loss": 0.5, "accuracy": 0.75, "num-examples": 9, "roc_auc": 0.9, "f1": 0.8}}  # fmt: skip
    table = RunTable()
    table.add(RunRow.parse(json.dumps(metrics)))
    head, line = capsys.readouterr().err.splitlines()
    assert head.split() == ["round", "loss", "accuracy", "seconds", "nodes"]
    assert line.split("  (")[0].split() == ["2/3", "0.5000", "0.7500", "1.5", "4", "roc_auc", "0.900", "f1", "0.800"]
    assert line.endswith("(1 failed: no data)")
    assert table.curve() == "accuracy 0.750 ▁ 0.750"


def test_how_far_a_run_is_fits_into_a_line():
    run = training(**RUN | ROUND, FL_RUN_LOSS="0.25", FL_RUN_ACCURACY="0.5")
    assert progress_line(run) == "run 5 of us/app: running, round 2 of 3, loss 0.2500, accuracy 0.5000"
    assert progress_line(RunProgress("5", "us/app", "failed", error="no data")) == "run 5 of us/app: failed: no data"
