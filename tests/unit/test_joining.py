"""How a SuperNode of another site asks to join, over real TLS: whom it trusts, what it sends, and how long it waits."""

from __future__ import annotations

import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from oneflower_appliance.agent import supernode, tls
from oneflower_appliance.agent.authority import replace_authority
from oneflower_appliance.agent.discovery import Discovery
from oneflower_appliance.agent.joining import Joining
from oneflower_appliance.agent.journal import Journal
from oneflower_appliance.agent.link import Probe
from oneflower_appliance.agent.machine import Machine
from oneflower_appliance.agent.node_key import NodeKey
from oneflower_appliance.agent.supernode import SuperNode
from oneflower_appliance.agent.trust import Trust
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.invitation import Invitation
from oneflower_appliance.joining import JoinAnswer, JoinRequest, Reason, Standing
from oneflower_appliance.settings import InvalidParametersError, resolve
from tests.unit.served import ADDRESS, Served


class Door:
    """A SuperLink's door, which answers as a test says, and remembers what it was sent."""

    def __init__(self, ca):
        self.ca, self.asked, self.bodies = ca, [], []
        self.answers = [JoinAnswer(Standing.APPROVED, None, "north/1", 1, 2, 3)]

    async def __call__(self, scope, receive, send):
        self.asked.append(scope["path"])
        body = (await receive())["body"]
        status, answer = 200, b""
        if scope["path"] == "/oneflower/ca":
            answer = self.ca.read_bytes()
        elif scope["path"] == "/oneflower/join":
            self.bodies.append(body)
            status, answer = self._answer()
        elif scope["path"].startswith("/v1/fleet/"):
            status = 401
        await send({"type": "http.response.start", "status": status, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": answer})

    def _answer(self):
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer if isinstance(answer, tuple) else (200, json.dumps(answer.entry).encode())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return tls.make_certificates(tmp_path_factory.mktemp("tls"), [("IP", ADDRESS)])


@pytest.fixture(scope="module")
def served(certificates):
    door = Door(certificates.ca)
    with Served(door, door, certificates) as served:
        yield door, f"{ADDRESS}:{served.fleet[1]}"


@pytest.fixture
def door(served, certificates):
    served[0].__init__(certificates.ca)
    return served


def fingerprint(ca):
    return x509.load_pem_x509_certificate(ca.read_bytes()).fingerprint(hashes.SHA256()).hex()


class Gate:
    """OneGate, which keeps what was published."""

    def __init__(self):
        self.published = []

    def publish(self, values):
        self.published.append(values)


def machine(tmp_path, invitation, **settings):
    given = resolve({"FL_INVITATION": invitation.text(), **settings}, supernode.LEVELS)
    return Machine(tmp_path, {}, given, Journal("supernode", tmp_path / "status.json"), Gate())


def test_a_node_pins_the_ca_asks_until_it_is_approved_and_learns_its_place(door, certificates, tmp_path):
    answers, endpoint = door
    invitation = Invitation.make("north", 2, endpoint, fingerprint(certificates.ca))
    asked, suspended = (JoinAnswer(standing, None, "north/1") for standing in (Standing.ASKED, Standing.SUSPENDED))
    busy, later = (429, b"Ask less often.\n"), JoinAnswer.refused(Reason.USED)
    answers.answers = [asked, busy, asked, suspended, later, *answers.answers]
    here = machine(tmp_path, invitation)
    found, trust = Discovery(here).find(), Trust(here)
    assert found.endpoint == endpoint
    assert "the CA that the invitation names" in trust.settle(found)
    assert trust.path.read_bytes() == certificates.ca.read_bytes()
    key, pauses = NodeKey.of(tmp_path / "node.key"), []
    joining = Joining(here, invitation, pauses.append)
    assert joining.wait(endpoint, key, Probe(trust.path)) == "as north/1"
    place = {"site": "north", "site-index": "3", "partition-id": "1", "num-partitions": "2"}
    assert (joining.node_config, len(pauses), max(pauses) <= 2) == (place, 5, True)
    request = JoinRequest.parse(answers.bodies[0])
    assert request.is_invited(invitation.verifier)
    assert request.owner() == key.public
    assert set(answers.bodies) == {answers.bodies[0]}, "it asks the same each time"
    said = [values["FL_JOINING"] for values in here.onegate.published]
    assert (len(said), said[-1]) == (4, "-")
    private = key.path.read_bytes().splitlines()[3]
    sent = b"".join(answers.bodies)
    assert not any(secret in sent for secret in (invitation.secret, invitation.secret.hex().encode(), private))


def test_who_stands_between_gets_nothing_but_a_question_for_its_certificate(door, tmp_path):
    answers, endpoint = door
    here = machine(tmp_path, Invitation.make("north", 1, endpoint, "ab" * 32))
    trust = Trust(here)
    with pytest.raises(OneflowerError, match="is not the one that the invitation names") as refused:
        trust.settle(Discovery(here).find())
    assert refused.value.code is ExitCode.CONFLICT
    assert answers.asked == ["/oneflower/ca"]
    assert not trust.path.exists()


def test_who_shows_the_right_ca_and_has_not_its_key_gets_nothing_either(door, certificates, tmp_path):
    """The CA's certificate is public. Who shows it has another certificate for its own server."""
    answers, endpoint = door
    other = tls.make_certificates(tmp_path / "other", [("IP", ADDRESS)])
    answers.ca = other.ca
    here = machine(tmp_path, Invitation.make("north", 1, endpoint, fingerprint(other.ca)))
    with pytest.raises(OneflowerError, match="not to be trusted"):
        Trust(here).settle(Discovery(here).find())
    assert answers.bodies == []


def test_a_machine_that_was_off_while_the_ca_was_replaced_follows_and_trusts_no_ca_that_it_did_not_sign(tmp_path):
    made, foreign = (tls.make_certificates(tmp_path / name, [("IP", ADDRESS)]) for name in ("own", "foreign"))
    first, pin = made.ca.read_bytes(), fingerprint(made.ca)
    replace_authority(made.ca.parent, tls.current_time())
    tls.make_certificates(made.ca.parent, [("IP", ADDRESS)])
    door = Door(made.ca)
    with Served(door, door, made) as served:
        invitation = Invitation.make("north", 1, f"{ADDRESS}:{served.fleet[1]}", pin)
        here = machine(tmp_path, invitation)
        found, trust = Discovery(here).find(), Trust(here)
        trust.settle(found)
        assert trust.path.read_bytes() == made.ca.read_bytes()
        door.ca = tmp_path / "forged.crt"
        door.ca.write_bytes(first + foreign.ca.read_bytes())
        trust.settle(found)
        assert trust.path.read_bytes() == first, "the server shows how it leads to the later one"


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason not in (Reason.USED, Reason.BUSY)])
def test_a_node_that_is_refused_says_why_and_shows_its_key(door, certificates, tmp_path, reason):
    answers, endpoint = door
    answers.answers = [JoinAnswer.refused(reason)]
    invitation = Invitation.make("north", 1, endpoint, fingerprint(certificates.ca))
    key = NodeKey.of(tmp_path / "node.key")
    with pytest.raises(OneflowerError) as refused:
        Joining(machine(tmp_path, invitation), invitation).wait(endpoint, key, Probe(certificates.ca))
    assert key.public.long_fingerprint in refused.value.message
    assert refused.value.hint == reason.sentence


