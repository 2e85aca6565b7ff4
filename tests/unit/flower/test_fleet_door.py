"""The federation's door, before Flower's own application: what a stranger can do there."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import resource
import socket
import ssl
import subprocess
import sys
import time
from types import SimpleNamespace

import httpx
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, RegisterNodeFleetRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.superlink import main as superlink

from oneflower_appliance.agent import tls
from oneflower_appliance.flower import door, serving
from oneflower_appliance.flower.bodies import Bodies
from oneflower_appliance.flower.door import FleetDoor, OwnDoor
from oneflower_appliance.flower.membership import Membership
from oneflower_appliance.flower.visits import Limits, Visit, Visits
from tests.unit.served import ADDRESS, PLAIN, PROTOBUF, Counting, Served
from tests.unit.signing import SuperNode

MEGABYTE = 2**20
INVALID = {"detail": "Invalid SuperNode authentication"}


class SuperLink:
    """Flower's application behind the two doors, and a SuperNode that is registered."""

    def __init__(self, certificates=None, authenticate=True):
        self.app = superlink.create_app()
        self.app.state.enable_supernode_auth = authenticate
        self.state = self.app.state.linkstate_factory.state()
        self.member = SuperNode()
        self.node = self.state.create_node("nobody", "nobody", self.member.key, 0)
        doors = OwnDoor(self.app), FleetDoor(self.app, Counting("ours"), Membership(self.app))
        self.served = Served(*doors, certificates)
        self.url = f"http://{ADDRESS}:{self.served.fleet[1]}"

    def post(self, path, message=None, headers=None):
        content = message.SerializeToString() if message else b""
        return httpx.post(
            f"{self.url}/v1/fleet/{path}", content=content, headers=headers, trust_env=False, verify=PLAIN
        )


@pytest.fixture
def link():
    link = SuperLink()
    with link.served:
        yield link


@pytest.fixture
def open_link():
    link = SuperLink(authenticate=False)
    with link.served:
        yield link


# Who counts as a SuperNode


def test_a_registered_supernode_is_served(link):
    activate = ActivateNodeRequest(public_key=link.member.key, heartbeat_interval=30)
    assert link.post("activate-node", activate, link.member.headers()).status_code == 200
    pull = PullMessagesRequest(node=Node(node_id=link.node))
    assert link.post("pull-messages", pull, link.member.headers()).status_code == 200
    big = PushObjectRequest(node=Node(node_id=link.node), object_id="x", object_content=bytes(20 * MEGABYTE))
    assert link.post("push-object", big, link.member.headers()).status_code not in (401, 411, 413)


@pytest.mark.parametrize(
    "headers",
    [
        lambda member: {},
        lambda member: member.headers(age=400),
        lambda member: member.headers(age=-60),
        lambda member: member.headers(signed="yesterday"),
        lambda member: member.headers() | {"flwr-signature": "%"},
        lambda member: member.headers() | {"flwr-public-key": base64.b64encode(b"no key").decode()},
        lambda member: member.headers() | {"flwr-timestamp": "soon"},
        lambda member: SuperNode().headers(),
    ],
    ids=["nothing", "old", "future", "not signed", "no base64", "no key", "no time", "unregistered"],
)
def test_who_is_none_is_refused_as_flower_does_and_flower_is_not_asked(link, headers, caplog):
    caplog.set_level(logging.INFO)
    pull = PullMessagesRequest(node=Node(node_id=link.node))
    answer = link.post("pull-messages", pull, headers(link.member))
    assert (answer.status_code, answer.json()) == (401, INVALID)
    assert not [record for record in caplog.records if record.name == "flwr" and "Fleet" in record.message]


def test_a_key_that_is_not_registered_is_told_so_in_flowers_words_and_leaves_no_line_in_the_log(link, caplog):
    stranger = SuperNode()
    activate = ActivateNodeRequest(public_key=stranger.key, heartbeat_interval=30)
    answer = link.post("activate-node", activate, stranger.headers())
    assert (answer.status_code, answer.json()["code"]) == (412, 2004)
    register = RegisterNodeFleetRequest(public_key=stranger.key)
    answer = link.post("register-node", register, stranger.headers())
    assert (answer.status_code, answer.json()["code"]) == (412, 2001)
    assert not caplog.records


def test_where_anybody_may_join_a_new_key_is_registered_and_then_a_member(open_link):
    stranger = SuperNode()
    activate = ActivateNodeRequest(public_key=stranger.key, heartbeat_interval=30)
    assert open_link.post("activate-node", activate, stranger.headers()).status_code == 412
    register = RegisterNodeFleetRequest(public_key=stranger.key)
    assert open_link.post("register-node", register, stranger.headers()).status_code == 200
    assert open_link.post("activate-node", activate, stranger.headers()).status_code == 200


