"""What a SuperLink records of the requests at its own door."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from oneflower_appliance.audit import AuditLog, verify
from oneflower_appliance.flower.audited import Audited, told
from oneflower_appliance.flower.serving import VISIT
from oneflower_appliance.orders import WHO_HEADER
from oneflower_appliance.run_state import RunState


@pytest.fixture
def door(tmp_path):
    """Ask for something at a door that records, and answers with `answer`. Returns status and entries."""
    log = AuditLog(tmp_path / "audit")
    runs = {17: RunState("17", "us/app", app_hash="abc")}
    audited = Audited(None, log, runs.get)

    def ask(method, path, answer, *, user="root (uid 0)", ours=True, body=b""):
        audited._app = answer
        headers = [(WHO_HEADER.lower().encode(), b"alice@desk")]
        state = {VISIT: SimpleNamespace(who="ourselves" if ours else "", user=user)}
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": headers,
            "query_string": b"",
            "state": state,
        }
        sent = []

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message):
            sent.append(message)

        asyncio.run(audited(scope, receive, send))
        return sent[0]["status"], verify(log.read()).entries

    ask.log = log
    return ask


def starting(**details):
    async def app(scope, receive, send):
        told(SimpleNamespace(scope=scope), **details)
        await JSONResponse({"id": "17"})(scope, receive, send)

    return app


def test_who_starts_which_app_is_recorded_before_and_after(door):
    status, (begun, done) = door("POST", "/oneflower/runs", starting(run="17"))
    assert status == 200
    assert (begun["action"], begun["outcome"], begun["by"]) == ("run.start", "begun", "root (uid 0)")
    expected = {"outcome": "done", "run": "17", "app": "us/app", "app_hash": "abc", "says": "alice@desk"}
    assert expected.items() <= done.items()


def answering(status, content=b""):
    async def app(scope, receive, send):
        await receive()
        await Response(content, status_code=status)(scope, receive, send)

    return app


@pytest.mark.parametrize(
    ("method", "path", "answer", "body", "expected"),
    [
        ("POST", "/v1/control/start-run", answering(200, b"\x08\x11"), b"", ("run.start", "done", "17")),
        ("POST", "/v1/control/stop-run", answering(200), b"\x08\x11", ("run.stop", "done", "17")),
        ("POST", "/v1/control/stop-run", answering(404), b"\x08\x12", ("run.stop", "refused", "18")),
        ("POST", "/oneflower/runs/17/stop", answering(500), b"", ("run.stop", "failed", "17")),
        ("GET", "/oneflower/runs/17/files/model.npz", answering(200), b"", ("model.fetch", "done", "17")),
        ("DELETE", "/oneflower/nodes/5", answering(200), b"", ("node.evict", "done", None)),
        ("POST", "/oneflower/nodes", starting(refused="YES", why="spent"), b"", ("node.admit", "refused", None)),
    ],
)
def test_what_is_asked_of_either_api_is_recorded_with_its_outcome(door, method, path, answer, body, expected):
    entries = door(method, path, answer, body=body)[1]
    assert (entries[-1]["action"], entries[-1]["outcome"], entries[-1].get("run")) == expected


@pytest.mark.parametrize("path", ["/oneflower/runs", "/oneflower/runs/17/files/metrics.jsonl", "/v1/control/list-runs"])
def test_who_only_looks_is_not_recorded(door, path):
    assert door("GET", path, answering(200)) == (200, ())


def test_what_another_user_is_refused_is_recorded_once_a_minute(door):
    refusal = PlainTextResponse("no", 403)
    for _ in range(50):
        status, entries = door("POST", "/oneflower/runs", refusal, user="mallory (uid 1001)", ours=False)
    assert status == 403
    assert [(entry["by"], entry["outcome"]) for entry in entries] == [("mallory (uid 1001)", "refused")]


def test_nothing_starts_and_no_model_is_given_away_that_cannot_be_recorded_but_a_run_can_be_stopped(door, tmp_path):
    (tmp_path / "audit").write_text("in the way")
    door.log.read = lambda: AuditLog(tmp_path / "none").read()
    for method, path, status in (
        ("POST", "/oneflower/runs", 507),
        ("GET", "/oneflower/runs/17/files/model.npz", 507),
        ("POST", "/oneflower/runs/17/stop", 200),
    ):
        assert door(method, path, answering(200))[0] == status, path
