"""Machines of other sites at a SuperLink's one door: who gets in, who does not, and how an operator changes that."""

from __future__ import annotations

import base64
import datetime
import json
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.superlink import main as superlink

from oneflower_appliance.agent.node_key import NodeKey
from oneflower_appliance.audit import AuditLog
from oneflower_appliance.ca_chain import follow_pin
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.flower import places
from oneflower_appliance.flower.api import superlink_api
from oneflower_appliance.flower.audited import Audited
from oneflower_appliance.flower.door import FleetDoor, OwnDoor
from oneflower_appliance.flower.linkstate import LinkState
from oneflower_appliance.flower.membership import Membership
from oneflower_appliance.flower.sitebook import SiteBook
from oneflower_appliance.flower.sitecalls import Rate, SiteCalls, SiteDoor
from oneflower_appliance.flower.waiters import HEADER
from oneflower_appliance.invitation import Invitation
from oneflower_appliance.joining import JoinAnswer, JoinRequest, Reason, Standing, statement
from oneflower_appliance.orders import CertificateFiles
from oneflower_appliance.sites import FILE, Place
from tests.unit.flower.test_fleet_door import SuperNode
from tests.unit.flower_state import linkstate_factory
from tests.unit.served import ADDRESS, PLAIN, Counting, Served

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the alembic that makes Flower's database
CA = "ab" * 32


class SuperLink:
    """Flower's application behind the two doors, with its sites; over plain HTTP, for speed. `now` is the clock."""

    def __init__(self):
        self.app = superlink.create_app()
        self.app.state.enable_supernode_auth = True
        self.door, self.calls = SiteDoor(None, None, None), SiteCalls(None)
        self.membership = Membership(self.app)
        fleet = self.fleet = FleetDoor(self.app, Counting("ours"), self.membership, self.door)
        self.audited = Audited(OwnDoor(self.app, superlink_api(None, Path(), sites=self.calls)), None, lambda _: None)
        self.served = Served(self.audited, fleet)
        self.own, self.url = (f"http://{ADDRESS}:{one[1]}" for one in (self.served.control, self.served.fleet))

    def begin(self, folder):
        """Begin again, with an empty state in a folder."""
        self.now = 1_000_000.0
        self.app.state.linkstate_factory = linkstate_factory(folder)
        self.membership._state = places.application_state(self.app)
        self.link = LinkState(self.app.state.linkstate_factory)
        self.fleet._waiters = self.link.waiters
        (folder / "ca.crt").write_text("the certificate of the CA\n")
        self.audit = self.audited._audit = AuditLog(folder / "audit")
        self.book = self.calls._book = SiteBook(folder, self.link, lambda: self.now)
        self.door.__init__(self.book, folder / "ca.crt", self.audit)
        return self

    def invite(self, site="north", nodes=2, seconds=60, **more):
        made = Invitation.make(site, nodes, "coordinator:9092", CA)
        said = {"nodes": nodes, "seconds": seconds, "id": made.id, "verifier": made.verifier, "approves": False}
        self.act(site, "invite", **said | more)
        return made

    def act(self, site, action, code=200, **said):
        answer = httpx.post(f"{self.own}/oneflower/sites/{site}/{action}", json=said, trust_env=False, verify=PLAIN)
        assert answer.status_code == code, answer.text
        return answer.json()

    def send(self, body, **more):
        return httpx.post(f"{self.url}/oneflower/join", content=body, trust_env=False, verify=PLAIN, **more)

    def ask(self, machine, invitation):
        answer = self.send(machine.request(invitation))
        assert answer.headers["connection"] == "close"
        return JoinAnswer.parse(answer.json())

    def entries(self, action):
        found = [json.loads(line) for line in self.audit.read().lines]
        return [entry for entry in found if entry["action"] == action]


class Machine:
    """A machine of a site: its key, what it sends to join, and as a SuperNode."""

    def __init__(self, folder):
        self.key = NodeKey.of(folder / "node.key")
        self.node = SuperNode(self.key.private)
        self.print = self.key.public.long_fingerprint

    def request(self, invitation, key=None):
        key = key or self.key.public
        said = statement(invitation.id, key.published)
        return JoinRequest.make(invitation.id, key, invitation.sign(said), self.key.sign(said)).body

    def post(self, link, path, message):
        content, headers = message.SerializeToString(), self.node.headers()
        return httpx.post(
            f"{link.url}/v1/fleet/{path}", content=content, headers=headers, trust_env=False, verify=PLAIN
        )

    def activate(self, link):
        return self.post(
            link, "activate-node", ActivateNodeRequest(public_key=self.node.key, heartbeat_interval=30)
        ).status_code


