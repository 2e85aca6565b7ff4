"""Answers with bundles, fetched from a real server over TLS in the way of `downloads`, and other requests beside it."""

from __future__ import annotations

import os
import socket

import httpx
import pytest
from flwr.proto.message_pb2 import PullObjectRequest
from flwr.supernode.fleet_http_client import FleetHttpClient

from oneflower_appliance.agent import tls
from oneflower_appliance.flower.warm import bundles, downloads, pace
from oneflower_appliance.flower.warm.headers import BUNDLE
from tests.unit.served import ADDRESS, Served

BODY = os.urandom(3 * 2**20 + 7)


class Giving:
    """An application that gives `body`, of which it says that it has `missing` bytes more, and may be silent then."""

    def __init__(self):
        self.asked, self.most, self.missing, self.status, self.silent = [], [], 0, 200, False

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        await receive()
        self.most.append(int(dict(scope["headers"]).get(BUNDLE.encode(), 0)))
        self.asked.append((scope["path"], scope["client"][1], dict(scope["headers"]).get(b"x-signature")))
        length = str(len(BODY) + self.missing).encode()
        await send({"type": "http.response.start", "status": self.status, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": BODY, "more_body": bool(self.missing)})
        if self.silent:
            while (await receive())["type"] != "http.disconnect":
                continue
        if self.missing:
            raise RuntimeError("cut off")


class Signed:
    """An interceptor of Flower's clients."""

    @staticmethod
    def intercept(context, call_next):
        context.request.headers["x-signature"] = "signed"
        return call_next(context)


class Raw:
    """An answer that is not read."""

    def ParseFromString(self, body):  # noqa: N802 - its name in protobuf
        self.body = body


@pytest.fixture
def giving(tmp_path, monkeypatch):
    """Return an application that is served over TLS, and a function that makes a client of it and gets its answer."""
    monkeypatch.setattr(FleetHttpClient, "__init__", FleetHttpClient.__init__)
    monkeypatch.setattr(downloads.urllib.request, "getproxies", dict)
    downloads.download_directly()
    made = tls.make_certificates(tmp_path, [("IP", ADDRESS)])
    app, clients = Giving(), []

    def client(ca=made.ca):
        address = f"{ADDRESS}:{server.control[1]}"
        clients.append(FleetHttpClient.from_server_address(address, False, ca.read_bytes(), [Signed()]))
        return clients[-1]

    with Served(app, certificates=made) as server:
        yield app, client
        for one in clients:
            one.close()


def get(client, call="pull-objects"):
    request = PullObjectRequest(object_id="x" * 300)
    return client._unary_unary(path=f"/v1/fleet/{call}", rpc_method="//x", request=request, response_type=Raw).body


def test_a_bundle_comes_whole_and_signed_through_a_connection_that_is_kept_for_a_while(giving, monkeypatch):
    app, client = giving
    node = client()
    assert [get(node) == BODY, get(node) == BODY, get(node, "pull-object") == BODY] == [True] * 3
    (_, first, signature), (_, second, _), (path, other, _) = app.asked
    assert (signature, first, path) == (b"signed", second, "/v1/fleet/pull-object")
    assert other != first, "Flower's own client makes all other requests"
    monkeypatch.setattr(node._client, "_kept", -1.0)
    assert get(node) == BODY
    assert app.asked[-1][1] not in (first, other)


def test_a_bundle_is_as_large_as_the_line_can_carry(giving, monkeypatch):
    app, client = giving
    node = client()
    for aim in (1e-9, pace.AIM, pace.AIM):
        monkeypatch.setattr(pace, "AIM", aim)
        get(node)
    get(node, "pull-object")
    assert app.most == [pace.FIRST, pace.SMALLEST, bundles.PART, 0]


def test_a_kept_connection_that_was_closed_costs_no_request(giving, monkeypatch):
    app, client = giving
    node = client()
    assert get(node) == BODY
    [(_, kept)] = node._client._idle
    # The server has closed it, which is seen, or is about to do so, which is not.
    for is_seen in (True, False):
        kept.sock.unwrap() if is_seen else socket.socket.shutdown(kept.sock, socket.SHUT_RDWR)
        monkeypatch.setattr(downloads, "_has_news", lambda _: False) if not is_seen else None
        assert get(node) == BODY
        [(_, kept)] = node._client._idle
    assert len({port for _, port, _ in app.asked}) == 3


def test_an_answer_that_is_cut_off_is_an_error_after_which_one_can_ask_again(giving):
    app, client = giving
    node, app.missing = client(), 9
    with pytest.raises(httpx.ReadError, match="lost"):  # Flower retries unless it reads of TLS
        get(node)
    app.missing = 0
    assert get(node) == BODY
    app.status = 404
    with pytest.raises(httpx.HTTPStatusError):
        get(node)


def test_an_answer_that_takes_too_long_is_an_error_after_which_one_can_ask_again(giving, monkeypatch):
    app, client = giving
    node, app.missing, app.silent = client(), 9, True
    monkeypatch.setattr(downloads, "PATIENCE", 0.05)
    monkeypatch.setattr(downloads, "SLOWEST", 2**40)
    with pytest.raises(httpx.ReadError, match="lost"):
        get(node)
    app.missing, app.silent = 0, False
    monkeypatch.setattr(downloads, "PATIENCE", 30.0)
    assert get(node) == BODY


def test_a_server_that_is_not_trusted_is_not_asked(giving, tmp_path):
    app, client = giving
    other = tls.make_certificates(tmp_path / "other", [("IP", ADDRESS)])
    with pytest.raises(httpx.ReadError, match="certificate"):
        get(client(other.ca))
    assert app.asked == []
