"""What is said of SuperNodes that are away when a run is started."""

from __future__ import annotations

import pytest

from oneflower.cloud import FederationStatus, attendance
from oneflower.opennebula import ServiceKind
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.node_state import OFFLINE, ONLINE, NodeState
from oneflower_appliance.site_choice import SiteChoice

NODES = [NodeState("1", ONLINE, "north/0"), NodeState("2", ONLINE, "south/0"), NodeState("3", OFFLINE, "south/1")]


def said(choice=SiteChoice(), nodes=NODES, kind=ServiceKind.COORDINATOR, **overrides):  # noqa: B008 - it is frozen
    status = FederationStatus(1, "fed", "RUNNING", 0, settings={"FL_MIN_AVAILABLE_CLIENTS": "2"}, kind=kind)
    changed = {key.replace("_", "-"): value for key, value in overrides.items()}
    return list(attendance.remarks(status, nodes, choice, changed))


def test_nothing_is_said_where_enough_are_there():
    assert said() == []
    assert said(SiteChoice(("north",)), min_available_nodes=1) == [], "what the run needs counts, not the form"


def test_a_choice_of_sites_with_too_few_nodes_says_what_to_add():
    [remark] = said(SiteChoice(("north",)))
    assert remark.startswith("1 SuperNode of north is online; the first round waits for 2.")
    assert remark.endswith("`-c min-available-nodes=1 -c min-train-nodes=1 -c min-evaluate-nodes=1`.")
    assert said(SiteChoice(("east",))) == ["0 SuperNodes of east are online; the first round waits for 2."]


def test_a_federation_with_too_few_nodes_says_so():
    assert said(nodes=NODES[:1]) == ["1 of 2 SuperNodes are online; the first round waits for the others."]
    assert said(min_available_nodes=3) == ["2 of 3 SuperNodes are online; the first round waits for the others."]


def test_a_coordinator_whose_sites_are_all_away_begins_nothing():
    with pytest.raises(OneflowerError, match="no SuperNode is connected") as caught:
        said(nodes=NODES[2:])
    assert "oneflower invite fed" in str(caught.value.hint)
    assert said(nodes=NODES[2:], kind=ServiceKind.FEDERATION) != []


def test_missing_sites_are_named():
    [_, shortage] = said(SiteChoice(least=2), nodes=[NODES[0], NODES[2]])
    assert "There: north. Not there: south." in shortage
