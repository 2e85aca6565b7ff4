"""The record of what each node did: its files, their bounds, and what is left out for privacy."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.server import workflow
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg

from oneflower.cloud.reports import fetch
from oneflower_appliance import node_reports
from oneflower_appliance.node_findings import findings_in
from oneflower_appliance.node_reports import NodeReport
from oneflower_appliance.runs import Fault
from oneflower_appliance.training import node_record
from oneflower_appliance.training.node_record import NodeRecord, Told, told_in
from oneflower_appliance.training.privacy import is_private
from oneflower_appliance.training.traffic import Measure


def told(number, nodes=3):
    return {node: Told(10 * node, {"loss": number + node / 3}) for node in range(1, nodes + 1)}


def recorded(folder, rounds, **options):
    record = NodeRecord(folder, withheld=False, **options)
    for number in rounds:
        record.add(number, "train", told(number), [], {1: Measure(8, 16, 0.5)})
        record.close_round(number)
    return record


def read(folder, after=0):
    return [report for line in node_reports.lines_after(folder, after) for report in node_reports.read_line(line)]


def test_a_report_is_read_as_it_was_written_also_when_a_metric_is_no_number():
    line = NodeReport(3, "7", "evaluate", "failed", "no data", 10, 0.25, 8, 16, {"loss": float("nan"), "f1": 0.1234567})
    again = NodeReport.of_line(line.of_machine({"7": "supernode_1"}, {"7": "1"}).line)
    assert (again.name, again.partition, again.fault, again.seconds) == ("supernode_1", "1", "failed", 0.25)
    assert str(again.metrics["loss"]) == "nan"
    assert again.metrics["f1"] == 0.123457
    assert "NaN" not in line.line, "which is not JSON"
    assert again.record["metrics.f1"] == 0.123457


def test_a_long_run_has_many_files_and_each_is_written_while_it_is_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr(node_record, "_FILE_BYTES", 1000)
    written = []
    original = node_record.write_atomic

    def write_atomic(path, content, mode, **_):
        written.append((path.name, len(content)))
        original(path, content, mode)

    monkeypatch.setattr(node_record, "write_atomic", write_atomic)
    recorded(tmp_path, range(1, 31))
    assert max(size for _, size in written) < 1500
    assert [name for name, _ in written] == sorted(name for name, _ in written)
    assert len(node_reports.files(tmp_path)) > 5
    assert [report.round for report in read(tmp_path)] == [number for number in range(1, 31) for _ in range(3)]
    assert {report.round for report in read(tmp_path, after=27)} == {28, 29, 30}
    first = read(tmp_path)[0]
    assert (first.node, first.examples, first.metrics) == ("1", 10, {"loss": 1.33333})
    assert (first.sent, first.received, first.seconds) == (8, 16, 0.5)


def test_an_answer_has_some_of_the_rounds_and_the_next_one_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(node_reports, "_ENOUGH", 500)
    recorded(tmp_path, range(1, 11))
    found = []
    while lines := node_reports.some_after(tmp_path, len(found)):
        found += lines
    assert [json.loads(line)["round"] for line in found] == list(range(1, 11))


def test_a_record_that_is_full_ends_and_the_run_continues(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(node_record, "_RUN_BYTES", 1000)
    recorded(tmp_path, range(1, 21))
    assert 1 < max(report.round for report in read(tmp_path)) < 10
    assert caplog.text.count("is full") == 1


def test_a_resumed_run_has_what_was_recorded_up_to_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(node_record, "_FILE_BYTES", 1000)
    before, run = tmp_path / "5", tmp_path / "6"
    lost = recorded(before, range(1, 10))
    lost.add(10, "train", told(10), [], {})
    lost.save(10)
    assert max(report.round for report in read(before)) == 9, "a round that is not over is not in the record"
    record = NodeRecord(run, withheld=False)
    record.resume([tmp_path / "died at once", before], 9, trained=True)
    assert list(node_reports.lines_after(run)) == list(node_reports.lines_after(before))
    record.add(10, "evaluate", told(10, nodes=1), [], {})
    record.close_round(10)
    assert [(report.node, report.phase) for report in read(run, after=9)] == [
        ("1", "train"), ("2", "train"), ("3", "train"), ("1", "evaluate"),
    ]  # fmt: skip
    other = NodeRecord(tmp_path / "7", withheld=False)
    other.resume([before], 4, trained=False)
    assert max(report.round for report in read(tmp_path / "7")) == 4


def test_a_file_that_is_damaged_is_left_out(tmp_path):
    recorded(tmp_path, [1, 2])
    (tmp_path / node_reports.file_name(3)).write_text("{")
    (tmp_path / "reports-x.jsonl").write_text("not one of these")
    assert {report.round for report in read(tmp_path)} == {1, 2}
    for garbage in ("[]", "null", '{"round": {}}', '{"round": 1e999}', "[" * 100_000):
        (tmp_path / node_reports.file_name(3)).write_text(garbage)
        assert {report.round for report in read(tmp_path)} == {1, 2}, garbage
    whole = tmp_path / node_reports.file_name(1)
    lines = whole.read_text().splitlines()
    whole.write_text(f"{lines[0]}\n{lines[1][:9]}\n{lines[1]}")
    assert {report.round for report in read(tmp_path)} == {1, 2}, "what follows a damaged line is read"


@pytest.mark.parametrize(
    "reports",
    ["7", "[7]", '[{"node": "7"}]', '[{"node": "7", "phase": "train", "seconds": []}]',
     '[{"node": "7", "phase": "train", "metrics": [1]}]', '[{"node": "7", "phase": "train", "metrics": {"a": "b"}}]'],
)  # fmt: skip
def test_what_an_app_may_have_written_there_hurts_nobody(tmp_path, reports):
    recorded(tmp_path, [1, 2])
    line = f'{{"round": 3, "withheld": false, "reports": {reports}}}'
    (tmp_path / node_reports.file_name(3)).write_text(line)
    assert findings_in(tmp_path, 3) == []
    with pytest.raises(ValueError, match="not a round's line"):
        node_reports.read_line(line)
    answers = iter(
        [line + '\n{"round": 4, "withheld": false, "reports": []}', next(node_reports.lines_after(tmp_path)), line, ""]
    )
    link = SimpleNamespace(text=lambda _: next(answers))
    assert list(fetch(link, "5")) == []
    assert {report.round for report in fetch(link, "5")} == {1}, "and it ends if the same comes again"


def test_a_node_with_too_many_metrics_is_recorded_with_the_first_of_them():
    metrics = {"w" * 65: 1.0} | {f"m{number}": float(number) for number in range(30)}
    content = RecordDict(
        {"m": MetricRecord(metrics | {"list": [1.0, 2.0], "weight": 7}), "c": ConfigRecord({"a": "b"})}
    )
    content["arrays"] = ArrayRecord()
    found = told_in(content, "weight")
    assert found.examples == 7
    assert list(found.metrics) == [f"m{number}" for number in range(20)]


def test_with_privacy_only_what_does_not_depend_on_a_nodes_data_is_recorded(tmp_path):
    record = NodeRecord(tmp_path, withheld=True)
    fault = Fault("2", "train", "no answer", "nothing came within 7 s")
    record.add(1, "train", told(1), [fault], {1: Measure(8, 16, 0.5)})
    record.close_round(1)
    assert "loss" not in next(node_reports.lines_after(tmp_path))
    found = read(tmp_path)
    assert all(report.withheld and report.examples is None and not report.metrics for report in found)
    assert [(report.fault, report.seconds) for report in found] == [("", 0.5), ("no answer", None), ("", None)]


def wrapped():
    return DifferentialPrivacyServerSideFixedClipping(FedAvg(), 1.0, 1.0, 2)


@pytest.mark.parametrize(
    ("run_config", "part", "private"),
    [
        ({}, object(), False),
        ({"privacy": "dp-local"}, object(), True),
        ({"privacy": "dp-central"}, None, True),
        ({"privacy": "an app's own word"}, None, False),
        ({}, FedAvg(), False),
        ({}, wrapped(), True),
        ({}, SimpleNamespace(strategy=wrapped()), True),
        ({}, workflow.DefaultWorkflow(), False),
        ({}, workflow.DefaultWorkflow(fit_workflow=workflow.SecAggPlusWorkflow(3, 2)), True),
    ],
)
def test_what_makes_a_run_private(run_config, part, private):
    assert is_private(run_config, None, part) is private
