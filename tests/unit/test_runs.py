"""Following and collecting runs, against a SuperLink's API as the client sees it."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import os
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs, quote

import httpx
import numpy as np
import pytest

from oneflower.cli.rounds import show_files
from oneflower.cloud import FederationStatus, VmStatus, results, submission, training
from oneflower.cloud.app_output import Shown
from oneflower.cloud.following import Observer, Patience, follow
from oneflower.cloud.reports import Machines
from oneflower.cloud.superlink import SuperLinkClient
from oneflower.events import Exchanged, InRound, Note, RunBegan
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.node_reports import NodeReport, write_line
from oneflower_appliance.round_state import Phase, RoundState
from oneflower_appliance.run_folder import Messages
from oneflower_appliance.run_state import RunState


class Link(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        status, body = self.server.broken or (200, self.server.files.get(self.path.partition("?")[0]))
        body = body(self.path) if callable(body) else body
        self.send_response(404 if body is None else status)
        self.end_headers()
        self.wfile.write(body or b"")

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else self.path
        if "files" in body:  # it is older than that: runs of apps are started with `flwr run`
            self.send_error(400)
            return
        answer = self.server.posted(body)
        self.send_response(409 if answer is None else 200)
        self.end_headers()
        self.wfile.write(answer or b"no such app.\n")


@pytest.fixture
def link(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Link)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    server.files, server.broken = {}, None
    server.client = SuperLinkClient(f"127.0.0.1:{server.server_port}", "", tmp_path / "flwr")
    yield server
    server.client.close()
    server.shutdown()
    server.server_close()


def finished(link, sub_status, details="", log="", **more):
    link.files["/oneflower/runs/5"] = json.dumps(
        {"status": "finished", "sub_status": sub_status, "details": details, **more}
    ).encode()
    link.files["/oneflower/runs/5/log"] = json.dumps({"text": log, "latest": 1.0}).encode()


def row(number, nodes=2, **more):
    return {"round": number, "rounds": 2, "seconds": 1.5, "nodes": nodes, "failures": 2 - nodes, **more}


def record(link, *found):
    link.files["/oneflower/runs/5/files/metrics.jsonl"] = "".join(json.dumps(entry) + "\n" for entry in found).encode()


def leave(link, number, name, content):
    """Put a file into a run's folder."""
    path = f"/oneflower/runs/{number}/files"
    link.files[f"{path}/{name}"] = content
    link.files[path] = json.dumps([*json.loads(link.files.get(path, b"[]")), name]).encode()


def test_rounds_and_log_are_passed_on_to_the_end(link):
    finished(link, "completed", log="hello\n")
    record(link, row(1, server={"loss": 2.0}), row(2, server={"loss": 1.0}))
    seen, logged = [], []
    assert follow(link.client, "5", Observer(seen.append, logged.append, print)) == "5"
    assert [(entry.round, entry.loss) for entry in seen] == [(1, 2.0), (2, 1.0)]
    assert logged == ["hello\n"]


GARBAGE = [
    "",
    "{",
    '{"round": 2, "ro',
    "[]",
    "7",
    "null",
    '{"round": "x"}',
    '{"round": 1e999}',
    "[" * 100_000,
    "\ufffd",
]


def test_lines_of_the_record_that_are_damaged_are_left_out_which_is_said_once(link, tmp_path):
    finished(link, "completed")
    garbage = [*GARBAGE, json.dumps(row(2, train=[1])), json.dumps(row(2) | {"seconds": None})]
    lines = [json.dumps(row(1, server={"loss": 2.0})), *garbage, json.dumps(row(3, server={"loss": 1.0}))]
    leave(link, 5, "metrics.jsonl", "\n".join(lines).encode())
    seen, told = [], []
    assert follow(link.client, "5", Observer(seen.append, print, told.append)) == "5"
    assert [entry.round for entry in seen] == [1, 3]
    said = "The record of rounds (metrics.jsonl) is damaged. Lines that cannot be read and are left out: 12."
    assert told == [Note(said)]
    result = results.collect(link.client, "5", "app", results.Places.within(tmp_path))
    assert ([entry.round for entry in result.rows], result.damage) == ([1, 3], said)


