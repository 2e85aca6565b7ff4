"""What the page shows: text from elsewhere stays text, and a person sees what is wrong and what to do."""

from __future__ import annotations

import html
import json
from dataclasses import replace
from urllib.parse import quote

import pytest

from oneflower.api import Logs, NodeReport, RunResult, RunRow, RunState, ServiceKind, SiteStatus
from oneflower.cloud.sites import SiteNode
from oneflower.events import ConsoleLine, Exchanged, InRound, Note
from oneflower.web import live
from oneflower.web.curves import Curves
from oneflower.web.followers import Followed
from oneflower.web.streams import event
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.progress import RunProgress
from oneflower_appliance.round_state import Phase, RoundState
from oneflower_appliance.runs import Fault
from oneflower_appliance.schedule import Result, Schedule
from tests.web.conftest import FOREIGN, LINK, NODE, RUN, STATUS

FAULT = Fault("2", "train", "failed", FOREIGN, FOREIGN)
ROW = RunRow(1, 3, 0.5, 1, 1, 0.25, float("nan"), {}, 2, faults=(FAULT,))
HOSTILE = replace(
    STATUS, name=FOREIGN, state=FOREIGN, endpoint=FOREIGN, version=FOREIGN, causes=(FOREIGN,), remarks=(FOREIGN,),
    schedule=Schedule(following=FOREIGN, model=FOREIGN, results=(Result(1, FOREIGN, run=FOREIGN, why_not=FOREIGN),)),
    share=FOREIGN, settings={"ML_FRAMEWORK": FOREIGN}, training=RunProgress(FOREIGN, FOREIGN, FOREIGN),
    vms=(replace(LINK, name=FOREIGN, ip=FOREIGN), replace(NODE, name=FOREIGN, state=FOREIGN, ready=False, error=FOREIGN, partition=FOREIGN)),
)  # fmt: skip


def report(number, name, seconds, **more):
    return NodeReport(number, name, "train", seconds=seconds, name=name, **more)


def trained(run, *, on_row, on_reports, on_log, notify):
    """Follow a run as the API would: it has two nodes, and all of its text is hostile."""
    on_row(ROW)
    on_reports([report(1, FOREIGN, 1.0, metrics={FOREIGN: 1.0}, fault="failed", reason=FOREIGN)])
    on_reports([NodeReport(1, "9", "evaluate", examples=4, name="north/0", metrics={FOREIGN: 1.0, "accuracy": 0.5})])
    on_log(f"{FOREIGN}\r\n\nevent: overview\rdata: <b>{FOREIGN}\n")
    notify(Note(FOREIGN))
    notify(Exchanged(FOREIGN))
    raise OneflowerError(FOREIGN, FOREIGN)


def test_no_text_from_elsewhere_becomes_html(fake):
    made = fake.federation(HOSTILE)
    made.runs.return_value = (replace(RUN, app=FOREIGN, status=FOREIGN),)
    made.follow.side_effect = trained
    nodes = (SiteNode(FOREIGN, FOREIGN, online=False, fingerprint=FOREIGN, node="", asked="", address=FOREIGN),)
    made.sites.all.return_value = (
        SiteStatus(FOREIGN, 1, open=True, expires=0, approves=False, suspended=False, nodes=nodes),
    )
    made.logs.return_value = Logs((FOREIGN,), HOSTILE.vms, {FOREIGN: [FOREIGN]}, FOREIGN)
    job = fake.office.jobs.start(FOREIGN, FOREIGN, lambda _cloud, job: _say(job))
    person = fake.person()
    texts = [
        person.get(path).text
        for path in (
            "/",
            "/federations/7",
            "/federations/7/logs",
            "/federations/7/remove",
            f"/jobs/{job.id}",
            f"/federations/7/sites/remove?of={quote(FOREIGN)}",
        )
    ]
    texts.append(fake.stream(live.one_federation(fake.office, 7, ""), "event: curves"))
    texts.append(fake.stream(live.all_federations(fake.office), "event: federations"))
    texts.append(fake.stream(live.job(fake.office, job.id), "event: end"))
    for text in texts:
        shown = "".join(
            line for line in text.splitlines() if not line.startswith("data: {")
        )  # JSON, which becomes text nodes
        assert "<script>alert" not in shown
        assert html.escape(FOREIGN).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") in shown


