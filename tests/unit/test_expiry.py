"""Certificates that expire: renewed between runs, reloaded by a running server, reported if neither is possible."""

from __future__ import annotations

import base64
import datetime
import json
import math
import socket
import ssl
import time
from types import SimpleNamespace

import httpx
import pytest
from cryptography import x509

from oneflower_appliance import ca_chain
from oneflower_appliance.agent import tls
from oneflower_appliance.agent.authority import Lifetimes
from oneflower_appliance.agent.duties import Duties
from oneflower_appliance.agent.expiry import Expiry
from oneflower_appliance.agent.journal import Journal
from oneflower_appliance.agent.machine import Machine
from oneflower_appliance.agent.superlink import LEVELS, SuperLink
from oneflower_appliance.attributes import CA_CERT
from oneflower_appliance.ca_chain import continues
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.expiry import warning
from oneflower_appliance.flower import serving
from oneflower_appliance.proof import prove, proves
from oneflower_appliance.settings import resolve

from .served import ADDRESS, Counting, Served

NAMES = [("IP", ADDRESS)]
DAY = datetime.timedelta(days=1)


class Clock:
    """A time that a test sets."""

    def __init__(self):
        self.now = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def made(tmp_path, clock):
    return tls.make_certificates(tmp_path, NAMES, clock())


def served_until(certificates):
    return x509.load_pem_x509_certificate(certificates.certificate.read_bytes()).not_valid_after_utc


def test_a_certificate_is_renewed_at_half_of_its_life_by_the_same_ca(made, clock):
    expiry, ca, first = Expiry(made, NAMES, clock), made.ca.read_bytes(), served_until(made)
    clock.now = first - 366 * DAY
    expiry.look()
    assert served_until(made) == first
    clock.now += 2 * DAY
    expiry.look()
    assert served_until(made) > first + 300 * DAY
    assert made.ca.read_bytes() == ca
    renewed = x509.load_pem_x509_certificate(made.certificate.read_bytes())
    renewed.verify_directly_issued_by(x509.load_pem_x509_certificate(ca))


@pytest.mark.parametrize("life", [DAY / 1440, 20 * DAY, 3650 * DAY])
def test_a_ca_is_replaced_at_half_of_its_life_and_who_trusts_it_follows_in_the_other_half(tmp_path, clock, life):
    lifetimes = Lifetimes(life, life)
    made = tls.make_certificates(tmp_path, NAMES, clock(), lifetimes)
    expiry, trusted = Expiry(made, NAMES, clock, lifetimes), made.ca.read_bytes()
    for _ in range(12):  # six lives
        clock.now += life * 0.45
        expiry.look()
        assert made.ca.read_bytes() == trusted
        clock.now += life * 0.1
        expiry.look()
        assert continues(trusted, made.ca.read_bytes())
        assert tls.Ends.of(made).server > clock.now + life * 0.9
        assert expiry.remarks == []
        trusted = made.ca.read_bytes()
    assert len(ca_chain.load(trusted, "it")) <= 5, "those that have expired are forgotten"
    for key in ("ca.key", "server.pem"):
        assert (tmp_path / key).stat().st_mode & 0o777 == 0o600


def test_the_ca_is_replaced_when_its_operator_wishes_it_and_what_was_given_is_not(made, clock):
    before = made.ca.read_bytes()
    made.wish.write_text("")
    Expiry(made, (), clock).look()
    assert made.ca.read_bytes() == before
    expiry = Expiry(made, NAMES, clock)
    assert expiry.look()
    assert continues(before, made.ca.read_bytes())
    assert (made.ca.read_bytes() == before, made.wish.exists()) == (False, False)
    assert CA_CERT.read(expiry.attributes).encode() == made.ca.read_bytes()
    assert not expiry.look()


def test_it_looks_once_a_day(made, clock):
    expiry = Expiry(made, NAMES, clock)
    looks = []
    for _ in range(96):
        looks.append(expiry.look())
        clock.now += DAY / 24
    assert sum(looks) == 4


