"""The front door, served by a real server on two real sockets."""

from __future__ import annotations

import os
import socket
import threading
import time

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from oneflower_appliance.flower import door

ADDRESS = "127.77.0.3"


def answering(name):
    async def answer(_request):
        return PlainTextResponse(name)

    return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST", "PUT", "DELETE"])])


@pytest.fixture(scope="module")
def doors():
    control, fleet = socket.socket(), socket.socket()
    for listener in (control, fleet):
        listener.bind((ADDRESS, 0))
    app = door.FrontDoor(answering("flower"), answering("ours"), control.getsockname())
    settings = {"log_level": "error", "ws": "none", "lifespan": "off"}
    server = uvicorn.Server(door.configuration(app, control.getsockname(), **settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [control, fleet]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield tuple(f"http://{ADDRESS}:{listener.getsockname()[1]}" for listener in (control, fleet))
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("path", ["/v1/fleet/pull-messages", "/v1/fleet/register-node", "/health"])
def test_supernodes_pass_through_the_fleet_door(doors, path):
    assert httpx.post(doors[1] + path, trust_env=False).text == "flower"


@pytest.mark.parametrize(
    "path",
    [
        "/", "/docs", "/openapi.json", "/v1/control/start-run", "/v1/control/list-runs", "/v1/runtime/pull-task-input",
        "/v1/fleet", "/v1//fleet/x", "/V1/fleet/x", "/v1/fleetx", "/healthz", "/health/", "/oneflower/nodes",
        "/v1/responses", "//v1/control/start-run", "/x/../v1/control/list-runs", "/health/../v1/control/list-runs",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_nothing_else_does(doors, path, method):
    answer = httpx.request(method, httpx.URL(doors[1]).copy_with(raw_path=path.encode()), trust_env=False)
    assert answer.status_code == 403, answer.text
    assert "Only the Fleet API is served here" in answer.text


def test_a_supernode_may_ask_whether_it_is_online(doors):
    assert httpx.get(doors[1] + "/health/supernode/17", trust_env=False).text == "ours"


def test_the_owner_passes_through_the_loopback_door(doors):
    assert httpx.post(doors[0] + "/v1/control/start-run", trust_env=False).text == "flower"
    assert httpx.get(doors[0] + "/oneflower/nodes", trust_env=False).text == "ours"


def test_another_user_does_not(doors, monkeypatch):
    monkeypatch.setattr(door, "peer_uid", lambda *_: os.geteuid() + 1)
    assert httpx.post(doors[0] + "/v1/control/start-run", trust_env=False).status_code == 403
    monkeypatch.setattr(door, "peer_uid", lambda *_: None)
    assert httpx.post(doors[0] + "/v1/control/start-run", trust_env=False).status_code == 403


def test_websockets_are_not_answered(doors):
    port = int(doors[1].rpartition(":")[2])
    with socket.create_connection((ADDRESS, port)) as client:
        client.sendall(
            b"GET /v1/fleet/x HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert b" 101 " not in client.recv(200)