@pytest.fixture(scope="module")
def served():
    link = SuperLink()
    with link.served:
        yield link


@pytest.fixture
def link(served, tmp_path):
    return served.begin(tmp_path)


@pytest.fixture
def machine(tmp_path):
    numbers = iter(range(100))

    def make():
        folder = tmp_path / f"machine-{next(numbers)}"
        folder.mkdir()
        return Machine(folder)

    return make


def test_a_run_that_a_site_holds_is_said_to_wait_for_it_by_the_name_of_the_node_that_signed(link, machine):
    north, one = link.invite(approves=True), machine()
    link.ask(one, north)
    assert one.activate(link) == 200
    [known] = link.link.nodes()
    pull = PullMessagesRequest(node=Node(node_id=int(known.id))).SerializeToString()
    for who, said in ((one.node.headers(), "17 me/mine%201.0"), (machine().node.headers(), "17 a/lie%201.0")):
        headers = who | {HEADER: said}
        httpx.post(f"{link.url}/v1/fleet/pull-messages", content=pull, headers=headers, trust_env=False, verify=PLAIN)
    assert link.link.held("17") == "north/0 waits for its operator's approval of me/mine 1.0."
    assert not link.link.held("18")


# The way in, and out


def test_a_key_that_asked_takes_part_once_it_is_approved_and_no_longer_when_it_is_suspended_or_removed(link, machine):
    north, one = link.invite(), machine()
    asked = link.ask(one, north)
    assert (asked.standing, asked.name, asked.nodes, asked.site) == (Standing.ASKED, "north/0", 2, 1)
    assert one.activate(link) == 412, "it only asked"
    assert link.act("north", "approve") == {"nodes": ["north/0"]}
    assert link.ask(one, north).standing is Standing.APPROVED
    assert one.activate(link) == 200
    [known] = link.link.nodes()
    assert (known.online, known.name) == (True, "north/0")
    pull = PullMessagesRequest(node=Node(node_id=int(known.id)))
    with httpx.Client(trust_env=False, verify=PLAIN) as client:  # one connection, which the door knows already

        def pulls():
            content, headers = pull.SerializeToString(), one.node.headers()
            return client.post(f"{link.url}/v1/fleet/pull-messages", content=content, headers=headers).status_code

        assert pulls() == 200
        assert link.act("north", "suspend") == {"nodes": ["north/0"]}
        assert not link.link.is_online(int(known.id)), "no round waits for it"
        assert pulls() == 401
        assert link.ask(one, north).standing is Standing.SUSPENDED
        assert link.ask(machine(), north).standing is Standing.SUSPENDED
        link.act("north", "approve")
        assert pulls() == 200
        beat = SendNodeHeartbeatRequest(node=Node(node_id=int(known.id)), heartbeat_interval=30)
        assert one.post(link, "send-node-heartbeat", beat).status_code == 200
        assert link.link.is_online(int(known.id))
        assert link.act("north", "remove") == {"nodes": ["north/0"]}
        assert pulls() == 401
    assert link.ask(one, north) == JoinAnswer.refused(Reason.UNKNOWN)
    again = link.invite()
    assert link.ask(one, again).standing is Standing.ASKED, "nobody told it apart yet"
    assert link.act("north", "approve", code=409)["code"] == ExitCode.CONFLICT, "Flower takes no key twice"
    assert one.activate(link) == 412
    actions = [(entry["action"], entry["outcome"]) for entry in link.entries("site.suspend")]
    assert actions == [("site.suspend", "begun"), ("site.suspend", "done")]
    assert link.entries("site.ask")[0]["key"] == one.print