def test_a_superlink_that_holds_requests_is_asked_once_for_each_news(link):
    """And it says where it stopped."""
    run = {"id": "5", "status": "running"}
    state = RoundState(Phase.TRAINING, 1, 2, 3.0, ("7", "8"), {"7": 1.5}, seconds=4.0)
    answers = [
        {"run": run, "log": {"text": "hello\n", "latest": 2.5}, "rows": [], "messages": None, "mark": "a",
         "now": state.entry},
        {"run": run, "log": {"text": "", "latest": 2.5}, "rows": [json.dumps(row(1))], "messages": None, "mark": "a"},
        {"run": run | {"status": "finished", "sub_status": "completed"}, "log": {"text": "bye\n", "latest": 3.0},
         "rows": [json.dumps(row(2))], "messages": None, "mark": "b"},
    ]  # fmt: skip
    asked, seen, logged, told = [], [], [], []

    def news(path):
        asked.append(parse_qs(path.partition("?")[2]))
        return json.dumps(answers[len(asked) - 1] | {"held": True}).encode()

    link.files["/oneflower/runs/5/news"] = news
    answers[1] |= {"now": answers[0]["now"] | {"seconds": 5.0}}
    answers[2] |= {"now": {"phase": "of a later release"}}
    observer = Observer(seen.append, logged.append, told.append, {"8": "supernode_1"})
    assert follow(link.client, "5", observer, Patience(pulse=60)) == "5"
    assert told == [InRound(state.named({"8": "supernode_1"}))], "once, because time alone is no news"
    assert ([entry.round for entry in seen], logged) == ([1, 2], ["hello\n", "bye\n"])
    told = [(found["after"], found["rows"], found.get("mark"), found["wait"]) for found in asked]
    assert told == [(["0.0"], ["0"], None, ["1.5"]), (["2.5"], ["0"], ["a"], ["1.5"]), (["2.5"], ["1"], ["a"], ["1.5"])]


def test_a_run_that_failed_gives_the_apps_reason_and_the_end_of_its_log(link):
    finished(link, "failed", "ServerApp failed with exception: boom", log="line one\nRuntimeError: boom\n")
    with pytest.raises(OneflowerError, match="boom") as caught:
        follow(link.client, "5", Observer(print, print, print))
    assert caught.value.code is ExitCode.RUN_FAILED
    assert "RuntimeError: boom" in str(caught.value)


@pytest.mark.parametrize("shown", Shown)
def test_the_last_lines_of_an_app_that_failed_are_shown_once(link, shown):
    finished(link, "failed", "exception: boom", log="INFO :      [ROUND 1]\nmy last words\nRuntimeError: boom\n")
    logged = []
    with pytest.raises(OneflowerError) as caught:
        follow(link.client, "5", Observer(print, logged.append, print, shown=shown))
    assert (str(caught.value).count("my last words"), "[ROUND 1]" in str(caught.value)) == (
        shown is Shown.NOTHING,
        False,
    )
    assert "my last words" in logged[0]


def test_the_messages_of_an_app_without_a_strategy_are_its_signs_of_life(link, tmp_path, capsys):
    finished(link, "completed")
    link.files["/oneflower/runs/5"] = json.dumps({"status": "running"}).encode()
    leave(link, "5", "messages.json", b'{"sent": 3, "answered": 1, "failed": 1}')
    said = []

    def notify(event):
        said.append(event)
        finished(link, "completed")

    assert follow(link.client, "5", Observer(print, print, notify)) == "5"
    assert said == [Exchanged("3 messages sent, 1 answered, 1 failed")]
    result = results.collect(link.client, "5", "app", results.Places.within(tmp_path))
    assert result.messages == Messages(3, 1, 1)
    show_files(result)
    assert capsys.readouterr().out == (
        "model    none: no round of a strategy was recorded; 3 messages sent, 1 answered, 1 failed\n"
    )


def test_an_app_that_sends_nothing_is_told_from_one_that_trains(link, tmp_path, capsys):
    finished(link, "completed")
    show_files(results.collect(link.client, "5", "app", results.Places.within(tmp_path)))
    assert capsys.readouterr().out == "model    none: no round of a strategy was recorded; it sent no messages\n"
    record(link, row(1))
    show_files(results.collect(link.client, "5", "app", results.Places.within(tmp_path)))
    assert "none" not in capsys.readouterr().out


