from __future__ import annotations

import base64
import functools
import stat
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from oneflower_appliance.agent.admission import Admission
from oneflower_appliance.agent.link import KeyRefusedError
from oneflower_appliance.agent.node_key import NodeKey
from oneflower_appliance.agent.onegate import OneGateError
from oneflower_appliance.agent.roster import Member, Roster
from oneflower_appliance.audit import AuditLog, verify
from oneflower_appliance.public_key import PublicKey
from oneflower_appliance.refusals import Reason, Refusals


@functools.cache
def key(name):
    """Return the PEM of a key; the same for the same name."""
    return PublicKey.of(ec.derive_private_key(hash(name) % 2**100 + 1, ec.SECP384R1()).public_key())


def published(text):
    return base64.b64encode(text.encode()).decode()


class Api:
    """Flower's registry: a key is known once, and never again after it was unregistered; nor is an id."""

    def __init__(self):
        self.known: dict[str, str] = {}
        self.spent: set[str] = set()
        self.online: set[str] = set()
        self.next = 100
        self.down = False

    def register(self, pem):
        if self.down:
            raise ConnectionRefusedError("down")
        if pem in self.spent:
            raise KeyRefusedError("Public key already in use", spent=True)
        if pem not in self.known:
            self.next += 1
            self.known[pem] = str(self.next)
        return self.known[pem]

    def unregister(self, node_id):
        if self.down:
            raise ConnectionRefusedError("down")
        self.spent |= {pem for pem, known in self.known.items() if known == node_id}
        self.known = {pem: known for pem, known in self.known.items() if known != node_id}

    def is_online(self, node_id):
        return node_id in self.online


class Gate:
    """OneGate. VMs of `nodes` are there; `broken` ones make it answer 500, and `down` nobody is there at all."""

    def __init__(self):
        self.keys: dict[int, str] = {}
        self.gone: set[int] = set()
        self.broken: set[int] = set()
        self.down = False
        self.asked = 0

    def attributes(self, vm):
        self.asked += 1
        if self.down:
            raise OneGateError("OneGate cannot be reached.", "", heals=True)
        if vm in self.broken:
            raise OneGateError("OneGate answered 500.", "", heals=True, answered=True)
        if vm in self.gone:
            raise OneGateError("does not contain VM", "", heals=True, answered=True, no_such_vm=True)
        return {"FL_PUBLIC_KEY": self.keys[vm]} if vm in self.keys else {}

    def publish(self, vm, name):
        self.keys[vm] = published(key(name).pem)


class World:
    """A SuperLink's machine: what it keeps on its disk, and its clock."""

    def __init__(self, folder):
        self.registry, self.gate, self.now = Api(), Gate(), 0.0
        self.file = folder / "members.json"
        self.boot()

    def boot(self):
        self.registrar = Admission(self.registry, self.file, lambda: self.now)

    def look(self, nodes, times=1, every=5.0):
        for _ in range(times):
            self.registrar.look(self.gate, nodes)
            self.now += every

    @property
    def known(self):
        return dict(self.registry.known)

    def refusals(self):
        return {vm: reason for vm, (_, reason) in self.registrar.refusals.of.items()}


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def ids(world):
    return {vm: member.node_id for vm, member in world.registrar.roster.members.items()}


def test_a_node_is_let_in_when_it_has_introduced_itself(world):
    world.look([7])
    assert world.registrar.roster == Roster()
    world.gate.publish(7, "a")
    world.look([7])
    assert world.registrar.roster.members == {7: Member("101", key("a").fingerprint)}
    assert world.known == {key("a").pem: "101"}


def test_a_node_that_left_is_no_longer_let_in_after_a_minute(world):
    for vm, name in ((7, "a"), (8, "b")):
        world.gate.publish(vm, name)
    world.look([7, 8])
    world.gate.gone.add(7)
    world.look([8], times=12)
    assert world.known == {key("a").pem: "101", key("b").pem: "102"}
    world.look([8], times=2)
    assert world.known == {key("b").pem: "102"}
    assert ids(world) == {8: "102"}


@pytest.mark.parametrize("answer", [[], [8]], ids=["an empty list", "a list that lacks it, for less than a minute"])
def test_wrong_answers_of_onegate_unregister_nobody(world, answer):
    for vm, name in ((7, "a"), (8, "b")):
        world.gate.publish(vm, name)
    world.look([7, 8])
    world.gate.gone = {7, 8} - set(answer)
    world.look(answer, times=5 if answer else 100)
    world.gate.gone = set()
    world.look([7, 8])
    world.look(answer, times=5 if answer else 100)
    assert ids(world) == {7: "101", 8: "102"}
    assert not world.registry.spent


def test_a_node_that_is_missing_but_whose_vm_is_there_is_not_unregistered(world):
    for vm, name in ((7, "a"), (8, "b")):
        world.gate.publish(vm, name)
    world.look([7, 8])
    world.look([8], times=100)
    world.gate.broken.add(7)
    world.look([8], times=100)
    assert not world.registry.spent