def test_what_is_on_its_way_when_a_site_is_suspended_is_neither_taken_nor_given(link, machine):
    """Its answer was held, or its body was still coming: both end with the permission."""
    north, one = link.invite(), machine()
    link.ask(one, north)
    link.act("north", "approve")

    class Visit:
        who, drops = one.node.key.hex(), 0

        def drop(self):
            Visit.drops += 1

    sent = []

    async def receive():
        return {"type": "http.request", "body": b"a reply"}

    async def send(message):
        sent.append(message)

    def run(call):
        with pytest.raises(StopIteration) as ended:
            call.send(None)
        return ended.value.value

    door = FleetDoor(link.app, Counting("ours"), Membership(link.app), link.door)
    takes, gives = door._while_served({"state": {"oneflower.visit": Visit()}}, receive, send)
    assert run(takes())["body"] == b"a reply"
    link.act("north", "suspend")
    assert run(takes()) == {"type": "http.disconnect"}
    run(gives({"type": "http.response.start"}))
    assert (sent, Visit.drops) == ([], 2)


def test_an_invitation_may_let_its_first_machines_in_without_a_question(link, machine):
    north, one = link.invite(nodes=1, approves=True), machine()
    assert link.ask(one, north).standing is Standing.APPROVED
    assert one.activate(link) == 200


def test_nodes_have_the_lowest_free_number_and_one_site_leaves_the_others_alone(link, machine):
    north, south = link.invite("north", 3), link.invite("south", 2)
    machines = [machine() for _ in range(4)]
    names = [link.ask(one, to).name for one, to in zip(machines, (north, north, south, north), strict=True)]
    assert names == ["north/0", "north/1", "south/0", "north/2"]
    link.act("north", "approve")
    link.act("south", "approve")
    assert [one.activate(link) for one in machines] == [200] * 4
    link.act("north", "remove", number=1)
    assert [one.activate(link) for one in (machines[1], machines[2])] == [412, 412], "removed; and online already"
    assert sorted(node.name for node in link.link.nodes() if node.online) == ["north/0", "north/2", "south/0"]
    assert link.ask(machine(), north).name == "north/1"
    assert link.ask(machines[1], north) == JoinAnswer.refused(Reason.REMOVED)
    published = Place.recall(str(link.book.sites))
    assert [(one.name, one.standing) for one in published][-1] == ("south/0", "approved")
    assert all(one.node for one in published if one.standing is Standing.APPROVED)


def test_a_new_machine_takes_the_place_of_one_that_is_offline_and_only_when_somebody_says_so(link, machine):
    north, old, new = link.invite(nodes=1, approves=True), machine(), machine()
    link.ask(old, north)
    assert old.activate(link) == 200
    assert link.ask(new, north) == JoinAnswer.refused(Reason.USED), "its place is taken"
    [node] = link.link.nodes()
    link.link.deactivate(int(node.id))
    asked = link.ask(new, north)
    assert (asked.standing, asked.name) == (Standing.ASKED, "north/0")
    assert old.activate(link) == 200, "it was only asked for"
    assert "is online with another key" in link.act("north", "approve", code=409, number=0, keys=[new.print])["message"]
    link.link.deactivate(int(node.id))
    for said in ({}, {"number": 0}):
        assert "in the place of another one" in link.act("north", "approve", code=409, **said)["message"]
    assert link.act("north", "approve", number=0, keys=[new.print]) == {"nodes": ["north/0"]}
    assert (new.activate(link), old.activate(link)) == (200, 412)


def test_after_a_restart_everybody_stands_as_before(link, machine, tmp_path):
    north, one, two = link.invite(), machine(), machine()
    for each in (one, two):
        link.ask(each, north)
    link.act("north", "approve")
    link.act("north", "suspend", number=1)
    again = SiteBook(tmp_path, link.link)
    again.settle()
    assert again.sites == link.book.sites
    assert again.barred == {two.node.key.hex()}
    (tmp_path / FILE).write_text("{")
    with pytest.raises(OneflowerError, match="cannot be read, so it is not known whom to admit"):
        SiteBook(tmp_path, link.link)


def test_a_removal_that_a_crash_cut_off_is_completed(link, machine, tmp_path):
    north, one = link.invite(), machine()
    link.ask(one, north)
    link.act("north", "approve")
    link.link.unregister(int(link.book.sites.of["north"].nodes[0].node))
    again = SiteBook(tmp_path, link.link)
    again.settle()
    assert again.sites.of["north"].removed == (one.print,)