def test_a_run_without_a_single_trained_node_is_no_success(link):
    finished(link, "completed")
    fault = {"node": "7", "phase": "train", "kind": "failed", "reason": "ValueError: no data"}
    record(link, row(1, nodes=0, faults=[fault]), row(2, nodes=0, faults=[fault]))
    with pytest.raises(OneflowerError, match="trained nothing") as caught:
        follow(link.client, "5", Observer(print, print, print, {"7": "supernode_1"}))
    assert str(caught.value).count("supernode_1 (node 7) failed in training: ValueError: no data") == 1


def test_a_run_that_was_never_evaluated_is_saved_and_fails(link, tmp_path):
    finished(link, "completed")
    buffer = io.BytesIO()
    np.savez(buffer, w=np.ones(3))
    fault = {"node": "7", "phase": "evaluate", "kind": "failed", "reason": "ValueError: no data"}
    evaluated = {"evaluate_asked": 2, "evaluated": 0, "evaluate": {}, "faults": [fault]}
    record(link, row(1, **evaluated), row(2, **evaluated))
    leave(link, "5", "model.npz", buffer.getvalue())
    said = Observer(print, print, print, {"7": "supernode_1"})
    with pytest.raises(OneflowerError, match="trained and never evaluated") as caught:
        training.finish(link.client, "5", "app", tmp_path / "lab", said)
    assert caught.value.code is ExitCode.RUN_FAILED
    assert "supernode_1 (node 7) failed in evaluation: ValueError: no data" in str(caught.value)
    saved = tmp_path / "lab-5"
    assert str(saved) in caught.value.hint
    assert np.load(saved / "model.npz")["w"].tolist() == [1, 1, 1]
    metrics = json.loads((saved / "metrics.json").read_text())
    assert metrics["rows"][1]["faults"] == [fault]
    assert metrics["machines"] == {"7": "supernode_1"}
    assert "supernode_1 (node 7) failed in evaluation: ValueError: no data | 2 | 2 |" in (saved / "card.md").read_text()


@pytest.mark.parametrize("more", [{"server": {"loss": 1.0}}, {"evaluated": 1}, {"evaluate_asked": 0}])
def test_a_run_that_was_tested_somehow_or_was_not_to_be_is_a_success(link, tmp_path, more):
    finished(link, "completed")
    record(link, row(1, **({"evaluate_asked": 2, "evaluated": 0} | more)))
    said = Observer(print, print, print)
    assert training.finish(link.client, "5", "app", tmp_path / "lab", said).rows


def test_a_superlink_that_is_gone_for_good_is_given_up(link):
    client = SuperLinkClient("127.0.0.1:9", "", link.client.flwr)
    with pytest.raises(OneflowerError, match="has not answered"):
        follow(client, "5", Observer(print, print, print), Patience(pulse=0.05, silence=0.2))
    client.close()


def test_a_superlink_that_is_silent_is_spoken_of_with_its_machine_and_followed_when_it_is_back(link):
    finished(link, "completed")
    record(link, row(1), row(2))
    state, said = link.files.pop("/oneflower/runs/5"), []
    link.broken = (502, b"")

    def notify(event):
        said.append(str(event))
        if "is poweroff" in str(event):
            link.files["/oneflower/runs/5"], link.broken = state, None

    observer = Observer(print, print, notify, {}, lambda: "its machine, VM 3, is poweroff")
    assert follow(link.client, "5", observer, Patience(pulse=0.05, notice=0.2)) == "5"
    assert "Its machine, VM 3, is poweroff. Waiting up to 90 s." in said[0]
    assert said[1].startswith("Note: the SuperLink answers again, after ")
    assert len(said) == 2


