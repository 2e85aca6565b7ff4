"""When a SuperNode changes its key, and what becomes of the one before."""

from __future__ import annotations

import base64
import dataclasses
import os
import stat

import pytest

from oneflower_appliance.agent import machine as machines
from oneflower_appliance.agent import supernode
from oneflower_appliance.agent.discovery import Found
from oneflower_appliance.agent.journal import Journal
from oneflower_appliance.agent.key_renewal import KeyRenewal, obey
from oneflower_appliance.agent.machine import Machine
from oneflower_appliance.agent.membership import Membership
from oneflower_appliance.agent.node_key import NodeKey
from oneflower_appliance.orders import NodeReport
from oneflower_appliance.public_key import PublicKey
from oneflower_appliance.settings import resolve

IDLE, BUSY = NodeReport("7"), NodeReport("7", working_since=1.0)
LIFE = 1000


class Renewal:
    """A key that was made at 0, and times that pass."""

    def __init__(self, folder, life=f"{LIFE}s"):
        self.now = 0.0
        key = NodeKey.of(folder / "node.key")
        os.utime(key.path, (0, 0))
        self.key = dataclasses.replace(key, public=dataclasses.replace(key.public, fingerprint="0000"))
        settings = resolve({"FL_NODE_KEY_LIFETIME": life}, supernode.LEVELS)
        self.renewal = KeyRenewal(settings, lambda: self.now, lambda: self.now)

    def due(self, now, report=IDLE, fingerprint="0000"):
        self.now = float(now)
        public = dataclasses.replace(self.key.public, fingerprint=fingerprint)
        return self.renewal.is_due(dataclasses.replace(self.key, public=public), report)


def test_a_key_is_due_at_half_of_its_life_and_not_for_all_nodes_at_once(tmp_path):
    renewal = Renewal(tmp_path)
    assert [renewal.due(now) for now in (0, 499, 500)] == [False, False, True]
    assert [renewal.due(now, fingerprint="ffff") for now in (599, 600)] == [False, True]


def test_a_node_with_tasks_keeps_its_key_until_it_had_none_for_a_minute_or_three_quarters_are_over(tmp_path):
    renewal = Renewal(tmp_path)
    assert not renewal.due(600, BUSY)
    assert [renewal.due(now) for now in (601, 659, 660)] == [False, False, True]
    assert not renewal.due(700, NodeReport("7", worked=3.0)), "a task came and went between two looks"
    assert not renewal.due(5000, BUSY), "never in the middle of a task"
    assert renewal.due(5001)


def test_no_key_is_changed_without_a_life_or_where_a_person_admits_keys(tmp_path):
    assert not Renewal(tmp_path, life="").due(10**9)
    renewal = Renewal(tmp_path)
    renewal.now = 10.0**9
    assert not renewal.renewal.is_due(None, IDLE)
    assert not renewal.renewal.is_due(renewal.key, None)


def ordered(given, name="first", **more):
    return NodeReport("7", key_order=name, key_order_given=float(given), **more)


def test_an_order_makes_a_key_due_between_two_tasks_without_a_life_and_not_for_all_nodes_at_once(tmp_path):
    renewal = Renewal(tmp_path, life="")
    assert not renewal.due(100, ordered(100, working_since=1.0)), "never in the middle of a task"
    assert renewal.due(100, ordered(100))
    assert [renewal.due(now, ordered(100), "ffff") for now in (109, 110)] == [False, True]


def test_an_order_counts_once_and_not_for_keys_that_are_younger(tmp_path):
    renewal = Renewal(tmp_path, life="")
    assert not renewal.due(100, ordered(-1)), "the key was made after it"
    obey(renewal.key, ordered(100))
    assert not renewal.due(10**9, ordered(100)), "also if a clock was wrong, and the new key looks older"
    assert renewal.due(10**9, ordered(100, "second"))
    obey(renewal.key, IDLE)
    assert not renewal.due(10**9, ordered(100)), "a key that is changed for its age forgets no order"


class SuperLink:
    """OneGate of a service whose SuperLink, VM 3, admits VM 7, with `most` keys."""

    def __init__(self, most):
        self.most, self.keys = most, []

    def publish(self, values):
        key = PublicKey.read(values["FL_PUBLIC_KEY"]).fingerprint
        if key not in self.keys:
            self.keys.append(key)
        self.shown = key

    def attributes(self, _vm):
        if self.keys.index(self.shown) >= self.most:
            return {"FL_NODES": f"7:1:{self.keys[0]}", "FL_REFUSED": f"7:{self.shown}:many"}
        return {"FL_NODES": f"7:{self.keys.index(self.shown) + 1}:{self.shown}", "FL_REFUSED": "-"}


@pytest.mark.parametrize(("most", "node"), [(9, "as node 2"), (1, "as node 1")])
def test_the_key_before_is_kept_until_the_other_is_admitted_and_taken_back_if_it_is_not(
    tmp_path, monkeypatch, most, node
):
    monkeypatch.setattr(machines.time, "sleep", lambda _: None)
    gate, found = SuperLink(most), Found("10.0.0.1:9092", 3)
    settings = resolve({}, supernode.LEVELS)
    machine = Machine(tmp_path, {"VMID": "7"}, settings, Journal("supernode", tmp_path / "status.json"), gate)
    member = Membership(machine)
    member.introduce()
    assert member.renewable is None
    member.wait(found)
    first = member.renewable
    assert first is not None
    os.utime(first.path, (0, 0))
    member.retire()
    assert member.is_lost
    before = tmp_path / "tls" / "node.key.before"
    assert stat.S_IMODE(before.stat().st_mode) == 0o600
    member.introduce()
    assert member.wait(found) == node
    assert not before.exists()
    kept = member.renewable == first
    assert kept is (most == 1)
    assert NodeKey.of(tmp_path / "tls" / "node.key").published == member.renewable.published
    assert base64.b64decode(member.renewable.published).decode() == (tmp_path / "tls" / "node.pub").read_text()
    assert first.path.stat().st_mtime > 0, "a life begins"