# What costs memory


def pour(address, head, most):
    """Send a request whose body does not end before `most` bytes. Returns how many were taken."""
    part, sent = bytes(MEGABYTE), 0
    with socket.create_connection(address) as client, contextlib.suppress(OSError):
        client.settimeout(10)
        client.sendall(head)
        while sent < most:
            sent += client.send(part)
    return sent


@pytest.mark.parametrize("length", ["Content-Length: 536870912", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("path", ["/v1/fleet/push-object", "/v1/fleet/register-node", "/v1/fleet/x", "/health", "/x"])
@pytest.mark.parametrize("who", [None, SuperNode()], ids=["unsigned", "unregistered"])
def test_the_body_of_a_stranger_costs_no_memory(open_link, who, path, length):
    headers = "".join(f"{name}: {value}\r\n" for name, value in (who.headers() if who else {}).items())
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}{length}\r\n\r\n".encode()
    head += b"20000000\r\n" if "chunked" in length else b""
    before = psutil.Process().memory_info().rss
    sent = pour(open_link.served.fleet, head, 512 * MEGABYTE)
    assert sent < 32 * MEGABYTE, "what the kernel keeps"
    assert psutil.Process().memory_info().rss - before < 64 * MEGABYTE


def test_a_body_of_a_supernode_may_not_be_larger_than_any_that_flower_makes(link):
    headers = "".join(f"{name}: {value}\r\n" for name, value in link.member.headers().items())
    head = f"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: 536870912\r\n\r\n".encode()
    with socket.create_connection(link.served.fleet) as client:
        client.sendall(head)
        assert client.recv(100).startswith(b"HTTP/1.1 413")


class Sender:
    """A body in parts, as a server hands it over: `give` adds a part; `taken` says how much of it was asked for."""

    def __init__(self):
        self.parts: asyncio.Queue = asyncio.Queue()
        self.taken = 0

    def give(self, size, more):
        self.parts.put_nowait({"type": "http.request", "body": bytes(size), "more_body": more})

    async def receive(self):
        message = await self.parts.get()
        self.taken += len(message.get("body", b""))
        return message


async def swallow(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await scope["stay"].wait()


async def settle():
    for _ in range(100):
        await asyncio.sleep(0)


def test_bodies_wait_for_one_another_when_they_are_too_much_and_the_first_goes_on():
    async def main():
        room, stay = Bodies(100), asyncio.Event()
        first, second = Sender(), Sender()
        tasks = [
            asyncio.create_task(
                room.bring(swallow, {"stay": stay}, sender.receive, None, size=200, give_up=pytest.fail)
            )
            for sender in (first, second)
        ]
        await settle()  # both ask for their first part, for there is room
        for sender in (first, second):
            sender.give(60, more=True)
            sender.give(60, more=False)
        await settle()
        assert (first.taken, second.taken) == (120, 60)
        assert room.held == 180
        stay.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 5)
        assert (first.taken, second.taken) == (120, 120)
        assert (room.held, room.whole) == (0, 0)
        assert not room.unfinished

    asyncio.run(main())


def test_when_all_wait_for_their_rest_the_first_is_read_on():
    async def main():
        room, stay = Bodies(100), asyncio.Event()
        senders = Sender(), Sender()
        for sender in senders:
            sender.give(60, more=True)
            sender.give(60, more=True)
            sender.give(60, more=False)
        stay.set()
        await asyncio.wait_for(
            asyncio.gather(
                *(
                    room.bring(swallow, {"stay": stay}, one.receive, None, size=200, give_up=pytest.fail)
                    for one in senders
                )
            ),
            5,
        )
        assert [sender.taken for sender in senders] == [180, 180]

    asyncio.run(main())


def test_a_body_that_does_not_come_is_given_up(monkeypatch):
    monkeypatch.setattr("oneflower_appliance.flower.bodies.PATIENCE", 0.1)

    async def main():
        sender, gone = Sender(), []
        sender.give(10, more=True)

        def give_up():
            gone.append(1)
            sender.parts.put_nowait({"type": "http.disconnect"})

        stay = asyncio.Event()
        stay.set()
        await asyncio.wait_for(
            Bodies(100).bring(swallow, {"stay": stay}, sender.receive, None, size=20, give_up=give_up), 5
        )
        assert gone == [1]

    asyncio.run(main())


# What costs connections


def test_a_supernode_that_does_not_receive_its_bundles_has_few_of_them_in_memory_and_not_for_ever(monkeypatch):
    monkeypatch.setattr(door, "_LONGEST", 0.05)
    dropped, statuses = [], []

    async def flower(_scope, _receive, send):
        await send({"status": 200})
        await asyncio.Event().wait()  # as when the connection takes no more

    async def send(message):
        statuses.append(message.get("status"))

    async def ask(who):
        visit = SimpleNamespace(who=who, drop=lambda: dropped.append(who))
        scope = {"type": "http", "path": "/v1/fleet/pull-objects", "headers": [], "state": {serving.VISIT: visit}}
        await fleet(scope, None, send)

    async def scenario():
        await asyncio.gather(*(ask("greedy") for _ in range(6)), ask("another"))

    fleet = FleetDoor(flower, flower, None)
    asyncio.run(scenario())
    assert statuses.count(200) == 5
    assert statuses.count(503) == 2
    assert sorted(dropped) == ["another"] + ["greedy"] * 4
    assert not fleet._giving


def is_dropped(client):
    try:
        return client.recv(1000) == b""
    except ConnectionError:
        return True


@pytest.mark.e2e
@pytest.mark.parametrize(
    "said", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: ", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /he"]
)
@pytest.mark.parametrize("door", ["control", "fleet"])
def test_who_does_not_finish_saying_what_he_wants_is_dropped(monkeypatch, said, door):
    monkeypatch.setattr(serving, "PATIENCE", 0.5)
    link = SuperLink()
    with link.served as served, socket.create_connection(getattr(served, door)) as client:
        client.settimeout(10)
        client.sendall(said)
        if said.endswith(b"/he"):
            assert client.recv(1000)
        assert is_dropped(client)