def test_given_certificates_are_never_replaced_and_reported_14_days_ahead(made, clock):
    expiry, content, end = Expiry(made, (), clock), made.certificate.read_bytes(), served_until(made)
    for left, reported in ((20, False), (14, True), (1, True), (0, True), (-3, True)):
        clock.now = end - left * DAY
        expiry.look()
        assert bool(expiry.remarks) is reported, left
    assert made.certificate.read_bytes() == content
    assert "ended 3 days ago" in expiry.remarks[0]
    assert expiry.attributes == {"FL_CERT_EXPIRES": end.date().isoformat(), "FL_CERT_RENEWED": "NO"}


def test_what_should_have_been_replaced_and_has_ended_is_reported(clock):
    said = warning((clock.now - DAY).date(), clock.now.date(), renewed=True)
    assert "ended 1 days ago" in said
    assert "these were not: look at the log" in said
    assert not warning((clock.now + DAY).date(), clock.now.date(), renewed=True)


def test_a_certificate_that_cannot_be_read_ends_nothing(made, clock):
    expiry = Expiry(made, NAMES, clock)
    made.certificate.write_text("garbage")
    expiry.look()
    assert expiry.attributes == {}


@pytest.mark.parametrize(
    ("left", "said"), [(15, ""), (14, "end in 14 days, on 2027-"), (1, "end on 2027-"), (-2, "ended 2 days ago")]
)
def test_the_warning_names_the_day(clock, left, said):
    found = warning((clock.now + left * DAY).date(), clock.now.date(), renewed=False)
    assert said in found
    assert bool(found) is bool(said)


class Gate:
    """OneGate, as a SuperLink without nodes needs it."""

    def __init__(self):
        self.attributes_now = {}

    def publish(self, values):
        self.attributes_now |= values

    def attributes(self):
        return {}

    def service(self):
        return {}


def test_a_superlink_publishes_when_its_certificates_end_and_its_machine_is_degraded(tmp_path, clock):
    given = tls.make_certificates(tmp_path / "given", NAMES, datetime.datetime.now(datetime.UTC))
    end = served_until(given)
    pems = {
        f"FL_SSL_{part}": base64.b64encode(path.read_bytes()).decode()
        for part, path in (("CA_CERTFILE", given.ca), ("CERTFILE", given.certificate), ("KEYFILE", given.key))
    }
    journal, gate = Journal("superlink", tmp_path / "status.json"), Gate()
    machine = Machine(tmp_path, {"ETH0_IP": ADDRESS}, resolve(pems, LEVELS), journal, gate)
    link = SuperLink(machine, clock)
    steps = {step.name: step for step in link.steps()}
    clock.now = end - 20 * DAY
    journal.run([steps["certificate"], steps["recall"]])
    link.tick()
    assert gate.attributes_now["FL_CERT_EXPIRES"] == end.date().isoformat()
    assert health(tmp_path)["health"] == "done"
    clock.now += 7 * DAY
    link.tick()
    assert health(tmp_path)["health"] == "degraded"
    assert "in 13 days" in health(tmp_path)["causes"][0]
    assert health(tmp_path)["ready"]


def test_when_certificates_end_is_proven_and_proven_again_when_one_is_renewed(made, clock, tmp_path):
    class Proving(Gate):
        def prove(self, values):
            return {**values, "FL_PROOF": prove("token", 1, values)}

    gate, journal = Proving(), Journal("superlink", tmp_path / "status.json")
    machine = Machine(tmp_path, {}, resolve({}, LEVELS), journal, gate)
    keeper = SimpleNamespace(following=False, pause=math.inf, runs=(), look=lambda *_: {})
    link = Duties(machine, keeper, expiry=Expiry(made, NAMES, clock))
    gate.publish(link.begin({"FL_ENDPOINT": "10.0.0.1:9092"}))
    first = gate.attributes_now["FL_CERT_EXPIRES"]
    assert proves("token", 1, gate.attributes_now)
    assert not proves("token", 1, gate.attributes_now | {"FL_CERT_EXPIRES": "2099-01-01"}), "which a member wrote"
    clock.now = served_until(made) - 10 * DAY
    link.look()
    assert gate.attributes_now["FL_CERT_EXPIRES"] > first
    assert proves("token", 1, gate.attributes_now)


