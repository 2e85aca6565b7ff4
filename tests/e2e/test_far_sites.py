"""Three sites join by invitation and train, each behind a network as they are, in network namespaces.

It is worth its seconds because nothing else has real packets: NAT, firewall, loss, and a line that goes silent. All
checks share one federation.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import ExitStack

import pytest

from .conftest import until
from .far_sites import LAB, NAME, Run, World
from .networks import proxy_url

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make network namespaces"),
]

SIZE = 300_000  # bytes of the model: three seconds at 1 Mbit/s
SILENCE = 35.0  # seconds: as a minute, longer than any request waits and shorter than FL_OFFLINE_AFTER


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with ExitStack() as end:
        found = World(tmp_path_factory.mktemp("world"), end)
        found.join({"south": {"FL_PROXY": proxy_url(found.proxy.address)}, "east": {"FL_OFFLINE_AFTER": "60"}})
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


def test_a_minute_of_silence_in_any_phase_loses_no_run_and_who_was_gone_joins_the_next_round(world, tmp_path):
    wires = world.wires
    before = {site: dict(wire.carried) for site, wire in wires.items()}

    def carried(site, way):
        return wires[site].carried[way] - before[site][way]

    run = Run(world, tmp_path, size=SIZE, held="south-0 south-1 east-0")
    try:
        phases = {  # when a site is cut
            "north": lambda: carried("north", "down") > SIZE / 3,
            "east": lambda: run.has("east-0-trains-1"),
            "south": lambda: carried("south", "up") > SIZE / 3,
        }

        def all_cut():
            if run.has("south-0-trains-1") and run.has("south-1-trains-1"):
                run.tell("south-0-continues")
            for site, reached in phases.items():
                wires[site].is_cut = wires[site].is_cut or reached()
            return all(wire.is_cut for wire in wires.values())

        until(all_cut, 60, "each phase of the round")
        began = time.monotonic()
        assert not run.has("north-0-trains-1"), "it was cut while it fetched the model"
        assert carried("south", "up") < SIZE, "it was cut while one of its nodes sent its reply, and the other trained"
        run.tell("south-1-continues")
        run.tell("east-0-continues")
        # What has been silent for 60 s is offline in east, and in 180 s elsewhere; a request gives up after 30 s.
        until(lambda: not world.nodes()["east/0"]["online"], 90, "the end of the patience with east")
        until(lambda: time.monotonic() - began > SILENCE, SILENCE, "the end of every request")
        wires["north"].is_cut = wires["south"].is_cut = False
        until(lambda: run.has("between-rounds"), 90, "the end of the round without east")
        wires["north"].is_cut = wires["south"].is_cut = True
        wires["east"].is_cut = False
        until(lambda: world.nodes()["east/0"]["online"], 60, "coming back")
        wires["north"].is_cut = wires["south"].is_cut = False
        run.tell("round-2")
        rows = run.rows()
    finally:
        for wire in wires.values():
            wire.is_cut = False
        run.end()
    assert [(row["nodes"], {fault["name"] for fault in row["faults"]}) for row in rows] == [(3, {"east/0"}), (4, set())]
    assert rows[0]["faults"][0]["reason"] == "the SuperLink no longer hears from it"
    assert re.search(r"The reply of east/0 \(node \d+\) .* is refused: nothing waits for it", world.log())


def test_a_round_ends_with_its_quorum_without_a_node_that_hangs(world, tmp_path):
    run = Run(world, tmp_path, hangs="south-1", timeout=8.0)
    try:
        until(lambda: run.has("between-rounds"), 60, "the end of the round without the node that hangs")
        run.tell("round-2")
        rows = run.rows()
    finally:
        run.end()
    assert [row["asked"] for row in rows] == [4, 4]
    assert rows[0]["nodes"] == 3
    [fault] = rows[0]["faults"]
    assert (fault["name"], fault["kind"], fault["reason"]) == ("south/1", "no answer", "nothing came within 8 s")
    assert (run.notes / "south-1-trains-2").exists(), "it takes part in the next round"