def test_who_says_it_letter_by_letter_is_dropped(monkeypatch):
    monkeypatch.setattr(serving, "PATIENCE", 0.5)
    link = SuperLink()
    with link.served as served, socket.create_connection(served.fleet) as client:
        client.settimeout(0.05)
        client.sendall(b"GET /health HTTP/1.1\r\n")
        started, dropped = time.monotonic(), False
        while not dropped and time.monotonic() - started < 10:
            with contextlib.suppress(TimeoutError):
                dropped = _is_dropped_after(client, b"X-A: b\r\n")
        assert dropped


def test_headers_without_end_are_dropped(link):
    with socket.create_connection(link.served.fleet) as client:
        client.settimeout(10)
        client.sendall(b"GET /health HTTP/1.1\r\n")
        with pytest.raises(ConnectionError):
            client.sendall((b"X-A: " + b"a" * 8000 + b"\r\n") * 2000)


def _is_dropped_after(client, sending):
    try:
        client.sendall(sending)
        return client.recv(1) == b""
    except ConnectionError:
        return True


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return tls.make_certificates(tmp_path_factory.mktemp("tls"), [("IP", ADDRESS)])


def test_a_handshake_that_does_not_end_is_dropped(monkeypatch, certificates):
    monkeypatch.setattr(serving, "PATIENCE", 0.5)
    link = SuperLink(certificates)
    with link.served as served, socket.create_connection(served.fleet) as client:
        client.settimeout(10)
        client.sendall(b"\x16\x03\x01")
        assert is_dropped(client)
        while served.visits[1].strangers:
            time.sleep(0.01)


SERVER = """
import json, resource, sys, threading
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
from pathlib import Path
from oneflower_appliance.orders import CertificateFiles
from tests.unit.flower.test_fleet_door import SuperLink
link = SuperLink(CertificateFiles(*map(Path, sys.argv[1:])))
with link.served as served:
    print(json.dumps([served.control, served.fleet, link.node, link.member.private.private_numbers().private_value]), flush=True)
    sys.stdin.read()
"""