def test_a_superlink_is_said_to_answer_again_also_when_its_first_answer_is_that_the_run_has_failed(link):
    finished(link, "failed", details="the disk is full")
    state, said = link.files.pop("/oneflower/runs/5"), []
    link.broken = (502, b"")

    def notify(event):
        said.append(event)
        link.files["/oneflower/runs/5"], link.broken = state, None

    with pytest.raises(OneflowerError, match="the disk is full"):
        follow(link.client, "5", Observer(print, print, notify), Patience(notice=0.2, pulse=0.05))
    assert str(said[1]).startswith("Note: the SuperLink answers again, after ")


def test_a_superlink_that_hangs_is_spoken_of_too(tmp_path):
    import socket

    said, patience = [], Patience(notice=0.2, answer=0.2, silence=0.6)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = SuperLinkClient(f"127.0.0.1:{listener.getsockname()[1]}", "", tmp_path / "flwr")
        with pytest.raises(OneflowerError, match="has not answered"):
            follow(client, "5", Observer(print, print, said.append, {}, lambda: "its machine is running"), patience)
        client.close()
    assert "Its machine is running." in str(said[0])


@pytest.mark.parametrize("what", ["trouble", "waiting"])
def test_a_disk_that_is_full_and_a_wait_for_nodes_are_said_once_while_the_superlink_still_answers(link, what):
    running = {"status": "running", "sub_status": "", "details": "", what: "The disk is full."}
    link.files["/oneflower/runs/5"] = json.dumps(running).encode()
    said = []

    def notify(event):
        said.append(event)
        threading.Timer(0.5, finished, (link, "completed")).start()

    record(link, row(1), row(2))
    assert follow(link.client, "5", Observer(print, print, notify), Patience(pulse=0.05)) == "5"
    assert said == [Note("The disk is full.")]


def test_a_full_disk_of_the_superlink_is_said_in_its_own_words(link):
    link.broken = (507, b"The disk of the SuperLink's machine is full.\n")
    said = []
    with pytest.raises(OneflowerError, match=r"The disk of the SuperLink's machine is full\."):
        follow(link.client, "5", Observer(print, print, said.append), Patience(pulse=0.05, silence=0.3))
    assert "The disk of the SuperLink's machine is full." in str(said[0])


def test_what_a_run_left_is_saved(link, tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, w=np.ones(3))
    record(link, row(1, server={"loss": 2.0, "accuracy": 0.5}), row(2, server={"loss": 1.0, "accuracy": 0.9}))
    leave(link, "5", "model.npz", buffer.getvalue())
    leave(
        link, "5", "result.json", b'{"seconds": 3.5, "rounds": 2, "strategy": "Krum", "versions": {"flwr": "1.41.0"}}'
    )
    leave(link, "5", "data.json", b'{"7": {"source": "digits", "examples": 900}}')
    leave(link, "5", "site-choice.json", b'{"sites": ["north", "-"], "least": 1}')
    leave(link, "5", "adapter/weights", b"abc")
    leave(link, "5", "../escape", b"no")
    leave(link, "5", "reports-00001.jsonl", b"the SuperLink's own file")
    reports = {
        str(after): write_line(
            after + 1, [NodeReport(after + 1, node, "train", seconds=s) for node, s in (("7", 0.5), ("8", 9.0))],
            withheld=False,
        )
        for after in (0, 1)
    }  # fmt: skip
    link.files["/oneflower/runs/5/reports"] = lambda path: reports.get(path.partition("after=")[2], "").encode()
    machines = Machines({"7": "supernode_1"}, {"7": "0"})
    places = results.Places.within(tmp_path / "out")
    result = results.collect(link.client, "5", "image-classification", places, machines)
    assert np.load(result.model)["w"].tolist() == [1, 1, 1]
    assert result.plot.read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in result.plot_svg.read_bytes()
    assert json.loads(result.metrics.read_text())["rows"][1]["server"]["accuracy"] == 0.9
    assert result.seconds == 3.5
    card = result.card.read_text()
    assert all(
        text in card
        for text in (
            "| Strategy | Krum |",
            "| supernode_1 | 900 | digits |",
            "| Sites that were chosen | north, - |",
            "| flwr | 1.41.0 |",
            "0.9",
        )
    )
    assert [path.relative_to(tmp_path) for path in result.more] == [Path("out/adapter/weights")]
    assert [(r.round, r.name, r.partition, r.seconds) for r in result.node_reports] == [
        (1, "supernode_1", "0", 0.5), (1, "", "", 9.0), (2, "supernode_1", "0", 0.5), (2, "", "", 9.0),
    ]  # fmt: skip
    slow = "node 8 is slow: 9.0 s for training, the median of the others is 0.5 s"
    assert [found.sentence for found in result.findings] == [slow]
    assert json.loads(result.metrics.read_text())["findings"][0]["sentence"] == slow
    assert slow in card
    assert (result.round, result.best.round) == (2, 2)