def test_a_superlink_that_knows_no_sites_is_named(door, certificates, tmp_path):
    answers, endpoint = door
    answers.answers = [(403, b"Only the Fleet API is served here.\n")]
    invitation = Invitation.make("north", 1, endpoint, fingerprint(certificates.ca))
    key = NodeKey.of(tmp_path / "node.key")
    with pytest.raises(OneflowerError, match=r"takes no machines of other sites.*403: Only the Fleet API"):
        Joining(machine(tmp_path, invitation), invitation).wait(endpoint, key, Probe(certificates.ca))


def test_an_invited_node_asks_before_it_takes_a_partition_and_again_whenever_it_was_refused(tmp_path):
    invitation = Invitation.make("north", 1, "coordinator:9092", "ab" * 32)
    node = SuperNode(machine(tmp_path, invitation, FL_SUPERLINK_ADDRESS="relay:443"))
    names = [step.name for step in node.steps()]
    assert names.index("trust") < names.index("admission") < names.index("partition")
    assert next(step.name for step in node.restart_steps()) == "admission"
    assert Discovery(node._machine).find().endpoint == "relay:443", "the site knows better how to get there"  # noqa: SLF001


def test_the_secret_of_an_invitation_that_is_not_valid_is_in_no_message():
    text = Invitation.make("north", 1, "coordinator:9092", "ab" * 32).text()
    with pytest.raises(InvalidParametersError) as refused:
        resolve({"FL_INVITATION": text[:-1]}, supernode.LEVELS)
    assert "FL_INVITATION: is not valid" in str(refused.value)
    assert text.split(".")[1] not in str(refused.value) + refused.value.sentence
    with pytest.raises(InvalidParametersError, match="FL_TLS_ENABLED=YES"):
        resolve({"FL_INVITATION": text, "FL_SUPERNODE_AUTH": "NO"}, supernode.LEVELS)