@pytest.mark.e2e
def test_idle_connections_do_not_keep_out_supernodes_nor_ourselves(certificates):
    """More than the server may have descriptors, from one address, with and without a finished handshake."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2048:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    command = [sys.executable, "-c", SERVER, *map(str, (certificates.ca, certificates.certificate, certificates.key))]
    context = ssl.create_default_context(cafile=str(certificates.ca))
    clients = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            control, fleet, node, number = json.loads(server.stdout.readline())
            member = SuperNode(ec.derive_private_key(number, ec.SECP384R1()))
            control_url, fleet_url = (f"https://{ADDRESS}:{port}" for _, port in (control, fleet))
            pull = PullMessagesRequest(node=Node(node_id=node)).SerializeToString()

            def ask():
                url, headers = f"{fleet_url}/v1/fleet/pull-messages", member.headers()
                return httpx.post(url, content=pull, headers=headers, verify=context, trust_env=False, timeout=30)

            with httpx.Client(verify=context, trust_env=False, timeout=30) as us:
                for count in range(1, 1201):
                    plain = socket.create_connection(tuple(fleet), 10)
                    clients.append(plain)
                    if count % 3:
                        try:
                            clients[-1] = context.wrap_socket(plain, server_hostname=ADDRESS)
                        except OSError:
                            clients.pop().close()
                    if count % 100 == 0:
                        assert us.post(f"{control_url}/v1/control/list-nodes", headers=PROTOBUF).status_code == 200
                        answer = _insistently(ask)
                        assert answer.status_code == 200
            assert server.poll() is None
        finally:
            for client in clients:
                client.close()
            server.stdin.close()


def _insistently(ask):
    """As Flower does: ask again when the connection broke."""
    for _ in range(10):
        try:
            return ask()
        except httpx.TransportError:
            time.sleep(0.2)
    return ask()


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now

    def arrive(self, guests, address, dropped):
        visit = Visit(address, None, guests, since=self.now)
        visit.drop = lambda: dropped.append(visit)
        return visit, guests.arrive(visit)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("oneflower_appliance.flower.visits.time", clock)
    return clock


def test_the_stranger_that_came_first_goes_when_there_are_too_many(clock):
    guests, dropped = Visits(Limits(total=100, strangers=3, address=3, known=2)), []
    first, *_ = [clock.arrive(guests, f"10.0.0.{number}", dropped)[0] for number in range(3)]
    assert not clock.arrive(guests, "10.0.0.9", dropped)[1], "everybody has a moment"
    clock.now = 2
    assert clock.arrive(guests, "10.0.0.9", dropped)[1]
    assert dropped == [first]


def test_one_address_takes_the_place_of_its_own_strangers_only(clock):
    guests, dropped = Visits(Limits(total=100, strangers=50, address=2, known=2)), []
    other, _ = clock.arrive(guests, "10.0.0.2", dropped)
    first, _ = clock.arrive(guests, "10.0.0.1", dropped)
    clock.arrive(guests, "10.0.0.1", dropped)
    clock.now = 2
    assert clock.arrive(guests, "10.0.0.1", dropped)[1]
    assert dropped == [first]
    assert other not in dropped


def test_many_supernodes_may_be_behind_one_address_and_strangers_drive_none_of_them_out(clock):
    guests, dropped = Visits(Limits(total=100, strangers=3, address=2, known=2)), []
    for number in range(90):
        visit, came = clock.arrive(guests, "10.0.0.1", dropped)
        assert came
        visit.know(f"node {number}")
    for _ in range(50):
        clock.now += 2
        assert clock.arrive(guests, "10.0.0.1", dropped)[1]
    assert not [visit for visit in dropped if visit.who]
    clock.now += 2
    for number in range(8):  # the rest of all places, but for the two strangers
        visit, _ = clock.arrive(guests, "10.0.0.2", dropped)
        visit.know(f"more {number}")
    assert guests.known == 98


def test_one_supernode_has_so_many_connections_and_no_more(clock):
    guests, dropped = Visits(Limits(total=100, strangers=10, address=10, known=2)), []
    first, *_ = came = [clock.arrive(guests, "10.0.0.1", dropped)[0] for _ in range(3)]
    for visit in came:
        visit.know("node")
    assert dropped == [first]
    for visit in came:
        guests.leave(visit)
    assert (guests.known, guests.of, guests.strangers) == (0, {}, {})


# What is written


def test_nothing_that_a_stranger_sends_is_written_into_a_log(link, caplog):
    caplog.set_level(logging.INFO)
    requests = [
        b"\x00\xff garbage\r\n\r\n", b"GET\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /health/supernode/" + b"9" * 23 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/fleet/x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
        b"POST /v1/fleet/nothing HTTP/1.1\r\nHost: x\r\nFlwr-Public-Key: \xe9\r\nContent-Length: 0\r\n\r\n",
        b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" * 20,
    ]  # fmt: skip
    caplog.clear()
    for request in requests:
        with socket.create_connection(link.served.fleet) as client:
            client.settimeout(10)
            client.sendall(request)
            assert b" 500 " not in client.recv(1000), request
    assert httpx.get(f"{link.url}/health", trust_env=False, verify=PLAIN).status_code == 200
    # The access log is on when debugging only. httpx is what this test asks with.
    others = ("httpx", "httpcore", "uvicorn.access")
    assert [record.getMessage() for record in caplog.records if not record.name.startswith(others)] == []
