"""Three sites join by invitation and train, each behind a network as they are, in network namespaces.

It is worth its seconds because nothing else has real packets: NAT, a firewall, a line that loses some. All checks share
one federation.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest

from .conftest import until
from .far_sites import LAB, NAME, Run, World
from .networks import proxy_url

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make network namespaces"),
]
SIZE = 100_000  # bytes of the model


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with ExitStack() as end:
        found = World(tmp_path_factory.mktemp("world"), end)
        found.join({"south": {"FL_PROXY": proxy_url(found.proxy.address)}})
        yield found


def test_a_site_gets_out_by_port_443_only_and_nothing_gets_in(world):
    internet, north, south = world.internet, world.spaces["north"], world.spaces["south"]
    assert internet.finds(LAB, 8443) == "open"
    assert north.finds(LAB, 443) == "open"
    assert north.finds(LAB, 8443, 1.0) == "silence"
    assert south.finds(LAB, 443, 1.0) == "silence"
    assert internet.finds("10.1.0.2", 443) == "refused", "the line works, and nothing listens there"
    assert world.lab.finds("10.1.0.2", 443, 1.0) == "silence"
    assert set(world.proxy.tunnels()) == {f"{NAME}:443"}
    online = {name for name, node in world.nodes().items() if node["online"]}
    assert online == {"north/0", "south/0", "south/1", "east/0"}


def test_a_round_waits_for_its_quorum_and_not_for_a_node_that_hangs(world, tmp_path):
    run = Run(world, tmp_path, size=SIZE, held="east-0", hangs="south-1", timeout=8.0, rounds=1)
    try:
        until(lambda: "of the 3 nodes that it needs (FL_ROUND_QUORUM) have answered" in run.log(), 60, "saying so")
        run.tell("east-0-continues")
        rows = run.rows()
    finally:
        run.end()
    [row] = rows
    assert (row["asked"], row["nodes"]) == (4, 3)
    [fault] = row["faults"]
    assert (fault["name"], fault["kind"], fault["reason"]) == ("south/1", "no answer", "nothing came within 8 s")
    assert all(min(wire.carried.values()) > SIZE for wire in world.wires.values()), "over the sites' own lines"