def _say(job):
    job.notify(Note(FOREIGN))
    job.notify(ConsoleLine(FOREIGN, FOREIGN))
    raise OneflowerError(FOREIGN, FOREIGN)


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\n\n"])
def test_a_line_of_a_log_is_no_event_of_its_own(end):
    text = event("log", f"x{end}event: overview{end}data: y")
    assert [line.split(":")[0] for line in text.splitlines() if line][1:] == ["data"] * (len(text.splitlines()) - 2)
    assert "\r" not in text


def test_the_stream_brings_each_round_once_and_what_is_wrong_with_a_node(fake):
    made = fake.federation(replace(STATUS, vms=(LINK, replace(NODE, ready=False, error="Flower has died."))))
    made.runs.return_value = (RUN,)
    made.follow.side_effect = trained
    text = fake.stream(live.one_federation(fake.office, 7, ""), "event: curves")
    rows = [
        json.loads(line[6:])
        for line in text.splitlines()
        if line.startswith('data: {"run":"5","from"') and '"rows"' in line
    ]
    assert [(found["from"], len(found["rows"])) for found in rows if found["rows"]] == [(0, 1)]
    assert (rows[-1]["rows"][0]["loss"], rows[-1]["rows"][0]["accuracy"]) == (0.25, None)
    assert "supernode_0: Flower has died." in text
    assert text.count("What to do") == 2, "for the machine, and for the node"
    assert "<td>north</td><td>1</td><td>4</td>" in text, "the model on the data of each site"
    assert made.follow.call_count == 1


@pytest.mark.parametrize(("rows", "files"), [([ROW], {"log", "metrics", "plot", "reports"}), ([], {"log"})])
def test_a_run_that_failed_has_its_files_to_save(fake, rows, files):
    def fail(_run, *, on_row, **_):
        for row in rows:
            on_row(row)
        raise OneflowerError("Run 5 failed.")

    made = fake.federation()
    made.runs.return_value = (replace(RUN, status="finished", sub_status="failed"),)
    made.follow.side_effect = fail
    text = fake.stream(live.one_federation(fake.office, 7, ""), "Save:")
    text = text[text.index("Save:") :]
    assert {what for what in (*files, "model", "metrics", "log") if f"/files/{what}" in text} == files


def test_a_run_whose_superlink_cannot_be_reached_is_not_called_failed(fake):
    made = fake.federation(replace(STATUS, training=RunProgress("5", "oneflower/app", "running")))
    made.follow.side_effect = made.runs.side_effect = OneflowerError("No way to superlink_0.")
    text = fake.stream(live.one_federation(fake.office, 7, "5"), "how it goes cannot be seen now")
    assert "failed" not in text
    assert "Save:" not in text


def test_a_run_that_failed_is_followed_once(fake):
    made = fake.federation()
    made.runs.return_value = (replace(RUN, status="finished", sub_status="stopped"),)
    made.follow.side_effect = OneflowerError("Run 5 was stopped.")
    fake.stream(live.one_federation(fake.office, 7, ""), "Save:")
    fake.office.followers.follow(7, "5").ended -= 60
    fake.stream(live.one_federation(fake.office, 7, ""), "Save:")
    assert made.follow.call_count == 1


def test_a_site_whose_superlink_is_elsewhere_offers_no_training(fake):
    waits = replace(NODE, ready=False, joins="It waits for the approval of the SuperLink's operator.")
    fake.federation(replace(STATUS, kind=ServiceKind.SITE, vms=(waits,), control=""))
    text = fake.person().get("/federations/7").text
    for part in (
        'aria-labelledby="training-title" hidden',
        'aria-labelledby="train-title" hidden',
        "supernode_0: It waits",
    ):
        assert part in text


def test_a_site_and_its_nodes_are_shown_with_how_they_stand_and_what_can_be_done(fake):
    def node(number, standing, heard="", *, online=False):
        return SiteNode(f"north/{number}", standing, online, f"{number}" * 32, "9", "", "10.0.0.9", heard)

    nodes = (
        node(0, "approved", online=True),
        node(1, "asked"),
        node(2, "suspended", "2026-11-30T12:30:01+00:00"),
    )
    made = fake.federation()
    made.sites.all.return_value = (
        SiteStatus("north", 3, open=True, expires=4e9, approves=False, suspended=False, nodes=nodes, removed=1),
    )
    text = fake.stream(live.one_federation(fake.office, 7, ""), "north/2")
    for part in (
        'aria-label="Suspend north/0"',
        f'aria-label="Approve north/1 with the key {"1" * 32}"',
        f'aria-label="Refuse north/1 with the key {"1" * 32}"',
        "2026-11-30 12:30",
        "1 of 3",
        "1 removed",
        "ask its operator which keys",
    ):
        assert part in text, part
    assert 'aria-label="Approve north"' not in text, "all keys at once, without a look at them"