def test_the_model_of_the_best_round_is_fetched_and_described_as_that(link, tmp_path):
    record(link, row(1, server={"loss": 1.0, "f1": 0.5}), row(2, server={"loss": 2.0, "f1": 0.9}))
    leave(link, "5", "model.npz", b"last")
    leave(link, "5", "best-00001.npz", b"best")
    leave(link, "5", "result.json", b'{"model": {"sha256": "of the last", "arrays": {"w": [3]}}}')
    result = results.collect(link.client, "5", "app", results.Places.within(tmp_path), by="")
    assert (result.model.read_bytes(), result.round, result.more) == (b"best", 1, ())
    metrics = json.loads(result.metrics.read_text())
    assert (metrics["model_round"], metrics["best"]) == (1, {"metric": "loss", "round": 1, "value": 1.0})
    assert metrics["model"]["sha256"] == hashlib.sha256(b"best").hexdigest()
    card = result.card.read_text()
    assert "## Tested after round 1, the best by loss" in card
    assert "of the last" not in card
    assert results.collect(link.client, "5", "app", results.Places.within(tmp_path), by="f1").round == 2
    assert result.best_by("f1").round == 2


def test_files_that_are_too_much_stay_where_they_are_and_are_named(link, tmp_path, capsys):
    for name, content in (
        ("files/a", b"12345"), ("files/big", b"1234567"), ("files/c?d#e%41", b"12345"), ("files/d", b""),
        ("/etc/cron.d/x", b"no"), ("files/../../x", b"no"), ("files/a\x1b[31m", b"no"),
    ):  # fmt: skip
        leave(link, "5", quote(name), content)
        link.files["/oneflower/runs/5/files"] = json.dumps(
            [*json.loads(link.files["/oneflower/runs/5/files"])[:-1], name]
        ).encode()
    places, most = results.Places.within(tmp_path / "out"), results.Most(bytes=10, files=2)
    result = results.collect(link.client, "5", "app", places, most=most)
    assert [str(path.relative_to(tmp_path / "out")) for path in result.more] == ["files/a", "files/c?d#e%41"]
    assert [path.read_bytes() for path in result.more] == [b"12345", b"12345"]
    assert result.not_saved == ("files/big", "files/d")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["a", "c?d#e%41"]
    show_files(result)
    assert "2 files of the app are too large or too many" in capsys.readouterr().err


def test_an_error_of_oneflowers_own_is_the_whole_message(link):
    finished(link, "failed", "ServerApp failed with exception: No data.", log="Traceback ...\nNo data.\n")
    link.files["/oneflower/runs/5/files/failure.json"] = b'{"message": "No data.", "hint": "Put some there."}'
    with pytest.raises(OneflowerError) as caught:
        follow(link.client, "5", Observer(print, print, print))
    assert str(caught.value).count("No data.") == 1
    assert (caught.value.message, caught.value.hint) == ("Run 5 failed: No data.", "Put some there.")
    assert caught.value.code is ExitCode.RUN_FAILED


def test_the_model_of_the_newest_run_that_left_one_is_found(link):
    def known(*runs):
        link.files["/oneflower/runs"] = json.dumps(runs).encode()

    known()
    with pytest.raises(OneflowerError, match="lab has no model yet(.|\n)*oneflower run"):
        results.run_with_model(link.client, "lab", None)
    known(*({"id": str(number), "app": f"us/app{number}", "status": "finished"} for number in (1, 2, 3)))
    for number in "12":
        leave(link, number, "model.npz", b"")
    assert results.run_with_model(link.client, "lab", None) == ("2", "app2")
    assert results.run_with_model(link.client, "lab", "1") == ("1", "app1")
    with pytest.raises(OneflowerError, match="no run 4(.|\n)*1, 2, 3"):
        results.run_with_model(link.client, "lab", "4")
    known({"id": "9", "app": "us/app", "status": "running"})
    with pytest.raises(OneflowerError, match="Run 9 of lab is still training"):
        results.run_with_model(link.client, "lab", None)


