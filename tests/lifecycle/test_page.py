"""The page with `--cloud opennebula`: what it asks OneFlow and OpenNebula, with templates that were registered there."""

from __future__ import annotations

import re

import pytest

from oneflower.api import Federation, opennebula_cloud
from oneflower.web import live
from oneflower.web.guard import Keys
from tests.web.conftest import PORT, Desk

from .conftest import ON_OPENNEBULA, PATIENCE


@pytest.fixture
def page(world, monkeypatch, tmp_path):
    """The page, which finds its cloud as OpenNebula's own tools do."""
    if not ON_OPENNEBULA:
        secret = tmp_path / "one_auth"
        secret.write_text(world.cloud.endpoints.session)
        secret.chmod(0o600)
        monkeypatch.setenv("ONE_AUTH", str(secret))
        monkeypatch.setenv("ONE_XMLRPC", world.cloud.endpoints.xmlrpc)
        monkeypatch.setenv("ONEFLOW_URL", world.cloud.endpoints.oneflow)
    monkeypatch.setenv("ONEFLOWER_HOME", str(tmp_path / "home"))
    connections = []

    def connect():
        connections.append(opennebula_cloud(world.prefix))
        return connections[-1]

    made = Desk()
    made.patience = PATIENCE
    made.open(Keys(PORT), connect, "OpenNebula")
    yield made
    made.leave()
    for connection in connections:
        connection.close()


def test_a_federation_lives_and_ends_on_the_page(page, world):
    name = f"{world.prefix}-page"
    assert 'name="FL_NUM_ROUNDS"' in page.person().get("/new").text
    wrong = page.submit("/new/check", name=name, supernodes="1000", FL_NUM_ROUNDS="0").text
    assert "is &#39;0&#39;; expected an integer of at least 1." in wrong
    assert name not in page.person().get("/").text
    with world.guests():
        answer = page.submit("/new", name=name, supernodes="2", FL_NUM_ROUNDS="7")
        assert answer.status_code == 303
        one = re.search(r"/federations/\d+", page.ended())[0]
    number = int(one.rpartition("/")[2])
    assert name in page.person().get("/").text
    shown = page.stream(live.one_federation(page.office, number, ""), "3 of 3 machines ready")
    assert "supernode_1" in shown
    assert Federation.find(world.cloud, name).status().settings["FL_NUM_ROUNDS"] == "7"
    assert "journalctl" in page.person().get(f"{one}/logs?vm=superlink_0").text, "OpenNebula keeps no consoles"
    assert "superlink_0, supernode_0" in page.person().get(f"{one}/remove").text
    page.submit(f"{one}/remove")
    assert "All federations" in page.ended()
    assert page.person().get(one).status_code == 404


def test_a_deployment_that_waits_is_rolled_back_when_the_page_ends(page, world):
    name = f"{world.prefix}-page"
    page.submit("/new", name=name, supernodes="2")  # whose machines have no guests
    world.until(lambda: [one for one in Federation.all(world.cloud) if one.name == name])
    assert page.leave()[-1] == f"deploying {name}: Interrupted. Nothing of it is left."
    assert [one.name for one in Federation.all(world.cloud) if one.name == name] == []
