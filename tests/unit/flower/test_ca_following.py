"""Flower's clients, which trust the CA that a file has when they connect."""

from __future__ import annotations

import datetime
import ssl

import httpx
import pytest
from flwr.supercore.protobuf.client import ProtobufClient
from starlette.responses import PlainTextResponse

from oneflower_appliance.agent import tls
from oneflower_appliance.agent.authority import Lifetimes, replace_authority
from oneflower_appliance.ca_file import CaFile
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.flower import serving
from oneflower_appliance.flower.ca_following import follow_ca
from oneflower_appliance.orders import CA_VARIABLE
from tests.unit.served import ADDRESS, Served

NAMES = [("IP", ADDRESS)]


@pytest.fixture
def client(monkeypatch):
    """Flower's client, changed for this test only."""
    monkeypatch.setattr(ProtobufClient, "__init__", ProtobufClient.__init__)
    return ProtobufClient


@pytest.mark.parametrize("given", [str, lambda path: path.read_bytes()])
def test_a_client_that_was_made_before_trusts_the_ca_that_has_taken_the_place(client, tmp_path, monkeypatch, given):
    monkeypatch.setattr(serving, "BETWEEN_LOOKS", 0.01)
    now = tls.current_time()
    old = now - datetime.timedelta(days=3)  # what is made then has expired
    made = tls.make_certificates(tmp_path / "link", NAMES, now)
    monkeypatch.setenv(CA_VARIABLE, str(tmp_path / "ca.crt"))
    tls.make_certificates(tmp_path / "before", NAMES, old, Lifetimes(*[datetime.timedelta(days=2)] * 2))
    (tmp_path / "ca.crt").write_bytes((tmp_path / "before" / "ca.crt").read_bytes())
    follow_ca()
    follow_ca()  # also in a process that was forked from one that does
    with Served(PlainTextResponse("here"), certificates=made) as served:
        flower = client.from_server_address(f"{ADDRESS}:{served.control[1]}", False, given(tmp_path / "ca.crt"), [])
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            flower._client.get(f"https://{ADDRESS}:{served.control[1]}/")
        (tmp_path / "next").write_bytes(made.ca.read_bytes())
        (tmp_path / "next").replace(tmp_path / "ca.crt")
        assert flower._client.get(f"https://{ADDRESS}:{served.control[1]}/").text == "here"
        flower._client.close()


def test_a_ca_that_has_expired_is_not_trusted_any_more(tmp_path):
    day, now = datetime.timedelta(days=1), tls.current_time()
    old = tls.make_certificates(tmp_path / "old", NAMES, now - 3 * day, Lifetimes(2 * day, 2 * day))
    made = tls.make_certificates(tmp_path / "new", NAMES, now)
    for ca, files, error in (
        (old, old, "certificate has expired"),
        (old, made, "unable to get local issuer certificate"),
        (made, made, ""),
    ):
        trusted = CaFile(str(ca.ca))
        assert (trusted.verify_mode, trusted.check_hostname) == (ssl.CERT_REQUIRED, True)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(files.certificate, files.key)
        assert refusal(trusted, server) == error
    with pytest.raises(OneflowerError, match="has expired, so nobody would trust another that it signs"):
        replace_authority(tmp_path / "old", now)


def refusal(client, server):
    """Return why a client refuses a server, over TLS; an empty text if it does not."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(incoming, outgoing, server_hostname=ADDRESS),
        server.wrap_bio(outgoing, incoming, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
    return ""
