"""All that a SuperNode asks its SuperLink goes through its proxy, if it has one, and on connections that are kept."""

from __future__ import annotations

import contextlib
import socket
import threading

import httpx
import pytest
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supernode.fleet_http_client import FleetHttpClient
from starlette.responses import PlainTextResponse

from oneflower_appliance.agent import tls
from oneflower_appliance.agent.link import Probe
from oneflower_appliance.flower import connections, serving, wires
from oneflower_appliance.flower.connections import keep_connections
from oneflower_appliance.flower.warm import waits
from oneflower_appliance.flower.warm.downloads import download_directly
from oneflower_appliance.proxy import Proxy
from tests.unit.served import Served

from .test_downloads import BODY, Giving, get

NAME = "superlink.example.org"  # which nobody but the proxy can resolve


class Tunnels:
    """A proxy that leads every tunnel to `target`, if `refusal` is empty. `asked` and `hellos` are what it saw."""

    def __init__(self, target):
        self.target, self.refusal, self.asked, self.hellos = target, b"", [], []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.proxy = Proxy(*self.listener.getsockname(), "north", "secret")
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._lead, args=self.listener.accept()[:1], daemon=True).start()

    def _lead(self, client):
        with client, contextlib.suppress(OSError):
            self.asked.append(client.recv(4096).decode())
            client.sendall(self.refusal or b"HTTP/1.1 200 OK\r\n\r\n")
            if self.refusal:
                return
            self.hellos.append(hello := client.recv(4096))
            with socket.create_connection(self.target) as there:
                there.sendall(hello)
                back = threading.Thread(target=self._pass, args=(there, client), daemon=True)
                back.start()
                self._pass(client, there)
                back.join()

    @staticmethod
    def _pass(one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)


@pytest.fixture
def tunnels(tmp_path, monkeypatch):
    """A proxy to an application served over TLS under a name, and a function that makes Flower's client of it."""
    monkeypatch.setattr(FleetHttpClient, "__init__", FleetHttpClient.__init__)
    monkeypatch.setenv("no_proxy", "*")  # which is not for this proxy
    made = tls.make_certificates(tmp_path, [("DNS", NAME)])
    with Served(Giving(), certificates=made) as server:
        found = Tunnels(server.control)
        keep_connections(found.proxy)
        download_directly(found.proxy)
        client = FleetHttpClient.from_server_address(f"{NAME}:443", False, made.ca.read_bytes(), [])
        yield found, client, made.ca
        client.close()
        found.listener.close()


def test_flowers_requests_downloads_and_the_agents_questions_all_name_their_server_in_the_tunnel(tunnels):
    found, client, ca = tunnels
    assert get(client) == BODY, "a bundle"
    assert get(client, "pull-object") == BODY, "any other request"
    assert Probe(ca, found.proxy).lists_online(f"{NAME}:443", "1")
    assert len(found.asked) == 3
    for asked, hello in zip(found.asked, found.hellos, strict=True):
        assert asked.startswith(f"CONNECT {NAME}:443 HTTP/1.1\r\n")
        assert "Basic bm9ydGg6c2VjcmV0" in asked
        assert NAME.encode() in hello, "a proxy that passes TLS on by the server's name (SNI) finds it"


@pytest.mark.parametrize("call", ["pull-objects", "pull-object"])
def test_a_proxy_that_cannot_reach_the_superlink_is_a_lost_connection_which_flower_tries_again(tunnels, call):
    found, client, _ = tunnels
    found.refusal = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises((httpx.ConnectError, httpx.ReadError)) as lost:
        get(client, call)
    assert not any(word in str(lost.value).lower() for word in ("tls", "ssl", "certificate", "secret")), (
        "it gives up then"
    )
    found.refusal = b""
    assert get(client, call) == BODY


class Answering:
    """A server that follows a script: for each connection, what it sends for each request before it closes."""

    def __init__(self, *connections):
        self.connections, self.asked = connections, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        for number, answers in enumerate(self.connections):
            try:
                wire, _ = self.listener.accept()
            except OSError:  # the test has ended, and nobody came
                return
            with wire, contextlib.suppress(OSError):
                for answer in answers:
                    self.asked.append(number)
                    request = b""
                    while not request.endswith(b"x" * 300):
                        if not (piece := wire.recv(65536)):
                            return
                        request += piece
                    wire.sendall(answer)


WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def ask(monkeypatch):
    """Return a function that has Flower's client make requests to a server, and returns the answers."""
    monkeypatch.setattr(FleetHttpClient, "__init__", FleetHttpClient.__init__)
    monkeypatch.setattr(connections.urllib.request, "getproxies", dict)
    connections.keep_connections()

    def asking(server, times):
        address = "{}:{}".format(*server.listener.getsockname())
        with server.listener, FleetHttpClient.from_server_address(address, True, None, []) as client:
            return [get(client, "pull-messages") for _ in range(times)]

    return asking


def test_a_connection_that_is_closed_under_a_request_costs_nothing(ask):
    server = Answering([WHOLE, b""], [WHOLE, WHOLE])
    assert ask(server, 3) == [b"ok"] * 3
    assert server.asked == [0, 0, 1, 1]


def test_requests_are_held_on_these_connections_too(monkeypatch):
    monkeypatch.setattr(ProtobufClient, "__init__", ProtobufClient.__init__)
    monkeypatch.setattr(FleetHttpClient, "__init__", None)
    del FleetHttpClient.__init__  # as Flower has it
    monkeypatch.setattr(connections.urllib.request, "getproxies", dict)
    connections.keep_connections()
    waits.ask_to_wait()  # a SuperNode does so later
    with FleetHttpClient("http://127.0.0.1:9", verify=True) as client:
        assert waits.WAITS in client._interceptors
        assert isinstance(client._client._transport, connections.Connections)


@pytest.mark.parametrize("script", [([b""],), ([WHOLE, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"],)])
def test_a_request_is_not_made_again_by_us_when_the_connection_was_new_or_an_answer_had_begun(ask, script):
    server = Answering(*script, [WHOLE])
    with pytest.raises(httpx.RemoteProtocolError):  # Flower then makes it again, after a pause
        ask(server, 2)
    assert set(server.asked) == {0}


def test_a_superlink_keeps_connections_of_its_supernodes_as_long_as_it_says(monkeypatch):
    async def app(scope, receive, send):
        scope["state"][serving.VISIT].know("a node")
        await PlainTextResponse("ok")(scope, receive, send)

    assert serving.OPEN > wires.KEPT, "the node closes it, and not while a request is on its way"
    monkeypatch.setattr(serving, "OPEN", 0.05)
    with Served(app, app) as server, socket.create_connection(server.fleet, 3) as wire:
        wire.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        said = b""
        while piece := wire.recv(65536):  # Flower's server would wait for five seconds
            said += piece
        assert said.endswith(b"\r\n\r\nok")
