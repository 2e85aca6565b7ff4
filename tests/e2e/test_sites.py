"""Three homes on one machine are a coordinator and two sites: from the invitations to a model, with real Flower.

It is worth its half a minute because only here all parts meet: the commands of both sides, the one door over TLS, the
agents of the sites, and what Flower does when a site is suspended or removed.
"""

from __future__ import annotations

import json
import shutil

import pytest

from .conftest import User, until

pytestmark = pytest.mark.e2e

ONE = [word for name in ("FIT", "EVALUATE", "AVAILABLE") for word in ("--set", f"FL_MIN_{name}_CLIENTS=1")]


@pytest.fixture
def homes(tmp_path):
    homes = [User(tmp_path / name) for name in ("lab", "north", "south")]
    for home in homes:
        home.folder.mkdir()
    yield homes
    for home in homes:
        home.leave()


def test_two_sites_join_train_and_leave_and_nobody_else_is_restarted(homes, tmp_path):
    lab, north, south = homes
    invitations = {site: tmp_path / f"{site}.invitation" for site in ("north", "south")}
    lab("up", "lab", "--kind", "coordinator", *ONE)
    lab("invite", "lab", "--site", "north", "--file", str(invitations["north"]))
    lab("invite", "lab", "--site", "south", "--approve", "--file", str(invitations["south"]))
    secret = invitations["north"].read_text().split(".")[1]
    joining = [home.start("join", str(invitations[home.folder.name])) for home in (north, south)]

    def nodes():
        found = json.loads(lab("sites", "lab", "-o", "json").stdout)
        return {node["name"]: node for site in found for node in site["nodes"]}

    # North waits for the operator, who compares the keys. South was promised a place.
    until(lambda: {"north/0", "south/0"} <= set(nodes()), 60, "asking")
    until(lambda: north.show("north")["vms"][0]["joins"], 20, "saying so")
    key = nodes()["north/0"]["fingerprint"]
    assert f"north/0 asks to join; its key is {key}." in north.show("north")["vms"][0]["joins"]
    assert nodes()["north/0"]["standing"] == "asked"
    lab("approve", "lab", "north", "--key", "0" * 32, code=4)
    assert lab("approve", "lab", "north", "--key", key).stdout == "north/0 takes part.\n"
    for process in joining:
        said, _ = process.communicate(timeout=60)
        assert (process.returncode, "has joined" in said) == (0, True), said
    # No key and no secret has moved, or is to be seen.
    assert all(key not in path.read_text(errors="replace") for path in (lab.home.state / "machines").rglob("*.key"))
    assert all(secret not in " ".join(process.cmdline()) for home in homes for process in home.processes())
    logs = [path.read_text(errors="replace") for home in homes for path in home.home.state.rglob("*.log")]
    assert logs
    assert secret not in "".join(logs)

    link = lab.show("lab")["vms"][0]["id"]
    before = {process.pid for process in lab.processes(link)}

    def trains(*names):
        done = lab("run", "image-classification", "--federation", "lab", "--rounds", "1", "--save", "results")
        run = done.stdout + done.stderr
        [path] = (lab.folder / "results").rglob("reports.jsonl")
        assert {json.loads(line)["name"] for line in path.read_text().splitlines()} == set(names), run
        shutil.rmtree(lab.folder / "results")

    trains("north/0", "south/0")
    # A suspended site takes part in nothing, and then again.
    lab("suspend", "lab", "south")
    assert nodes()["south/0"]["online"] is False
    trains("north/0")
    assert lab("approve", "lab", "south").stdout == "south/0 takes part.\n"
    until(lambda: nodes()["south/0"]["online"], 60, "coming back")
    # A site that was removed is told so, and its key does not come back.
    lab("remove", "lab", "north")
    until(lambda: "refuses this SuperNode" in north.show("north")["vms"][0]["error"], 60, "being told")
    assert nodes()["south/0"]["online"] is True
    assert before <= {process.pid for process in lab.processes(link)}, "the SuperLink was not restarted"
    actions = {
        entry["action"] for entry in json.loads(lab("audit", "lab", "-o", "json").stdout)["SuperLink"]["entries"]
    }
    assert {"site.invite", "site.ask", "site.approve", "site.suspend", "site.remove"} <= actions
