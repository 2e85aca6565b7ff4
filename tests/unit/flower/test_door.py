"""The doors, served by real servers on real sockets, with TLS and without; attacked as another user and from outside."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
import time
from pathlib import Path

import httpx
import pytest
from flwr.proto.message_pb2 import PullObjectRequest, PushObjectRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supernode import main as supernode

from oneflower_appliance import peers
from oneflower_appliance.agent import tls
from oneflower_appliance.flower.door import FleetDoor, OwnDoor
from tests.unit.intruder import as_another_user
from tests.unit.served import ADDRESS, PLAIN, PROTOBUF, Counting, Served


class NoMembership:
    """Everybody is a SuperNode."""

    def member(self, path, headers):
        return "everybody"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return tls.make_certificates(tmp_path_factory.mktemp("tls"), [("IP", ADDRESS)])


@pytest.fixture(scope="module")
def doors():
    flower, ours = Counting("flower"), Counting("ours")
    with Served(OwnDoor(flower, ours), FleetDoor(flower, ours, NoMembership())) as served:
        yield tuple(f"http://{ADDRESS}:{address[1]}" for address in (served.control, served.fleet))


# What gets through


@pytest.mark.parametrize("path", ["/v1/fleet/pull-messages", "/v1/fleet/register-node", "/health"])
def test_supernodes_pass_through_the_fleet_door(doors, path):
    assert httpx.post(doors[1] + path, trust_env=False, verify=PLAIN).text == "flower"


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
    answer = httpx.request(method, httpx.URL(doors[1]).copy_with(raw_path=path.encode()), trust_env=False, verify=PLAIN)
    assert answer.status_code == 403, answer.text
    assert "Only the Fleet API is served here" in answer.text


def test_a_supernode_may_ask_whether_it_is_online(doors):
    assert httpx.get(doors[1] + "/health/supernode/17", trust_env=False, verify=PLAIN).text == "ours"


def test_the_owner_passes_through_the_loopback_door(doors):
    assert httpx.post(doors[0] + "/v1/control/start-run", trust_env=False, verify=PLAIN).text == "flower"
    assert httpx.get(doors[0] + "/oneflower/nodes", trust_env=False, verify=PLAIN).text == "ours"


@pytest.mark.parametrize("door", [0, 1])
@pytest.mark.parametrize("path", ["/v1/fleet/x", "/v1/control/list-runs", "/health"])
def test_websockets_are_refused(doors, door, path):
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    assert httpx.get(doors[door] + path, headers=headers, trust_env=False, verify=PLAIN).status_code == 400


# Whose hands the loopback door opens to


@pytest.mark.parametrize("host", ["127.0.0.1:9", "127.0.0.1", "localhost:4711", "LOCALHOST", "[::1]:80", ADDRESS])
def test_the_end_of_a_tunnel_is_a_loopback_address_too(doors, host):
    answer = httpx.get(doors[0] + "/oneflower/nodes", headers={"host": host}, trust_env=False, verify=PLAIN)
    assert answer.text == "ours"


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "rebound.example"}, {"host": "rebound.example:8000"}, {"host": "127.0.0.1.rebound.example"},
        {"host": ""}, {"host": "10.0.0.1:8000"}, {"host": "localhost.example"}, {"host": "127.0.0.1:x"},
        {"origin": "https://page.example"}, {"origin": "null"},
    ],
)  # fmt: skip
def test_a_page_in_the_users_browser_is_refused(doors, headers):
    """It may send text without asking first; under a name of its own, or to the address itself."""
    headers = {"content-type": "text/plain", **headers}
    answer = httpx.post(doors[0] + "/oneflower/runs", headers=headers, content=b"{}", trust_env=False, verify=PLAIN)
    assert answer.status_code == 403


def test_a_request_that_does_not_say_to_whom_it_is_is_refused(doors):
    with socket.create_connection((ADDRESS, int(doors[0].rpartition(":")[2]))) as client:
        client.sendall(b"POST /oneflower/runs HTTP/1.0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 403")


def test_the_kernel_is_asked_who_is_at_the_other_end():
    with socket.socket() as listener:
        listener.bind((ADDRESS, 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()) as client, listener.accept()[0] as accepted:
            assert peers.peer_uid(client.getsockname(), listener.getsockname()) == os.geteuid()
            assert peers.is_ours(accepted)
        assert peers.peer_uid((ADDRESS, 1), listener.getsockname()) is None


def _half_close(client):
    client.shutdown(socket.SHUT_WR)


def _close(client):
    client.close()


def _reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize("leave", [_half_close, _close, _reset])
def test_who_has_hung_up_is_nobody(leave):
    """The kernel says of a socket that is on its way out that it is root's."""
    with socket.socket() as listener:
        listener.bind((ADDRESS, 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()) as client, listener.accept()[0] as accepted:
            client.sendall(b"POST /oneflower/runs HTTP/1.1\r\n\r\n")
            address = client.getsockname()
            leave(client)
            select.select([accepted], [], [], 5)
            assert peers.peer_uid(address, listener.getsockname()) is None
            assert not peers.is_ours(accepted)


def _take(sock, address):
    """Bind to an address that was closed a moment ago. On a busy machine the kernel needs that moment to free it."""
    for _ in range(200):
        with contextlib.suppress(OSError):
            sock.bind(address)
            return
        time.sleep(0.01)
    sock.bind(address)


def test_who_took_over_the_address_of_one_who_hung_up_does_not_vouch_for_it():
    """The first has sent its request and is gone; the second is ours, and comes from the same address and port."""
    with socket.socket() as listener:
        listener.bind((ADDRESS, 0))
        listener.listen()
        # From an address that no other test uses, or one could be given the port in between.
        first = socket.create_connection(listener.getsockname(), source_address=("127.93.7.1", 0))
        address = first.getsockname()
        with listener.accept()[0] as accepted:
            first.sendall(b"POST /oneflower/runs HTTP/1.1\r\n\r\n")
            peername = accepted.getpeername()
            _reset(first)
            with socket.socket() as second:
                second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                _take(second, address)
                second.connect(listener.getsockname())
                assert peers.peer_uid(peername, listener.getsockname()) == os.geteuid()
                assert not peers.is_ours(accepted)


def test_without_a_kernel_that_tells_nobody_is_trusted(monkeypatch):
    monkeypatch.setattr(peers, "Path", lambda _: Path("/nowhere"))
    monkeypatch.delattr(socket, "AF_NETLINK")
    with socket.socket() as listener:
        listener.bind((ADDRESS, 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert not peers.is_ours(accepted)


def test_another_user_is_refused(certificates):
    flower, ours = Counting("flower"), Counting("ours")
    with Served(OwnDoor(flower, ours), certificates=certificates) as served:
        context = ssl.create_default_context(cadata=certificates.ca.read_text())

        def ask():
            with context.wrap_socket(socket.create_connection(served.control), server_hostname=ADDRESS) as client:
                client.sendall(b"POST /oneflower/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
                return client.recv(100).decode()

        assert as_another_user(ask).startswith("HTTP/1.1 403")
        assert ask().startswith("HTTP/1.1 200")
        assert ours.done == [("POST", "/oneflower/runs")]


BURSTS, AT_ONCE = 8, 30


@pytest.mark.parametrize("leave", [_close, _half_close, _reset])
@pytest.mark.parametrize(
    "request_text",
    [
        "POST /oneflower/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}",
        "POST /v1/control/start-run HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
        + 3 * "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_another_user_who_hangs_up_before_it_is_looked_up_runs_nothing(certificates, request_text, leave):
    flower, ours = Counting("flower"), Counting("ours")
    with Served(OwnDoor(flower, ours), certificates=certificates) as served:
        context = ssl.create_default_context(cadata=certificates.ca.read_text())
        assert as_another_user(lambda: burst(context, served.control, request_text, leave)) > AT_ONCE
    assert (flower.done, ours.done) == ([], [])


def burst(context, address, request_text, leave):
    """Send requests on many connections at once and hang up, again and again. Returns how many were sent."""
    sent = 0
    for _ in range(BURSTS):
        clients, left = [], []
        for _ in range(AT_ONCE):
            with contextlib.suppress(OSError):
                plain = socket.create_connection(address, 10)
                client = context.wrap_socket(plain, server_hostname=ADDRESS, do_handshake_on_connect=False)
                clients.append(client)
        for client in clients:
            with contextlib.suppress(OSError):
                client.do_handshake()
                client.sendall(request_text.encode())
                sent += 1
                leave(client)
                left.append(client)  # one that is half closed stays so
    return sent


# A SuperNode's own port

RUNTIME = {
    "acquire-task": AcquireTaskRequest(),
    "pull-task-input": PullObjectRequest(),
    "pull-object": PullObjectRequest(object_id="x"),
    "push-object": PushObjectRequest(object_id="x"),
    "push-task-output": PushObjectRequest(),
}


def test_a_supernodes_tasks_are_for_its_own_user():
    """Flower's own application, as `main` has Flower serve it."""
    with Served(OwnDoor(supernode.create_app())) as served:
        url = f"http://{ADDRESS}:{served.control[1]}/v1/runtime/"

        def ask(**headers):
            with httpx.Client(trust_env=False, verify=PLAIN, headers=PROTOBUF | headers) as client:
                return {
                    path: client.post(url + path, content=message.SerializeToString()).status_code
                    for path, message in RUNTIME.items()
                }

        assert set(ask(host="rebound.example").values()) == {403}
        assert set(as_another_user(ask).values()) == {403}
        assert not set(ask().values()) & {403}