# Attacks


def test_who_stole_an_invitation_asks_and_shows_by_another_key(link, machine):
    north, thief, owner = link.invite(nodes=1), machine(), machine()
    assert link.ask(thief, north).standing is Standing.ASKED
    assert thief.activate(link) == 412
    assert link.ask(owner, north) == JoinAnswer.refused(Reason.USED)
    assert link.act("north", "approve", code=409, keys=[owner.print])["code"] == 4
    link.act("north", "remove", keys=[thief.print])
    assert link.ask(thief, north) == JoinAnswer.refused(Reason.REMOVED)
    assert link.ask(owner, north).standing is Standing.ASKED
    link.act("north", "approve", keys=[owner.print])
    assert (owner.activate(link), thief.activate(link)) == (200, 412)


def test_a_used_an_expired_and_a_revoked_invitation_let_nobody_in(link, machine):
    north, south, east = link.invite("north", 1, approves=True), link.invite("south"), link.invite("east")
    first = machine()
    link.ask(first, north)
    first.activate(link)
    assert link.ask(machine(), north) == JoinAnswer.refused(Reason.USED)
    link.now += 61
    assert link.ask(machine(), south) == JoinAnswer.refused(Reason.EXPIRED)
    assert link.act("east", "uninvite") == {"nodes": []}
    assert link.ask(machine(), east) == JoinAnswer.refused(Reason.UNKNOWN)
    link.act("north", "uninvite")
    assert link.ask(machine(), north) == JoinAnswer.refused(Reason.UNKNOWN)
    assert link.ask(first, north).standing is Standing.APPROVED, "who was admitted stays"
    assert all(reason.sentence for reason in Reason)


def test_an_invitation_for_one_lets_one_in_however_many_ask_at_the_same_moment(link, machine):
    north = link.invite(nodes=1, approves=True)
    bodies = [machine().request(north) for _ in range(6)]
    with ThreadPoolExecutor(len(bodies)) as together:
        answers = [JoinAnswer.parse(answer.json()) for answer in together.map(link.send, bodies)]
    assert sorted(answer.standing for answer in answers) == ["approved", "asked", *["refused"] * 4]
    assert len(link.link.nodes()) == 1
    assert link.act("north", "approve", code=409)["code"] == ExitCode.CONFLICT, "who asks for a place that is taken"


def test_an_invitation_that_has_expired_lets_nobody_in_without_a_question(link, machine):
    north = link.invite(nodes=3, approves=True)
    assert link.ask(machine(), north).standing is Standing.APPROVED
    link.now += 61
    assert link.ask(machine(), north).standing is Standing.ASKED


def test_a_site_cannot_pose_as_another(link, machine):
    """By the name in the text, by the invitation's id, or by a key of another node."""
    north, south = link.invite("north"), link.invite("south")
    theirs, ours = machine(), machine()
    forged = Invitation("north", 2, south.endpoint, south.ca, south.id, south.secret)
    assert link.ask(ours, forged).name == "south/0", "the SuperLink knows whose invitation it is"
    by_id = Invitation("north", 2, north.endpoint, north.ca, north.id, south.secret)
    assert link.ask(machine(), by_id) == JoinAnswer.refused(Reason.UNKNOWN)
    link.ask(theirs, north)
    link.act("north", "approve")
    stolen = link.send(ours.request(south, theirs.key.public))
    assert JoinAnswer.parse(stolen.json()) == JoinAnswer.refused(Reason.INVALID), "it cannot sign with that key"
    assert link.ask(theirs, south).name == "north/0", "a node has one site"
    member = machine()
    link.link.register(member.node.key)
    assert link.ask(member, south) == JoinAnswer.refused(Reason.TAKEN)


