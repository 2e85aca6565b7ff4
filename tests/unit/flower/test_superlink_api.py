"""The API beside Flower's own, over a state that remembers what it was asked."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import time

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.flower import news as news_of_runs
from oneflower_appliance.flower.api import superlink_api
from oneflower_appliance.flower.bytecount import ByteCount
from oneflower_appliance.flower.linkstate import LinkState
from oneflower_appliance.flower.news import Bell, Ringing
from oneflower_appliance.node_reports import NodeReport, file_name, write_line
from oneflower_appliance.round_state import Phase, RoundState
from oneflower_appliance.run_folder import Origin
from oneflower_appliance.run_state import RunState
from tests.unit.flower_state import linkstate_factory


class Link:
    """One run, number 5."""

    def __init__(self):
        self.asked = []
        self.known = [RunState("5", "us/app", "running")]

    def runs(self):
        return self.known

    def run(self, number):
        return next((run for run in self.known if run.id == str(number)), None)

    def log(self, number, after):
        return {"text": f"after {after}", "latest": 9.0} if self.run(number) else None

    def start(self, app, config):
        self.asked.append(("start", app.name, config))
        return "6"

    def submit(self, files, config, *chosen):
        if "stock" in files:
            raise OneflowerError("Runs are started with `flwr run` here.", "", ExitCode.ENVIRONMENT)
        self.asked.append(("submit", files, config, *filter(lambda one: one is not None, chosen)))
        return "8"

    def waits_for_sites(self, number):
        return "It waits for south." if number == 6 else ""

    def held(self, number):
        return ""

    def start_again(self, number):
        if self.run(number) is None:
            raise OneflowerError(f"There is no run {number}.", "")
        self.asked.append(("start again", number))
        return "7"

    def stop(self, number):
        self.asked.append(("stop", number))


@pytest.fixture
def link():
    return Link()


@pytest.fixture
def ask(link, tmp_path):
    def ask(method, path, **more):
        async def send():
            transport = httpx.ASGITransport(superlink_api(link, tmp_path))
            async with httpx.AsyncClient(transport=transport, base_url="http://link") as client:
                return await client.request(method, f"/oneflower{path}", **more)

        return asyncio.run(send())

    return ask


def test_runs_are_told_with_where_they_come_from_and_what_goes_on_from_them(ask, tmp_path):
    assert ask("GET", "/runs").json()[0] | {"x": 1} == ask("GET", "/runs/5").json() | {"x": 1}
    assert (ask("GET", "/runs/5").json()["resumed_as"], ask("GET", "/runs/5").json()["attempt"]) == ("", 1)
    assert ask("GET", "/runs/6").status_code == 404
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "lost").touch()
    assert ask("GET", "/runs/5").json()["lost"] == "YES"
    assert ask("GET", "/runs/5/log?after=3").json() == {"text": "after 3.0", "latest": 9.0}


def test_why_a_run_was_lost_and_does_not_go_on_is_told(ask, tmp_path):
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "lost").write_text("Its ServerApp was ended by signal 9.\n")
    (tmp_path / "5" / "given-up").write_text("It has no checkpoints.\n")
    told = ask("GET", "/runs/5").json()
    assert (told["lost"], told["why_lost"]) == ("YES", "Its ServerApp was ended by signal 9.")
    assert told["given_up"] == "It has no checkpoints."


def test_a_run_that_waits_for_nodes_says_so_until_it_ends(ask, link, tmp_path):
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "waiting").write_text("1 of 2\n")
    assert ask("GET", "/runs/5").json()["waiting"] == "1 of 2"
    link.known[0] = RunState("5", "us/app", "finished", "stopped")
    assert ask("GET", "/runs/5").json()["waiting"] == "", "its ServerApp was ended and left the file"


def test_what_fails_on_a_full_disk_is_answered_with_where_it_is_full(ask, link, tmp_path, monkeypatch):
    def fail():
        raise OSError(28, "No space left on device")

    assert ask("GET", "/runs/5").json()["trouble"] == ""
    monkeypatch.setattr("oneflower_appliance.flower.runcalls.no_room", lambda folder: f"The disk is full: {folder}.")
    assert ask("GET", "/runs/5").json()["trouble"] == f"On the SuperLink's machine: The disk is full: {tmp_path}."
    link.runs = fail
    answer = ask("GET", "/runs")
    assert (answer.status_code, answer.text) == (507, f"On the SuperLink's machine: The disk is full: {tmp_path}.\n")
    monkeypatch.setattr("oneflower_appliance.flower.runcalls.no_room", lambda folder: "")
    with pytest.raises(OSError, match="No space"):
        ask("GET", "/runs")


def test_files_of_a_run_are_listed_and_fetched_and_no_others(ask, tmp_path):
    (tmp_path / "secret").write_text("no")
    (tmp_path / "5" / "adapter").mkdir(parents=True)
    (tmp_path / "5" / "adapter" / "weights").write_text("yes")
    (tmp_path / "5" / "link").symlink_to(tmp_path / "secret")
    assert "adapter/weights" in ask("GET", "/runs/5/files").json()
    assert ask("GET", "/runs/9/files").json() == []
    (tmp_path / "5" / "stolen").symlink_to("/etc/passwd")
    (tmp_path / "5" / "stolen-folder").symlink_to("/etc")
    (tmp_path / "5" / "alias").symlink_to(tmp_path / "5" / "adapter" / "weights")
    listed = ask("GET", "/runs/5/files").json()
    assert not [name for name in listed if "stolen" in name], "what leads out of the folder is not in it"
    assert "alias" in listed
    assert ask("GET", "/runs/5/files/stolen").status_code == 404
    assert ask("GET", "/runs/5/files/stolen-folder/passwd").status_code == 404
    assert ask("GET", "/runs/5/files/adapter/weights").text == "yes"
    for path in ("../secret", "%2e%2e/secret", "adapter/../../secret", "link", "adapter", "%2fetc%2fpasswd"):
        assert ask("GET", f"/runs/5/files/{path}").status_code == 404, path


def test_what_each_node_did_is_told_from_a_round_on(ask, tmp_path):
    (tmp_path / "5").mkdir()
    lines = [write_line(number, [NodeReport(number, "7", "train")], withheld=False) for number in (1, 2, 3)]
    (tmp_path / "5" / file_name(1)).write_text("\n".join(lines) + "\n")
    assert ask("GET", "/runs/5/reports").text.splitlines() == lines
    assert ask("GET", "/runs/5/reports?after=2").text.splitlines() == lines[2:]
    assert ask("GET", "/runs/9/reports").text == ""
    for wrong in ("-1", "x", "9" * 10, "%c2%b2"):
        assert ask("GET", f"/runs/5/reports?after={wrong}").status_code == 400, wrong


def test_the_forms_run_is_started(ask, link):
    wanted = {"use_case": "image-classification", "config": {"num-server-rounds": 2}}
    assert ask("POST", "/runs", json=wanted).json() == {"id": "6"}
    assert link.asked == [("start", "image-classification", {"num-server-rounds": 2})]


def test_a_run_is_stopped_by_its_number(ask, link):
    assert ask("POST", "/runs/5/stop").json() == {"id": "5"}
    assert ask("POST", "/runs/6/stop").status_code == 404
    assert ask("GET", "/runs/5/stop").status_code == 405
    assert link.asked == [("stop", 5)]


def news(ask, **query):
    return ask("GET", "/runs/5/news?" + "&".join(f"{name}={value}" for name, value in query.items()))


def test_news_of_a_run_are_one_answer(ask, link, tmp_path):
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "messages.json").write_text('{"sent": 1}')
    first = news(ask, wait=9).json()
    assert (first["run"], first["rows"], first["messages"]) == (ask("GET", "/runs/5").json(), [], {"sent": 1})
    link.log = lambda _number, after: {"text": "", "latest": after}
    assert news(ask, wait=0, mark=first["mark"]).json() | {"log": 0} == first | {"log": 0}, "nothing is new"
    (tmp_path / "5" / "metrics.jsonl").write_text("one\ntwo\n")
    second = news(ask, wait=9, rows=1, mark=first["mark"]).json()
    assert (second["rows"], second["messages"], second["mark"] == first["mark"]) == (["two"], None, False)
    assert [ask("GET", path).status_code for path in ("/runs/6/news?wait=9", "/runs/5/news?wait=x", "/runs/5/news")] == [
        404, 400, 400,
    ]  # fmt: skip


def test_news_have_what_a_run_does_now_until_it_has_ended(ask, link, tmp_path):
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "now.json").write_text(json.dumps(RoundState(Phase.TRAINING, 1, 3, time.time() - 60).entry))
    link.log = lambda _number, after: {"text": "", "latest": after}
    found = news(ask, wait=0).json()
    state = RoundState.parse(found["now"])
    assert (state.phase, state.round, state.rounds) == ("training", 1, 3)
    assert 59 < state.seconds < 90, "by the SuperLink's own clock"
    assert news(ask, wait=0, mark=found["mark"]).json()["mark"] == found["mark"], "time alone is no news"
    for wrong in ("", "[]", '{"phase": "training"}', found["mark"]):
        (tmp_path / "5" / "now.json").write_text(wrong)
        assert news(ask, wait=0).json()["now"] is None, "an app can write there, too"
    (tmp_path / "5" / "now.json").write_text(json.dumps(state.entry))
    link.known[0] = dataclasses.replace(link.known[0], status="finished")
    assert news(ask, wait=0).json()["now"] is None


@pytest.mark.parametrize("ending", ["it is told", "the server stops", "a node answers"])
def test_news_are_waited_for_and_told_as_soon_as_a_serverapp_says_something(link, tmp_path, monkeypatch, ending):
    bell, looked = Bell(), asyncio.Event()
    monkeypatch.setattr(news_of_runs, "_PULSE", 60)
    link.log = lambda _number, after: (loop.call_soon_threadsafe(looked.set), {"text": "", "latest": after})[1]

    async def flower(_scope, _receive, _send):
        link.known[0] = dataclasses.replace(link.known[0], status="finished")

    async def follow():
        nonlocal loop
        loop = asyncio.get_running_loop()
        transport = httpx.ASGITransport(superlink_api(link, tmp_path, bell))
        async with httpx.AsyncClient(transport=transport, base_url="http://link/oneflower/runs/5") as client:
            mark = (await client.get("/news?wait=0")).json()["mark"]
            looked.clear()
            waiting = asyncio.create_task(client.get(f"/news?wait=60&mark={mark}"))
            await looked.wait()
            assert not waiting.done()
            if ending == "it is told":
                await Ringing(flower, bell)({"path": "/v1/runtime/push-task-output"}, None, None)
            elif ending == "the server stops":
                bell.close()
            else:
                (tmp_path / "5").mkdir()
                (tmp_path / "5" / "now.json").write_text(json.dumps(RoundState(Phase.TRAINING).entry))
            return (await waiting).json()

    loop = None
    found = asyncio.run(follow())
    status = "finished" if ending == "it is told" else "running"
    assert (found["run"]["status"], found["held"]) == (status, ending != "the server stops")


def test_a_run_of_an_app_is_started_from_its_files(ask, link):
    wanted = {"files": {"a/b.py": base64.b64encode(b"\0app").decode()}, "config": {"rate": 0.5}}
    assert ask("POST", "/runs", json=wanted).json() == {"id": "8"}
    assert link.asked == [("submit", {"a/b.py": b"\0app"}, {"rate": 0.5})]
    assert ask("POST", "/runs", json={"files": {"stock": ""}, "config": {}}).status_code == 501


def test_a_lost_run_goes_on_once_and_only_then_is_stopped(ask, link, tmp_path):
    assert ask("POST", "/runs", json={"resumes": "5"}).json() == {"id": "7"}
    assert ask("POST", "/runs", json={"resumes": "5"}).json() == {"id": "7"}
    assert link.asked == [("start again", 5), ("stop", 5)]
    assert Origin.of(tmp_path / "7") == Origin("5", "5", 2)
    assert ask("GET", "/runs/5").json()["resumed_as"] == "7"
    link.known.append(dataclasses.replace(link.known[0], id="7"))
    link.start_again = lambda number: "8"
    ask("POST", "/runs", json={"resumes": "7"})
    assert Origin.of(tmp_path / "8") == Origin("7", "5", 3), "all share the checkpoints of the first"


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        ({"resumes": "6"}, 409), ({"resumes": "../5"}, 400), ({"resumes": None}, 400), ({}, 400), ([], 400),
        ({"files": {"a": "no base 64"}, "config": {}}, 400), ({"files": [], "config": {}}, 400), ({"files": {}}, 400),
        ({"use_case": "../../etc", "config": {}}, 400), ({"use_case": "image-classification"}, 400),
    ],
)  # fmt: skip
def test_what_is_no_run_is_refused_with_a_sentence(ask, link, wanted, status):
    answer = ask("POST", "/runs", json=wanted)
    assert (answer.status_code, link.asked) == (status, [])
    assert answer.text.endswith(".\n")


def test_garbage_is_refused(ask):
    assert ask("POST", "/runs", content=b"\xff{").status_code == 400
    assert json.loads(ask("GET", "/runs").text)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Flower makes its database with an alembic that warns
@pytest.mark.parametrize("number", ["9" * 23, str(2**64), "9" * 300])
@pytest.mark.parametrize("path", ["/health/supernode/{}", "/oneflower/runs/{}", "/oneflower/runs/{}/log"])
def test_a_number_that_is_no_id_is_not_found(tmp_path, number, path):
    """With Flower's own state, which raises an error when it is asked for such a number."""
    state = linkstate_factory(tmp_path)

    async def send():
        transport = httpx.ASGITransport(superlink_api(LinkState(state), tmp_path))
        async with httpx.AsyncClient(transport=transport, base_url="http://link") as client:
            return await client.get(path.format(number))

    assert asyncio.run(send()).status_code == 404


@pytest.mark.parametrize("counts", [True, False])
def test_the_bytes_of_supernodes_are_counted_if_that_is_wanted(link, tmp_path, counts):
    count = ByteCount() if counts else None

    async def fleet(scope, receive, send):
        body = await Request(scope, receive).body()
        await PlainTextResponse(body * 2)(scope, receive, send)

    async def use():
        app = superlink_api(link, tmp_path, count=count)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://link") as client:
            if count:
                transport = httpx.ASGITransport(count.watch(fleet))
                async with httpx.AsyncClient(transport=transport, base_url="http://link") as node:
                    assert (await node.post("/v1/fleet/x", content=b"12345")).text == "1234512345"
            return await client.get("/oneflower/traffic")

    answer = asyncio.run(use())
    assert (answer.status_code, answer.text) == ((200, '{"received":5,"sent":10}') if counts else (404, "Not Found"))