def test_a_run_that_was_lost_is_followed_in_the_one_that_goes_on(link):
    finished(link, "failed", "No heartbeat received", resumed_as="6", lost="YES")
    record(link, row(1, server={"loss": 2.0}))
    link.files["/oneflower/runs/6"] = json.dumps({"status": "finished", "sub_status": "completed"}).encode()
    link.files["/oneflower/runs/6/files/metrics.jsonl"] = "\n".join(
        json.dumps(row(number)) for number in (1, 2)
    ).encode()
    seen, said = [], []
    assert follow(link.client, "5", Observer(lambda found: seen.append(found.round), print, said.append)) == "6"
    assert seen == [1, 2]
    assert "run 6 resumes" in str(said[0])


def test_only_a_run_that_ended_before_its_end_goes_on(link):
    asked = []
    link.posted = lambda body: asked.append(body) or b'{"id": "6"}'
    for status, sub_status, sentence in (("running", "", "has not ended"), ("finished", "completed", "is completed")):
        with pytest.raises(OneflowerError, match=sentence):
            submission.resume(link.client, RunState("5", "us/app", status, sub_status))
    assert submission.resume(link.client, RunState("5", "us/app", "finished", "stopped")) == "6"
    assert asked == [{"resumes": "5"}]
    link.posted = lambda body: None
    with pytest.raises(OneflowerError, match="Run 5 cannot be resumed: no such app"):
        link.client.resume("5")


def test_a_run_that_was_lost_and_that_nothing_takes_the_place_of_is_a_failure(link):
    finished(link, "failed", "No heartbeat received", lost="YES")
    with pytest.raises(OneflowerError, match="No heartbeat"):
        follow(link.client, "5", Observer(print, print, print), Patience(grace=0.2))


def test_a_run_that_was_lost_says_at_once_what_died_when_and_what_would_have_saved_it(link):
    record(link, row(1))
    hint = "It has no checkpoints; with FL_CHECKPOINT_ENABLED=YES it would be resumed."
    finished(link, "stopped", lost="YES", why_lost="Its SuperLink was started again.", given_up=hint)
    began = time.monotonic()
    with pytest.raises(OneflowerError) as caught:
        follow(link.client, "5", Observer(print, print, print))
    assert caught.value.message == "Run 5 was lost after round 1 of 2. Its SuperLink was started again."
    assert caught.value.hint == hint
    assert time.monotonic() - began < Patience().grace


def test_an_app_without_strategy_leaves_nothing_and_that_is_no_error(link, tmp_path):
    result = results.collect(link.client, "5", "image-classification", results.Places.within(tmp_path / "out"))
    assert (result.model, result.metrics, result.plot, result.rows) == (None, None, None, ())


def test_the_nodes_that_are_online_are_counted_and_a_superlink_that_is_away_is_named(link):
    link.files["/oneflower/nodes"] = b'[{"id":"1","status":"online"},{"id":"2","status":"offline"}]'
    assert sum(node.online for node in link.client.nodes()) == 1
    client = SuperLinkClient("127.0.0.1:9", "", link.client.flwr)
    with pytest.raises(OneflowerError, match="does not answer(.|\n)*oneflower show"):
        client.nodes()
    client.close()


class AnySurroundings:
    def flwr(self, version, framework, notify):
        return Path("flwr"), dict.fromkeys(["flwr", "numpy", "scikit-learn", "pillow"], "")

    def needs(self, status, package):
        return ()


def test_a_federation_that_is_not_ready_trains_nothing():
    status = FederationStatus(1, "lab", "DEPLOYING", 2)
    request = training.Request("image-classification", None, {}, Path())
    with pytest.raises(OneflowerError, match="no SuperLink that is ready") as caught:
        training.train(AnySurroundings(), status, request, Observer(print, print, print))
    assert caught.value.code is ExitCode.CONFLICT