def test_a_vm_made_anew_gets_in_with_its_new_key_and_the_old_key_does_not(world):
    world.gate.publish(7, "old")
    world.look([7])
    world.gate.publish(7, "new")
    world.look([7])
    assert world.known == {key("new").pem: "102"}


def test_the_key_of_a_node_that_is_online_cannot_be_changed(world):
    world.gate.publish(7, "old")
    world.look([7])
    world.registry.online = {"101"}
    world.gate.publish(7, "another member's")
    world.look([7], times=3)
    assert ids(world) == {7: "101"}
    assert world.refusals() == {7: Reason.HELD}
    world.gate.publish(7, "old")
    world.look([7])
    assert world.refusals() == {}
    assert not world.registry.spent


def test_a_member_cannot_evict_another_by_publishing_its_key(world):
    world.gate.publish(7, "victim")
    world.gate.publish(8, "attacker")
    world.look([7, 8])
    world.gate.publish(8, "victim")
    world.look([7, 8], times=3)
    assert world.refusals() == {8: Reason.TAKEN}
    world.gate.publish(8, "something else")
    world.look([7, 8], times=3)
    assert ids(world)[7] == "101"
    assert key("victim").pem in world.known


def test_whose_key_it_was_is_not_forgotten_when_the_agent_is_started_again(world):
    for vm, name in ((7, "old"), (8, "b")):
        world.gate.publish(vm, name)
    world.look([7, 8])
    world.gate.publish(7, "new")
    world.look([7, 8])
    world.boot()
    world.gate.publish(8, "old")
    world.look([7, 8])
    assert world.refusals() == {8: Reason.TAKEN}
    assert stat.S_IMODE(world.file.stat().st_mode) == 0o600


def test_a_key_that_was_unregistered_is_refused_by_name_and_the_next_one_is_taken(world):
    world.gate.publish(7, "a")
    world.look([7])
    world.registry.unregister("101")
    world.boot()
    world.look([7])
    assert world.registrar.refusals.of == {7: (key("a").fingerprint, Reason.SPENT)}
    assert world.registrar.roster == Roster()
    world.gate.publish(7, "b")
    world.look([7])
    assert world.refusals() == {}
    assert ids(world) == {7: "102"}


def test_a_vm_cannot_have_keys_without_end(world):
    for number in range(60):
        world.gate.publish(7, f"key {number}")
        world.look([7])
    assert world.refusals() == {7: Reason.MANY}
    assert world.registry.next == 150


def test_another_text_of_the_same_key_is_the_same_key(world):
    world.gate.publish(7, "a")
    world.gate.keys[8] = published("\n" + key("a").pem.replace("\n", "\r\n") + "\n\n")
    world.look([7, 8])
    assert world.known == {key("a").pem: "101"}
    assert world.refusals() == {8: Reason.TAKEN}


