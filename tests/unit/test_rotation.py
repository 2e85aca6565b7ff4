"""What `oneflower rotate` asks for and waits for, and when it says that it was not done."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest

from oneflower.cloud import FederationStatus, rotation
from oneflower.cloud.rotation import Rotation
from oneflower.cloud.status import VmStatus
from oneflower_appliance.errors import ExitCode, OneflowerError

LINK = VmStatus(3, "superlink_0", "superlink", "running", ready=True)
NODES = tuple(VmStatus(7 + n, f"supernode_{n}", "supernode", "running", ready=True, node_id=f"10{n}") for n in (0, 1))


class Fed:
    """A service whose nodes are, at one look after another, as in `looks`; the last look stays."""

    def __init__(self, monkeypatch, *looks, answer=(), **settings):
        self.looks, self.asked, self.settings, self.id, self.name = list(looks), [], settings, 5, "fed"
        monkeypatch.setattr(rotation, "_LOOK", 0)
        monkeypatch.setattr(rotation, "audited", lambda *_, **__: nullcontext({}))
        link = SimpleNamespace(change=lambda path, _: self.asked.append(path) or answer)
        monkeypatch.setattr("oneflower.cloud.superlink.reach", lambda *_: nullcontext(link))
        self.rotation = Rotation(SimpleNamespace(surroundings=None), self)

    def status(self):
        nodes = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return FederationStatus(5, "fed", "RUNNING", 2, vms=(LINK, *nodes), settings=self.settings)


def changed(node, **more):
    return replace(node, node_id=f"{node.node_id}9", **more)


def test_it_waits_until_every_node_takes_part_with_another_key(monkeypatch):
    both = tuple(map(changed, NODES))
    looks = [NODES, NODES, (both[0], NODES[1]), (both[0], changed(NODES[1], ready=False)), both]
    fed = Fed(monkeypatch, *looks)
    assert fed.rotation.replace_node_keys(limit=30) == ["supernode_0", "supernode_1"]
    assert (fed.asked, len(fed.looks)) == (["/keys/replace"], 1)


def test_a_node_that_came_meanwhile_has_a_young_key_and_one_that_went_is_not_waited_for(monkeypatch):
    newcomer = replace(NODES[1], id=9, name="supernode_2", node_id="555")
    fed = Fed(monkeypatch, NODES, (changed(NODES[0]), newcomer))
    assert fed.rotation.replace_node_keys(limit=30)


def test_who_has_no_other_key_in_time_is_named(monkeypatch):
    fed = Fed(monkeypatch, NODES, (changed(NODES[0]), NODES[1]))
    with pytest.raises(OneflowerError, match=r"no other key after 0 s: supernode_1\.") as caught:
        fed.rotation.replace_node_keys(limit=0.05)
    assert caught.value.code is ExitCode.TIMEOUT


@pytest.mark.parametrize(("nodes", "settings"), [((), {}), (NODES, {"FL_SUPERNODE_AUTH": "NO"})])
def test_nothing_is_ordered_where_there_are_no_keys(monkeypatch, nodes, settings):
    fed = Fed(monkeypatch, nodes, **settings)
    with pytest.raises(OneflowerError, match="no SuperNodes with keys"):
        fed.rotation.replace_node_keys()
    assert fed.asked == []


def test_a_superlink_of_an_older_release_is_named(monkeypatch):
    with pytest.raises(OneflowerError, match="older release"):
        Fed(monkeypatch, NODES, answer=None).rotation.replace_node_keys()
