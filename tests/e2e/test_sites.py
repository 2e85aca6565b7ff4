"""Three homes on one machine are a coordinator and two sites: from the invitations to a model, with real Flower.

It is worth its half a minute because only here all parts meet: the commands of both sides, the one door over TLS, the
agents of the sites, and what Flower does when a site is suspended or removed.
"""

from __future__ import annotations

import json
import re
import shutil
import time

import pytest
from cryptography.hazmat.primitives import serialization

from oneflower_appliance.invitation import Invitation
from tests.flower_apps import write_app

from .conftest import User, until
from .networks import Line

pytestmark = pytest.mark.e2e

GPUS = """
import os
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

server = ServerApp()
client = ClientApp()

@client.train()
def train(message, context):
    visible, share = os.environ["CUDA_VISIBLE_DEVICES"], os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "0")
    said = MetricRecord({"num-examples": 1, "gpus": len(visible.split(",")) if visible else 0, "share": float(share)})
    return Message(RecordDict({"arrays": message.content["arrays"], "metrics": said}), reply_to=message)

@server.main()
def main(grid, context):
    FedAvg(fraction_evaluate=0.0).start(grid, ArrayRecord([np.zeros(1, dtype=np.float32)]), num_rounds=1)
"""
WITH_GPUS = ("FL_GPU_ENABLED=YES", "FL_CUDA_VISIBLE_DEVICES=0,1", "FL_GPU_MEMORY_FRACTION=0.5")
ONE = [word for name in ("FIT", "EVALUATE", "AVAILABLE") for word in ("--set", f"FL_MIN_{name}_CLIENTS=1")]
DIGITS = 1797  # in the sample data
FROM_INVITATION_TO_MODEL = 60  # seconds on one machine


@pytest.fixture
def homes(tmp_path):
    homes = [User(tmp_path / name) for name in ("lab", "north", "south")]
    for home in homes:
        home.folder.mkdir()
    yield homes
    for home in homes:
        home.leave()