def test_a_request_that_is_sent_again_changes_nothing(link, machine):
    north, one = link.invite(), machine()
    body = one.request(north)
    answers = [link.send(body).json() for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert len(link.book.sites.of["north"].nodes) == len(link.entries("site.ask")) == 1
    link.act("north", "remove", keys=[one.print])
    assert JoinAnswer.parse(link.send(body).json()) == JoinAnswer.refused(Reason.REMOVED)


MALFORMED = [
    b"", b"{", b"[]", b"null", b'{"invitation": 1}', b"[" * 8000, b"\xff\xfe",
    b'{"invitation": "", "key": "", "invited": "", "owned": ""}',
    b'{"invitation": ["x"], "key": {}, "invited": null, "owned": 1}',
]  # fmt: skip


def test_a_malformed_request_is_refused_and_leaves_nothing(link, caplog):
    link.invite()
    for body in MALFORMED:
        answer = link.send(body)
        assert answer.status_code in (200, 400), body
        assert JoinAnswer.parse(answer.json()).reason in (Reason.INVALID, Reason.UNKNOWN), body
    assert not link.book.sites.of["north"].nodes
    assert not [record for record in caplog.records if record.name == "flwr"]


def test_a_key_of_another_kind_and_signatures_that_are_none_are_refused(link, machine):
    north, one = link.invite(), machine()
    good = json.loads(one.request(north))
    for change in ({"invited": "%"}, {"invited": good["owned"]}, {"key": base64.b64encode(b"x").decode()}):
        answer = JoinAnswer.parse(link.send(json.dumps(good | change)).json())
        assert answer == JoinAnswer.refused(Reason.UNKNOWN), change
    for owned in ("%", good["invited"]):
        answer = JoinAnswer.parse(link.send(json.dumps(good | {"owned": owned})).json())
        assert answer == JoinAnswer.refused(Reason.INVALID)


def test_a_large_body_and_one_without_a_length_are_not_read(link):
    assert link.send(bytes(8193)).status_code == 413
    assert link.send(iter([b"x"])).status_code == 411
    both = {"Content-Length": "10", "Transfer-Encoding": "chunked"}
    lines = ["POST /oneflower/join HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in both.items()), "", ""]
    with socket.create_connection(httpx.URL(link.url).netloc.decode().split(":")) as stranger:
        stranger.sendall("\r\n".join(lines).encode() + b"100000\r\n")
        assert stranger.recv(100).startswith(b"HTTP/1.1 400"), "it says two lengths"
    assert httpx.get(f"{link.url}/oneflower/join", trust_env=False, verify=PLAIN).status_code == 411


def test_who_asks_too_often_waits_and_others_do_not(link, machine):
    now = [0.0]
    rate = Rate(lambda: now[0])
    assert [rate.allows("10.0.0.1") for _ in range(101)] == [True] * 100 + [False]
    assert rate.allows("10.0.0.2")
    assert [rate.allows(f"fd00::{number}") for number in range(1, 102)][-1] is False, "a host has the whole network"
    now[0] += 0.03
    assert [rate.allows("10.0.0.1") for _ in range(2)] == [True, False]
    for number in range(5000):
        rate.allows(f"10.1.{number // 250}.{number % 250}")
    assert len(rate._left) == 1024
    link.door._rate = Rate(lambda: 0.0)
    answers = [link.send(b"{}").status_code for _ in range(101)]
    assert answers[-1] == 429


def test_requests_without_number_fill_neither_the_state_nor_the_audit_log(link, machine):
    north = link.invite(nodes=1)
    for _ in range(5):
        link.ask(machine(), Invitation.make("north", 1, "coordinator:9092", CA))
        link.ask(machine(), north)
    assert len(link.book.sites.of["north"].nodes) == 1
    assert len(link.entries("site.ask")) == 3, "the one that was news, and one a minute for each reason"


def test_without_tls_or_keys_no_site_can_join(link):
    link.door._book = link.calls._book = None
    assert httpx.post(f"{link.url}/oneflower/join", trust_env=False, verify=PLAIN).status_code == 403
    assert "the certificate of the CA" in httpx.get(f"{link.url}/oneflower/ca", trust_env=False, verify=PLAIN).text
    link.door._ca = None
    assert httpx.get(f"{link.url}/oneflower/ca", trust_env=False, verify=PLAIN).status_code == 403
    invite = httpx.post(f"{link.own}/oneflower/sites/north/invite", json={}, trust_env=False, verify=PLAIN)
    assert (invite.status_code, "FL_TLS_ENABLED=YES" in invite.text) == (409, True)
    assert httpx.get(f"{link.own}/oneflower/sites", trust_env=False, verify=PLAIN).json() == []


def test_what_is_kept_is_private_and_holds_no_secret(link, machine, tmp_path):
    north = link.invite()
    link.ask(machine(), north)
    kept = tmp_path / FILE
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    secrets = (north.secret.hex(), base64.b64encode(north.secret).decode(), north.text())
    said = kept.read_text() + "".join(link.audit.read().lines)
    assert not any(secret in said for secret in secrets)
    [listed] = httpx.get(f"{link.own}/oneflower/sites", trust_env=False, verify=PLAIN).json()
    assert "verifier" not in listed
    assert listed["nodes"][0]["address"] == "127.0.0.1"


def test_the_operator_has_the_ca_replaced_by_the_agent_if_it_is_the_superlinks_own(link, tmp_path):
    def ask():
        return httpx.post(f"{link.own}/oneflower/ca/replace", json={}, trust_env=False, verify=PLAIN)

    ca, server = tmp_path / "ca.crt", tmp_path / "server.pem"
    for files in (None, CertificateFiles(ca, server, tmp_path / "server.key")):
        link.calls._files = files
        assert (ask().status_code, ask().json()["code"]) == (409, ExitCode.CONFLICT)
    link.calls._files = files = CertificateFiles(ca, server, server)
    assert ask().status_code == 200
    assert files.wish.exists()
    assert "begun" in {entry["outcome"] for entry in link.entries("ca.replace")}


# Wishes that are not valid


def test_an_invitation_that_makes_no_sense_is_refused_with_a_sentence(link, machine):
    for site, more, why in (
        ("North", {}, "cannot be the name of a site"), ("a" * 33, {}, "cannot be the name"),
        ("north", {"nodes": 0}, "1 to 1000 nodes"), ("north", {"seconds": 0}, "at most 366 days"),
    ):  # fmt: skip
        said = {"nodes": 1, "seconds": 1, "id": "x", "verifier": "x", "approves": False} | more
        assert why in link.act(site, "invite", code=409, **said)["message"]
    link.invite()
    said = {"nodes": 1, "seconds": 1, "id": "x", "verifier": "x", "approves": False}
    assert "has an invitation" in link.act("north", "invite", code=409, **said)["message"]
    assert link.act("south", "approve", code=409)["code"] == ExitCode.NOT_FOUND
    assert link.act("north", "approve", code=409, number=7)["code"] == ExitCode.NOT_FOUND
    assert link.act("north", "dance", code=409)["code"] == ExitCode.USAGE


def test_a_changed_text_of_an_invitation_is_not_read():
    text = Invitation.make("north", 4, "[fd00::1]:9092", CA).text()
    assert Invitation.parse(f"  {text}\n").nodes == 4
    kind, coded, digest = text.split(".")
    wrong = ["", "x", text[:-1], text[:60], f"{kind}.{coded[:-2]}.{digest}", text.replace("1.", "2.", 1), text * 2]
    for other in wrong:
        with pytest.raises(OneflowerError, match="not a valid invitation") as refused:
            Invitation.parse(other)
        assert refused.value.hint
        assert coded not in str(refused.value)
    assert "secret" not in repr(Invitation.parse(text))


# Which CA is trusted


def test_a_later_ca_is_trusted_if_the_one_before_signed_it(tmp_path):
    def made(name, key, issuer=None, by=None):
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder().subject_name(subject).issuer_name(issuer.subject if issuer else subject)
            .public_key(key.public_key()).serial_number(1).not_valid_before(now).not_valid_after(now.replace(year=2099))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(by or key, hashes.SHA256())
        )  # fmt: skip

    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
    first = made("first", keys[0])
    second, foreign = made("second", keys[1], first, keys[0]), made("second", keys[2])
    pem = [one.public_bytes(serialization.Encoding.PEM) for one in (first, second, foreign)]
    pin = first.fingerprint(hashes.SHA256()).hex()
    assert follow_pin(pem[0] + pem[1], pin, "it") == pem[0] + pem[1]
    assert follow_pin(pem[2] + pem[0] + pem[2], pin, "it") == pem[0], "nothing before it, and nothing unsigned"
    assert follow_pin(pem[0] + pem[1], second.fingerprint(hashes.SHA256()).hex(), "it") == pem[1]
    for other in (pem[1], pem[2]):
        with pytest.raises(OneflowerError, match="not the one that the invitation names"):
            follow_pin(other, pin, "it")
