"""Waiting for the run that a form begins by itself, told by what the SuperLink publishes."""

from __future__ import annotations

import base64
import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from oneflower.cli.rounds import RunTable, progress_line
from oneflower.cloud import Federation, waiting
from oneflower.cloud.reading import read_status
from oneflower.cloud.status import FederationStatus, VmStatus
from oneflower.cloud.waiting import HEALING, wait_begun, wait_ready, wait_trained
from oneflower.events import Note, RunBegan, ignore
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.progress import RunProgress
from oneflower_appliance.runs import RunRow


class Vm:
    """A running VM that published something."""

    state, lcm_state, id, short_name, ip = 3, 3, 1, "superlink_0", "10.0.0.1"

    def __init__(self, **attributes):
        self.attributes = attributes


BODY = {
    "state": 2, "roles": [{"name": "superlink", "state": 2, "cardinality": 1, "nodes": [{"deploy_id": 1}]},
                          {"name": "supernode", "state": 2, "cardinality": 0, "min_vms": 0, "nodes": []}],
}  # fmt: skip
RUN = {"FL_RUN_ID": "5", "FL_RUN_APP": "us/app", "FL_RUN_STATUS": "running", "FL_RUN_ROUND": "-", "FL_RUN_ERROR": "-"}
ROUND = {"FL_RUN_ROWS": "1:3:8.5:4:0:4:0.5:-:-;2:3:9.5:4:1:5:0.25:0.5:-"}
FAULT = {"round": 2, "node": "77", "phase": "train", "kind": "failed", "reason": "no data"}


def training(**published):
    return read_status(1, "lab", BODY, {1: Vm(READY="YES", **published)}, ()).training


def test_what_is_published_of_a_run_is_read():
    assert training() is None
    begun = training(**RUN)
    assert (begun.id, begun.status, begun.row, begun.error, begun.finished) == ("5", "running", None, "", False)
    first, found = training(**RUN | ROUND).latest
    assert (found.round, found.rounds, found.nodes, found.failures, found.asked) == (2, 3, 4, 1, 5)
    assert (found.loss, found.accuracy, found.train_loss) == (0.25, 0.5, None)
    assert (first.round, first.accuracy) == (1, None)
    failed = training(**RUN | {"FL_RUN_STATUS": "failed", "FL_RUN_ERROR": base64.b64encode(b"no data").decode()})
    with pytest.raises(OneflowerError, match="Run 5 of us/app failed: no data") as caught:
        failed.completed()
    assert caught.value.code is ExitCode.RUN_FAILED


def test_garbage_that_a_superlink_publishes_is_no_row():
    for rows in ("-", "two:3:9.5:4:1:5:-:-:-", "2:3", "-:3:9.5:4:1:5:-:-:-", "2:3:9.5:4:1:5:-:-:-;"):
        assert training(**RUN, FL_RUN_ROWS=rows).row is None, rows
    for fault in ("-", "e30=", base64.b64encode(b"[1]").decode()):
        assert training(**RUN, FL_RUN_FAULT=fault).fault is None, fault


def test_the_last_fault_of_a_node_is_told_with_its_round():
    encoded = base64.b64encode(json.dumps(FAULT).encode()).decode()
    found = training(**RUN | ROUND, FL_RUN_FAULT=encoded)
    assert (found.fault_round, found.fault.sentence) == (2, "node 77 failed in training: no data")
    assert [len(row.faults) for row in found.latest] == [0, 1]
    assert progress_line(found).endswith("\n  In round 2, node 77 failed in training: no data")


def test_a_run_that_was_never_evaluated_is_no_success():
    error = base64.b64encode(b"The model was trained and never evaluated.").decode()
    found = training(**RUN | {"FL_RUN_STATUS": "completed", "FL_RUN_ERROR": error})
    with pytest.raises(OneflowerError, match="completed: The model was trained and never evaluated") as caught:
        found.completed()
    assert caught.value.code is ExitCode.RUN_FAILED


def test_why_a_machine_waits_for_a_host_is_told_as_long_as_it_waits():
    why = "Tue Nov 24 16:00:00 2026: Cannot dispatch VM: Not enough CPU on hosts"
    waiting, running = Vm(SCHED_MESSAGE=why), Vm(SCHED_MESSAGE=why)
    waiting.state, waiting.lcm_state = 1, 0
    found = read_status(1, "lab", BODY, {1: waiting}, ())
    assert found.vms[0].waits == why
    assert found.vms[0].line == f"pending: {why}"
    assert read_status(1, "lab", BODY, {1: running}, ()).vms[0].waits == ""
    with pytest.raises(OneflowerError, match=r"still waiting for superlink_0 \(pending: .*Not enough CPU on hosts\)"):
        wait_ready([found], timeout=-1)


def test_a_superlink_that_does_not_say_where_its_control_api_is_is_no_riddle():
    found = read_status(1, "lab", BODY, {1: Vm(READY="YES", FL_ENDPOINT="10.0.0.1:9092")}, ())
    assert any("FL_CONTROL_ENDPOINT" in remark for remark in found.remarks), "`show` says it"
    with pytest.raises(OneflowerError, match=r"superlink_0 says that it is ready but not where .*FL_CONTROL_ENDPOINT"):
        found.reachable()
    booting = read_status(1, "lab", BODY, {1: Vm(FL_CONTROL_ENDPOINT="127.0.0.1:9093")}, ())
    with pytest.raises(OneflowerError, match="lab has no SuperLink that is ready: its machine is running"):
        booting.reachable()


