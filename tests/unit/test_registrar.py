from __future__ import annotations

import base64
import stat

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from oneflower_appliance.agent.admission import Registrar
from oneflower_appliance.agent.node_key import NodeKey, fingerprint
from oneflower_appliance.agent.roster import Member, Roster


class LoopbackDoor:
    """Flower's registry: a key is known once, an id is never used again."""

    def __init__(self):
        self.known: dict[str, str] = {}
        self.next = 100
        self.down = False

    def register(self, key):
        if self.down:
            raise ConnectionRefusedError("down")
        if key not in self.known:
            self.next += 1
            self.known[key] = str(self.next)
        return self.known[key]

    def unregister(self, node_id):
        if self.down:
            raise ConnectionRefusedError("down")
        self.known = {key: known for key, known in self.known.items() if known != node_id}


class Gate:
    def __init__(self):
        self.keys: dict[int, str] = {}
        self.asked = 0

    def attributes(self, vm):
        self.asked += 1
        return {"FL_PUBLIC_KEY": self.keys[vm]} if vm in self.keys else {}

    def publish(self, vm, key):
        self.keys[vm] = base64.b64encode(key.encode()).decode()


@pytest.fixture
def world():
    return LoopbackDoor(), Gate()


def test_a_node_is_let_in_when_it_has_introduced_itself(world):
    registry, gate = world
    registrar = Registrar(registry, "")
    registrar.look(gate, [7])
    assert registrar.roster == Roster()
    gate.publish(7, "key of 7")
    registrar.look(gate, [7])
    assert registrar.roster.members == {7: Member("101", fingerprint(gate.keys[7]))}
    assert registry.known == {"key of 7": "101"}


def test_a_node_that_left_is_no_longer_let_in(world):
    registry, gate = world
    gate.publish(7, "a")
    gate.publish(8, "b")
    registrar = Registrar(registry, "")
    registrar.look(gate, [7, 8])
    registrar.look(gate, [8])
    assert registry.known == {"b": "102"}


def test_a_vm_made_anew_gets_in_with_its_new_key_and_the_old_key_does_not(world):
    registry, gate = world
    gate.publish(7, "old")
    registrar = Registrar(registry, "")
    registrar.look(gate, [7])
    gate.publish(7, "new")
    registrar.look(gate, [7])
    assert registry.known == {"new": "102"}


def test_a_restarted_agent_confirms_what_it_published_and_forgets_who_left_meanwhile(world):
    registry, gate = world
    for vm in (7, 8):
        gate.publish(vm, f"key {vm}")
    first = Registrar(registry, "")
    first.look(gate, [7, 8])
    second = Registrar(registry, str(first.roster))
    second.look(gate, [8, 9])
    assert list(second.roster.members) == [8]
    assert registry.known == {"key 8": "102"}


def test_a_registry_that_is_down_is_asked_again(world):
    registry, gate = world
    gate.publish(7, "a")
    registrar = Registrar(registry, "")
    registry.down = True
    registrar.look(gate, [7])
    assert registrar.roster == Roster()
    registry.down = False
    registrar.look(gate, [7])
    assert list(registrar.roster.members) == [7]


def test_a_node_that_left_during_an_outage_is_forgotten_after_it(world):
    registry, gate = world
    gate.publish(7, "a")
    registrar = Registrar(registry, "")
    registrar.look(gate, [7])
    registry.down = True
    registrar.look(gate, [])
    registry.down = False
    registrar.look(gate, [])
    assert registry.known == {}


def test_keys_that_are_none_are_not_registered(world):
    registry, gate = world
    gate.keys = {7: "%%%", 8: base64.b64encode(b"\xff\xfe").decode()}
    registrar = Registrar(registry, "garbage roster")
    registrar.look(gate, [7, 8])
    assert registrar.roster == Roster()
    assert registry.known == {}


def test_a_look_costs_the_same_however_many_nodes_there_are(world):
    registry, gate = world
    for vm in range(200):
        gate.publish(vm, f"key {vm}")
    registrar = Registrar(registry, "")
    registrar.look(gate, range(200))
    gate.asked = 0
    for _ in range(10):
        registrar.look(gate, range(200))
    assert gate.asked == 10


@pytest.mark.parametrize("text", ["", "7:1", "7:1:zz", "7:1:ab  8:2:cd", "x:1:ab", "7:1:ab,8:2:cd"])
def test_garbage_is_no_roster(text):
    with pytest.raises(ValueError):
        Roster.parse(text)


def test_a_roster_survives_onegate():
    for roster in (Roster(), Roster({7: Member("18446744073709551615", "ab12"), 8: Member("2", "cd")})):
        assert Roster.parse(str(roster)) == roster
        assert not set(str(roster)) & set(',[]\\"')


def test_a_node_keeps_its_key_and_keeps_it_for_itself(tmp_path):
    key = NodeKey.of(tmp_path / "node.key")
    assert stat.S_IMODE(key.path.stat().st_mode) == 0o600
    assert NodeKey.of(tmp_path / "node.key") == key
    assert "PRIVATE" not in key.public_pem
    (tmp_path / "node.key").write_text("garbage")
    assert NodeKey.of(tmp_path / "node.key") != key


class Joining(RuleBasedStateMachine):
    """VMs come, introduce themselves, are made anew and go, while the registry and the agent fail now and then."""

    def __init__(self):
        super().__init__()
        self.registry, self.gate = LoopbackDoor(), Gate()
        self.registrar = Registrar(self.registry, "")
        self.nodes: list[int] = []
        self.next = 0
        self.keys = 0

    @rule()
    def boot(self):
        self.nodes.append(self.next)
        self.next += 1

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def introduce(self, data):
        self.keys += 1
        self.gate.publish(data.draw(st.sampled_from(self.nodes)), f"key {self.keys}")

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def leave(self, data):
        gone = data.draw(st.sampled_from(self.nodes))
        self.nodes.remove(gone)
        self.gate.keys.pop(gone, None)

    @rule(down=st.booleans())
    def outage(self, down):
        self.registry.down = down

    @rule()
    def restart(self):
        self.registrar = Registrar(self.registry, str(self.registrar.roster))

    @rule()
    def settle(self):
        self.registry.down = False
        for _ in range(len(self.nodes) + 2):
            self.registrar.look(self.gate, self.nodes)
        present = {base64.b64decode(key).decode() for vm, key in self.gate.keys.items() if vm in self.nodes}
        assert set(self.registry.known) == present, "exactly the nodes of the service are let in"

    @rule()
    def look(self):
        self.registrar.look(self.gate, self.nodes)

    @invariant()
    def no_id_is_given_twice(self):
        ids = [member.node_id for member in self.registrar.roster.members.values()]
        assert len(set(ids)) == len(ids)


TestJoining = Joining.TestCase
TestJoining.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
