"""All that a SuperNode asks its SuperLink goes through its proxy, which gets the name and resolves it."""

from __future__ import annotations

import contextlib
import socket
import threading

import httpx
import pytest
from flwr.supernode.fleet_http_client import FleetHttpClient

from oneflower_appliance.agent import tls
from oneflower_appliance.agent.link import Probe
from oneflower_appliance.flower.proxied import go_through
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
        go_through(found.proxy)
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