@pytest.fixture
def submitting(link, tmp_path, monkeypatch):
    """Train with a `flwr` that is submitting when this process is interrupted; return what was done and printed."""

    class Surroundings(AnySurroundings):
        def flwr(self, version, framework, notify):
            return link.client.flwr, dict.fromkeys(["flwr", "numpy", "scikit-learn", "pillow"], "")

        def revive(self):
            return None

        @contextlib.contextmanager
        def reach(self, status):
            yield link.client.address

    posted, said = [], []
    link.posted = lambda body: posted.append(body) or b"{}"
    link.files["/oneflower/nodes"] = b"[]"
    monkeypatch.chdir(tmp_path)

    def train(answer):
        link.client.flwr.write_text(f"#!/bin/sh\nkill -INT {os.getpid()}\nsleep 0.3\npwd >{tmp_path}/where\n{answer}\n")
        link.client.flwr.chmod(0o755)
        vm = VmStatus(1, "superlink_0", "superlink", "running", ready=True)
        status = FederationStatus(1, "lab", "RUNNING", 2, vms=(vm,), control=link.client.address)
        request = training.Request("image-classification", None, {}, Path())
        with pytest.raises(KeyboardInterrupt):
            training.train(
                Surroundings(), status, request, Observer(print, print, lambda event: said.append(str(event)))
            )
        return posted, said

    return train


def test_an_interrupt_while_submitting_stops_the_run_that_was_started(submitting, tmp_path):
    posted, said = submitting('echo \'{"success": true, "run-id": "5"}\'')
    assert posted == ["/oneflower/runs/5/stop"]
    assert said[-1] == "Note: run 5 is stopped."
    assert (tmp_path / "where").read_text().strip() != str(tmp_path), "not where the user's own folders are"


def test_an_interrupt_while_submitting_what_flower_refuses_stops_nothing(submitting):
    posted, said = submitting('echo \'{"success": false, "error-message": "No such app"}\'')
    assert posted == []
    assert "no run was started" in said[-1]


def test_an_interrupt_stops_the_run_or_says_that_it_may_go_on(link):
    said = []

    def interrupt(_):
        raise KeyboardInterrupt

    record(link, row(1))
    finished(link, "completed")
    observer = Observer(interrupt, print, lambda event: said.append(str(event)))
    link.posted = lambda path: b"{}"
    with pytest.raises(KeyboardInterrupt):
        training.finish(link.client, "5", "app", Path(), observer)
    assert said[-2:] == ["stopping run 5", "Note: run 5 is stopped."]
    link.posted = lambda path: None
    with pytest.raises(KeyboardInterrupt):
        training.finish(link.client, "5", "app", Path(), observer)
    assert said[-1] == "Note: run 5 may still be running: Run 5 cannot be stopped: no such app."


def test_an_interrupt_while_the_id_of_the_run_is_told_stops_it_too(link):
    said = []

    def notify(event):
        said.append(str(event))
        if event == RunBegan("5"):
            raise KeyboardInterrupt

    link.posted = lambda path: b"{}"
    with pytest.raises(KeyboardInterrupt):
        training.finish(link.client, "5", "app", Path(), Observer(print, print, notify))
    assert said == ["run 5", "stopping run 5", "Note: run 5 is stopped."]


def test_whoever_keeps_the_superlink_is_started_again_when_it_does_not_answer():
    revived = []
    client = SuperLinkClient("127.0.0.1:9", "", Path("flwr"), lambda: revived.append(True))
    with pytest.raises(httpx.ConnectError):
        client.json("/runs")
    assert revived == [True]
    client.close()


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ('echo \'{"success": false, "error-message": "No such app"}\'', "Flower refused: No such app"),
        ("echo this is no JSON", "Flower answered: this is no JSON"),
        ("echo broken >&2; exit 3", "broken"),
    ],
)
def test_a_flower_command_that_fails_is_one_sentence(link, tmp_path, script, cause):
    flwr = tmp_path / "flwr"
    flwr.write_text(f"#!/bin/sh\n{script}\n")
    flwr.chmod(0o755)
    with pytest.raises(OneflowerError, match=cause):
        link.client.flower("list")