def health(home):
    return json.loads((home / "status.json").read_text())


def serial(certificate):
    return x509.load_der_x509_certificate(certificate).serial_number


def test_a_running_server_takes_a_renewed_certificate_and_open_connections_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "BETWEEN_LOOKS", 0.05)
    now = datetime.datetime.now(datetime.UTC)
    made = tls.make_certificates(tmp_path, NAMES, now - 710 * DAY)
    trusting = ssl.create_default_context(cafile=str(made.ca))

    def connect(address):
        return trusting.wrap_socket(socket.create_connection(address, timeout=10), server_hostname=ADDRESS)

    with Served(Counting("flower"), certificates=made) as served, connect(served.control) as old:
        before = serial(old.getpeercert(binary_form=True))
        with httpx.Client(verify=trusting, trust_env=False) as client:
            url = f"https://{ADDRESS}:{served.control[1]}"
            assert client.get(url).text == "flower"
            Expiry(made, NAMES).look()
            deadline = time.monotonic() + 10
            while True:
                with connect(served.control) as new:
                    after = serial(new.getpeercert(binary_form=True))
                if after != before:
                    break
                assert time.monotonic() < deadline, "the server does not take the new certificate"
            assert after == serial(ssl.PEM_cert_to_DER_cert(made.certificate.read_text().split("-----BEGIN PRIV")[0]))
            assert client.get(url).text == "flower"
        old.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"flower" in b"".join(iter(lambda: old.recv(4096), b""))


def test_a_server_keeps_its_certificate_while_the_one_in_the_files_cannot_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "BETWEEN_LOOKS", 0.05)
    made = tls.make_certificates(tmp_path, NAMES)
    trusting = ssl.create_default_context(cafile=str(made.ca))
    with Served(Counting("flower"), certificates=made) as served:
        for content in ("garbage", made.ca.read_text()):
            made.certificate.write_text(content)
            time.sleep(0.2)
            url = f"https://{ADDRESS}:{served.control[1]}"
            assert httpx.get(url, verify=trusting, trust_env=False).text == "flower"


def test_a_clock_that_was_ahead_at_boot_replaces_no_ca(made, clock):
    before, right = made.ca.read_bytes(), clock.now
    clock.now += 6 * 365 * DAY
    Expiry(made, NAMES, clock).look()
    assert made.ca.read_bytes() == before
    clock.now = right
    assert not Expiry(made, NAMES, clock).remarks


def test_what_cannot_be_replaced_is_said_before_it_has_ended_and_is_not_done_twice(tmp_path, clock, monkeypatch):
    lifetimes = Lifetimes(10 * DAY, 10 * DAY)
    made = tls.make_certificates(tmp_path, NAMES, clock(), lifetimes)
    expiry, before = Expiry(made, NAMES, clock, lifetimes), made.ca.read_bytes()
    expiry.look()
    clock.now += 6 * DAY

    def full(*_):
        raise OneflowerError("The disk is full.", "Free some.")

    with monkeypatch.context() as patch:
        patch.setattr(tls, "make_certificates", full)
        assert expiry.look()
        assert expiry.remarks == ["The certificates cannot be looked after: The disk is full. Free some."]
        after = made.ca.read_bytes()
        assert after != before
        for _ in range(5):
            clock.now += DAY / 24
            expiry.look()
        assert made.ca.read_bytes() == after
    assert expiry.look()
    assert expiry.remarks == []
    assert CA_CERT.read(expiry.attributes).encode() == after