def status(found=None, error=""):
    vm = VmStatus(1, "superlink_0", "superlink", "running", not error, error=error)
    return FederationStatus(1, "lab", "RUNNING", 0, vms=(vm,), training=found)


def wait(*statuses, healing=HEALING):
    """Wait by these statuses, and return how the run ended and which rounds were told."""
    seen = []
    return wait_trained(statuses, lambda row: seen.append(row.round), healing), seen


def test_rounds_are_told_once_and_a_loss_that_mends_itself_is_waited_through():
    two = training(**RUN | ROUND)
    more = ROUND["FL_RUN_ROWS"] + ";3:5:1.5:4:0:4:-:-:-;4:5:1.5:4:0:4:-:-:-;5:5:1.5:4:0:4:-:-:-"
    last = training(**RUN | {"FL_RUN_ROWS": more, "FL_RUN_STATUS": "completed"})
    ended, seen = wait(status(), status(two), status(two, error="killed"), status(two), status(last))
    assert (ended.status, seen) == ("completed", [1, 2, 3, 4, 5]), "none goes unseen"


def test_a_federation_that_stays_broken_is_given_up():
    with pytest.raises(OneflowerError, match="lab is no longer ready(.|\n)*superlink_0: killed"):
        wait(status(), status(error="killed"), healing=-1)


def test_the_run_that_begins_is_waited_for():
    assert wait_begun([status(), status(error="killed"), status(training(**RUN))]) == "5"
    assert wait_begun([status(RunProgress("-", "us/app", "failed"))]) == "", "it could not begin"
    with pytest.raises(OneflowerError, match="lab is no longer ready"):
        wait_begun([status(error="killed")] * 2, -1)


def test_rounds_come_from_the_superlink_itself_if_it_can_be_reached_and_only_once(monkeypatch):
    last = status(training(**RUN | ROUND | {"FL_RUN_STATUS": "completed"}))
    federation = Federation(SimpleNamespace(patient=nullcontext), 1, "lab")
    monkeypatch.setattr(waiting, "looks", lambda _: iter([status(training(**RUN)), last]))
    seen, events = [], []

    def follow(_, run, *, on_row, notify):
        assert run == "5"
        on_row(training(**RUN | ROUND).latest[0])
        notify(Note("a remark"))
        raise failures[0]

    monkeypatch.setattr(Federation, "follow", follow)
    failures = [OneflowerError("It failed.", code=ExitCode.RUN_FAILED), OneflowerError("No SSH.", code=ExitCode.CLOUD)]
    assert federation.wait_trained(lambda row: seen.append(row.round), events.append).status == "completed"
    assert seen == [1, 2]
    assert events == [RunBegan("5"), Note("a remark")]
    del failures[0]
    federation.wait_trained(ignore, events.append)
    assert events[-1] == Note("what the run does between rounds is not shown: No SSH.")


def test_a_run_that_fails_is_a_failure():
    with pytest.raises(OneflowerError, match="stopped: no reason is known"):
        wait(status(RunProgress("5", "us/app", "stopped")))


def test_a_round_is_told_with_what_it_was_tested_by_and_who_failed(capsys):
    fault = {"node": "77", "phase": "train", "kind": "failed", "reason": "no\x1b[31m data"}
    metrics = {"round": 2, "rounds": 3, "seconds": 1.5, "nodes": 4, "asked": 5, "failures": 1, "faults": [fault],
               "evaluate": {"loss": 0.5, "accuracy": 0.75, "num-examples": 9, "roc_auc": 0.9, "f1": 0.8}}  # fmt: skip
    table = RunTable()
    table.add(RunRow.parse(json.dumps(metrics)).named({"77": "supernode_1"}))
    head, line, below = capsys.readouterr().err.splitlines()
    assert head.split() == ["round", "loss", "accuracy", "seconds", "nodes"]
    assert line.split() == ["2/3", "0.5000", "0.7500", "1.5", "4/5", "roc_auc", "0.900", "f1", "0.800"]
    assert below.strip() == "supernode_1 (node 77) failed in training: no [31m data"
    assert table.curve() == "accuracy 0.750 ▃ 0.750"


def test_the_loss_of_training_has_a_column_of_its_own_and_never_another(capsys):
    table = RunTable()
    for number, tested in ((1, {}), (2, {"loss": 0.25}), (3, {})):
        columns = {"loss": "evaluate"} if number > 1 else {}
        row = {"round": number, "rounds": 3, "seconds": 1.5, "nodes": 2, "failures": 0, "columns": columns}
        table.add(RunRow.parse(json.dumps(row | {"train": {"train_loss": 0.5}, "evaluate": tested})))
    head, *lines = (line.split() for line in capsys.readouterr().err.splitlines())
    assert head == ["round", "train", "loss", "loss", "accuracy", "seconds", "nodes"]
    assert [line[1:3] for line in lines] == [["0.5000", "-"], ["0.5000", "0.2500"], ["0.5000", "-"]]


def test_how_far_a_run_is_fits_into_a_line():
    run = training(**RUN | ROUND)
    assert progress_line(run) == "run 5 of us/app: running, round 2 of 3, loss 0.2500, accuracy 0.5000"
    assert progress_line(RunProgress("5", "us/app", "failed", error="no data")) == "run 5 of us/app: failed: no data"