def _pem(private):
    return (
        private.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


BAD_KEYS = {
    "no base64": "%%%",
    "no text": base64.b64encode(b"\xff\xfe").decode(),
    "no PEM": published("key"),
    "RSA": published(_pem(rsa.generate_private_key(65537, 2048))),
    "another curve": published(_pem(ec.generate_private_key(ec.SECP256K1()))),
    "long": published(key("a").pem + "#" * 10_000),
}


@pytest.mark.parametrize("bad", BAD_KEYS.values(), ids=BAD_KEYS)
def test_a_key_that_is_not_valid_keeps_out_its_own_node_only(world, bad):
    world.gate.keys[7] = bad
    world.gate.publish(8, "b")
    world.look([7, 8])
    assert ids(world) == {8: "101"}
    assert world.refusals() == {7: Reason.INVALID}


def test_a_node_that_is_not_admitted_is_recorded_once(world, tmp_path):
    log = AuditLog(tmp_path / "audit")
    world.registrar = Admission(world.registry, world.file, lambda: world.now, log)
    world.gate.keys[7] = BAD_KEYS["RSA"]
    world.look([7], times=3)
    [entry] = verify(log.read()).entries
    assert (entry["action"], entry["outcome"], entry["vm"]) == ("node.admit", "refused", "7")
    assert entry["why"] == Reason.INVALID.sentence


def test_a_node_that_flower_or_onegate_has_trouble_with_keeps_out_no_other(world):
    world.gate.publish(7, "spent")
    world.registry.spent.add(key("spent").pem)
    world.gate.broken.add(8)
    world.gate.publish(9, "c")
    world.look([7, 8, 9])
    assert ids(world) == {9: "101"}


def test_a_onegate_that_is_down_is_asked_once_not_once_for_each_node(world):
    world.gate.down = True
    with pytest.raises(OneGateError):
        world.look(range(50))
    assert world.gate.asked == 1


def test_a_restarted_agent_confirms_what_it_kept_and_forgets_who_left_meanwhile(world):
    for vm, name in ((7, "a"), (8, "b")):
        world.gate.publish(vm, name)
    world.look([7, 8])
    world.boot()
    world.gate.gone.add(7)
    world.look([8, 9], times=14)
    assert ids(world) == {8: "102"}
    assert world.known == {key("b").pem: "102"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"members": 3, "holders": {}}', '{"members": {"7": 1}}'])
def test_a_damaged_file_is_no_obstacle(world, text):
    world.gate.publish(7, "a")
    world.look([7])
    world.file.write_text(text)
    world.boot()
    world.look([7])
    assert ids(world) == {7: "101"}


def test_a_registry_that_is_down_is_asked_again(world):
    world.gate.publish(7, "a")
    world.registry.down = True
    world.look([7])
    assert world.registrar.roster == Roster()
    world.registry.down = False
    world.look([7])
    assert list(world.registrar.roster.members) == [7]


def test_a_node_that_left_during_an_outage_is_forgotten_after_it(world):
    for vm, name in ((7, "a"), (8, "b")):
        world.gate.publish(vm, name)
    world.look([7, 8])
    world.registry.down = True
    world.gate.gone.add(7)
    world.look([8], times=20)
    world.registry.down = False
    world.look([8])
    assert world.known == {key("b").pem: "102"}


def test_a_look_costs_the_same_however_many_nodes_there_are(world):
    for vm in range(100):
        world.gate.publish(vm, f"key {vm}")
    world.look(range(100))
    world.gate.asked = 0
    world.look(range(100), times=10)
    assert world.gate.asked == 10


def test_refusals_survive_onegate():
    refusals = Refusals({7: ("ab12", Reason.SPENT), 8: ("", Reason.INVALID)})
    assert Refusals.recall(str(refusals)) == refusals
    assert Refusals.recall(str(Refusals())) == Refusals.recall("") == Refusals()
    assert Refusals.recall("7:ab:evil x:ab:spent 9:cd:taken") == Refusals({9: ("cd", Reason.TAKEN)})
    assert not set(str(refusals)) & set(',[]\\"')


@pytest.mark.parametrize("text", ["", "7:1", "7:1:zz", "7:1:ab  8:2:cd", "x:1:ab", "7:1:ab,8:2:cd"])
def test_garbage_is_no_roster(text):
    with pytest.raises(ValueError):
        Roster.parse(text)


def test_a_roster_survives_onegate():
    for roster in (Roster(), Roster({7: Member("18446744073709551615", "ab12"), 8: Member("2", "cd")})):
        assert Roster.parse(str(roster)) == roster
        assert not set(str(roster)) & set(',[]\\"')


def test_a_node_keeps_its_key_and_keeps_it_for_itself(tmp_path):
    made = NodeKey.of(tmp_path / "node.key")
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert NodeKey.of(tmp_path / "node.key") == made
    assert PublicKey.read(made.published) == made.public
    assert "PRIVATE" not in made.public.pem
    (tmp_path / "node.key").write_text("garbage")
    assert NodeKey.of(tmp_path / "node.key") != made


class Joining(RuleBasedStateMachine):
    """VMs come, introduce themselves, are created again and go, while registry, OneGate and agent sometimes fail."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.world = World(Path(self.folder.name))
        self.nodes: list[int] = []
        self.next = 0
        self.keys = 0

    def teardown(self):
        self.folder.cleanup()

    @rule()
    def boot(self):
        self.nodes.append(self.next)
        self.next += 1

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def introduce(self, data):
        self.keys += 1
        self.world.gate.publish(data.draw(st.sampled_from(self.nodes)), f"key {self.keys}")

    @precondition(lambda self: len(self.nodes) > 1)
    @rule(data=st.data())
    def leave(self, data):
        gone = data.draw(st.sampled_from(self.nodes))
        self.nodes.remove(gone)
        self.world.gate.keys.pop(gone, None)
        self.world.gate.gone.add(gone)

    @rule(down=st.booleans())
    def outage(self, down):
        self.world.registry.down = down

    @rule()
    def restart(self):
        self.world.boot()

    @rule(data=st.data())
    def wrong_answer(self, data):
        """OneGate leaves out nodes for less than a minute."""
        self.world.look(data.draw(st.lists(st.sampled_from(self.nodes), unique=True)) if self.nodes else [])
        self.world.look(self.nodes)

    @rule()
    def settle(self):
        self.world.registry.down = False
        self.world.look(self.nodes, times=len(self.nodes) + 15)
        present = {base64.b64decode(text).decode() for vm, text in self.world.gate.keys.items() if vm in self.nodes}
        if self.nodes:
            assert set(self.world.known) == present, "exactly the nodes of the service are admitted"

    @rule()
    def look(self):
        self.world.look(self.nodes)

    @invariant()
    def no_id_is_given_twice(self):
        found = list(ids(self.world).values())
        assert len(set(found)) == len(found)

    @invariant()
    def nobody_who_is_there_was_unregistered(self):
        present = {base64.b64decode(text).decode() for vm, text in self.world.gate.keys.items() if vm in self.nodes}
        assert not present & self.world.registry.spent


TestJoining = Joining.TestCase
TestJoining.settings = settings(stateful_step_count=40)