def test_nothing_is_asked_of_a_cloud_that_nobody_looks_at(fake):
    made = fake.federation()
    fake.stream(live.one_federation(fake.office, 7, ""), "event: overview")
    asked = made.status.call_count
    assert asked >= 1
    fake.stream(live.job(fake.office, fake.office.jobs.start("x", "lab", lambda _cloud, _job: "/").id), "event: end")
    assert made.status.call_count == asked


def test_between_two_rounds_the_nodes_that_are_late_are_named():
    followed = Followed("5")
    followed.row(ROW)
    followed.notify(InRound(RoundState(Phase.TRAINING, 2, 3, 0.0, ("a", FOREIGN), {"a": 1.0}, usual=1.0, seconds=60.0)))
    assert followed.now.startswith("round 2/3, training, 60 s")
    assert followed.now.endswith(f"1/2 answered, late: {FOREIGN}")
    followed.row(ROW)
    assert followed.now == ""


def test_a_federation_that_is_gone_is_said_to_be(fake):
    made = fake.federation()
    made.status.side_effect = [STATUS, OneflowerError("There is no service 7.", "", ExitCode.NOT_FOUND)]
    assert "lab is no longer there: it was removed." in fake.stream(live.one_federation(fake.office, 7, ""), "removed")
    assert "There is no federation" in fake.stream(live.one_federation(fake.office, 8, ""), "no federation")
    answer = fake.person().get("/federations/8")
    assert (answer.status_code, "There is no federation" in answer.text) == (404, True)


def test_a_node_that_is_slow_or_fails_is_named_first():
    curves = Curves()
    for number in (1, 2):
        curves.add([report(number, f"node_{index}", 9.0 if index == 2 else 1.0) for index in range(4)])
    curves.add([report(3, "node_3", None, fault="no answer", reason="it is away")])
    curves.add([report(3, "node_0", float("inf"))])
    slow, away, well, _ = curves.lines()
    assert (slow.name, away.name, well.remark) == ("node_2", "node_3", "")
    assert slow.remark.startswith("is slow: 9.0 s")
    assert (away.remark, away.trouble) == ("round 3: no answer (it is away)", "no answer")
    curves.add([report(4, "node_3", 1.0)])
    again = next(line for line in curves.lines() if line.name == "node_3")
    assert (again.remark[33:], again.trouble) == ("Since round 4 it takes part again.", "")
    assert curves.of("train: seconds", 2) == {
        "after": 2,
        "rounds": 4,
        "nodes": {"node_0": [None], "node_1": [], "node_2": [], "node_3": [None, 1.0]},
    }


def test_files_of_a_run_are_saved_and_never_shown(fake, tmp_path):
    made = fake.federation()
    made.runs.return_value = (RunState("5", "app", "finished", "completed"),)
    card = tmp_path / "card.md"
    card.write_text(FOREIGN)
    made.fetch_files.return_value = RunResult("5", "app", (), 1.0, card=card)
    made.logs.return_value = Logs((), STATUS.vms, {"run 5": [FOREIGN]})
    answer = fake.person().get("/federations/7/runs/5/files/card")
    assert (answer.text, answer.headers["content-disposition"].split(";")[0]) == (FOREIGN, "attachment")
    assert fake.person().get("/federations/7/runs/5/files/card").status_code == 200
    assert made.fetch_files.call_count == 1
    log = fake.person().get("/federations/7/runs/5/files/log")
    assert (log.text, log.headers["content-disposition"].split(";")[0]) == (f"run 5 | {FOREIGN}\n", "attachment")
    assert fake.person().get("/federations/7/runs/5/files/plot").status_code == 404
    for wrong in ("id", "__class__", "..%2f..%2fetc%2fpasswd"):
        assert fake.person().get(f"/federations/7/runs/5/files/{wrong}").status_code == 404