def private_bytes(home):
    """The private keys of the machines of a home, as a file or a message could hold them."""
    found = set()
    for path in home.home.state.rglob("node.key"):
        pem = path.read_bytes()
        number = serialization.load_ssh_private_key(pem, None).private_numbers().private_value
        raw = number.to_bytes((number.bit_length() + 7) // 8)
        lines = pem.splitlines()[1:-1]
        full = [line for line in lines if len(line) == len(lines[0])]  # a shorter one is padding, the same in all keys
        found |= {raw, raw.hex().encode(), full[-1]}
    return found


def test_two_sites_join_train_and_leave_and_nobody_else_is_restarted(homes, tmp_path):
    lab, north, south = homes
    lab("up", "lab", "--kind", "coordinator", *ONE)
    status = lab.show("lab")
    link, (host, port) = status["vms"][0]["id"], status["endpoint"].rsplit(":", 1)
    before = {process.pid for process in lab.processes(link)}
    line = Line((host, int(port)), keeps=True)
    try:
        _from_the_invitations_to_the_end(lab, north, south, line)
    finally:
        line.close()
    assert before <= {process.pid for process in lab.processes(link)}, "the SuperLink was not restarted"


def _from_the_invitations_to_the_end(lab, north, south, line):
    began = time.monotonic()

    # Three commands at the coordinator, and one at each site.
    address = "{}:{}".format(*line.address)
    lab("invite", "lab", "--site", "north", "--site", "south", "--endpoint", address, "--file", str(lab.folder))
    invitations = {site: lab.folder / f"{site}.invitation" for site in ("north", "south")}
    secrets = [path.read_text().split(".")[1] for path in invitations.values()]
    more = {"north": [word for each in WITH_GPUS for word in ("--set", each)], "south": ()}
    joining = [home.say("join", str(invitations[home.folder.name]), *more[home.folder.name]) for home in (north, south)]
    keys = [
        until(lambda lines=lines: re.search("its key is ([0-9a-f]{32})[.]", "".join(lines)), 60)[1]
        for _, lines in joining
    ]
    assert [node["standing"] for node in nodes(lab).values()] == ["asked", "asked"]
    lab("approve", "lab", "--key", keys[0], "--key", "0" * 32, code=4)
    assert {node["standing"] for node in nodes(lab).values()} == {"asked"}, "one key is wrong, so nobody was approved"
    wanted = [word for key in keys for word in ("--key", key)]
    assert lab("approve", "lab", *wanted).stdout == "north/0, south/0 take part.\n"
    trains(lab, "north/0", "south/0")
    took = time.monotonic() - began
    assert took < FROM_INVITATION_TO_MODEL
    for process, lines in joining:
        assert (process.wait(60), "has joined" in lines.all()) == (0, True), lines.all()

    each_app_hears_what_its_node_has(lab, north)

    # No key and no secret has moved, or is to be seen.
    theirs = {home.folder.name: private_bytes(home) for home in (north, south)}
    assert all(theirs.values())
    for home in (lab, north, south):
        others = set().union(*(keys for name, keys in theirs.items() if name != home.folder.name))
        kept = [path.read_bytes() for path in home.folder.rglob("*") if path.is_file()]
        assert not [each for each in kept if any(key in each for key in others)]
    assert line.kept
    assert not [key for keys in theirs.values() for key in keys if key in line.kept]
    assert not any(
        secret in " ".join(p.cmdline()) for home in (lab, north, south) for p in home.processes() for secret in secrets
    )
    logs = [path.read_text(errors="replace") for home in (lab, north, south) for path in home.home.state.rglob("*.log")]
    assert logs
    assert not any(secret in log for secret in secrets for log in logs)

    # A run has the sites that were chosen for it.
    refused = lab("run", "image-classification", "--federation", "lab", "--sites", "north,west", code=4)
    assert "There is no site west here. Known: north, south. No run was started." in refused.stderr
    trains(lab, "south/0", sites="south")
    # A suspended site takes part in nothing, and then again.
    lab("suspend", "lab", "south")
    assert nodes(lab)["south/0"]["online"] is False
    # The CA is replaced meanwhile. Who trusts the one before follows, also a machine that comes by an older invitation.
    lab("invite", "lab", "--site", "west", "--approve", "--file", "west")
    lab("rotate", "lab")
    assert Invitation.parse((lab.folder / "west").read_text()).ca not in lab("rotate", "lab", "-o", "json").stdout
    trains(lab, "north/0")
    assert lab("approve", "lab", "south").stdout == "south/0 takes part.\n"
    until(lambda: nodes(lab)["south/0"]["online"], 60, "coming back")
    others = {process.pid for process in south.processes()}
    # A site that was removed is told so, and its key does not come back.
    lab("remove", "lab", "north")
    until(lambda: "refuses this SuperNode" in north.show("north")["vms"][0]["error"], 60, "being told")
    # Another one comes, with the invitation that lets its machines in without a question.
    others &= {process.pid for process in south.processes()}  # without what only helped at the start
    assert len(others) > 2
    assert "west has joined" in north("join", str(lab.folder / "west")).stdout
    assert others <= {process.pid for process in south.processes()}, "no node was restarted for another"
    trains(lab, "south/0", "west/0")
    actions = {
        entry["action"] for entry in json.loads(lab("audit", "lab", "-o", "json").stdout)["SuperLink"]["entries"]
    }
    assert {"site.invite", "site.ask", "site.approve", "site.suspend", "site.remove"} <= actions


def each_app_hears_what_its_node_has(lab, north):
    """Nodes with GPUs and nodes without take part in one run."""
    app = write_app(lab.folder / "app", "gpus", {"apps": GPUS}, server="apps:server", client="apps:client")
    lab("run", str(app), "--federation", "lab", "--save", "results")
    [path] = (lab.folder / "results").rglob("reports.jsonl")
    said = {each["name"]: each["metrics"] for each in map(json.loads, path.read_text().splitlines())}
    assert {name: (metrics["gpus"], metrics["share"]) for name, metrics in said.items()} == {
        "north/0": (2, 0.5), "south/0": (0, 0.0),
    }  # fmt: skip
    assert "FL_GPU_ENABLED is YES, and there is no GPU" in json.dumps(north.show("north"))
    shutil.rmtree(lab.folder / "results")


def nodes(lab):
    found = json.loads(lab("sites", "lab", "-o", "json").stdout)
    return {node["name"]: node for site in found for node in site["nodes"]}


def trains(lab, *names, sites=""):
    """Train for one round, with just these nodes, which have all of the sample data: each example is one node's."""
    chosen = ("--sites", sites) if sites else ()
    done = lab("run", "image-classification", "--federation", "lab", "--rounds", "1", "--save", "results", *chosen)
    [path] = (lab.folder / "results").rglob("reports.jsonl")
    seen = {json.loads(line)["name"] for line in path.read_text().splitlines()}
    assert seen == set(names), done.stdout + done.stderr
    compared = done.stdout.partition("on the data of each site")[2]
    assert all(f"\n{name.partition('/')[0]} " in compared for name in names), done.stdout
    found = json.loads(path.with_name("metrics.json").read_text())
    assert {found["machines"][node] for node in found["data"]} == set(names)
    assert sum(said["examples"] for said in found["data"].values()) == DIGITS
    shutil.rmtree(lab.folder / "results")
