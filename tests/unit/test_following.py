"""How a SuperNode follows the CA of its SuperLink while it runs."""

from __future__ import annotations

import datetime

import pytest

from oneflower_appliance import ca_chain
from oneflower_appliance.agent import tls
from oneflower_appliance.agent.authority import Lifetimes, replace_authority
from oneflower_appliance.agent.journal import Journal
from oneflower_appliance.agent.machine import Machine
from oneflower_appliance.agent.trust import Trust
from oneflower_appliance.settings import resolve

NAMES = [("IP", "127.0.0.1")]
DAY = datetime.timedelta(days=1)
LIFE = Lifetimes(90 * DAY, 90 * DAY)


class SuperLink:
    """One whose CA was made 50 days ago, so half of its life is over. `asked` counts the questions for its CA."""

    def __init__(self, folder):
        self.folder, self.asked = folder, 0
        self.begun = tls.current_time() - 50 * DAY
        self.made = tls.make_certificates(folder, NAMES, self.begun, LIFE)

    @property
    def ca(self):
        return self.made.ca.read_bytes()

    def replace(self, days):
        replace_authority(self.folder, self.begun + days * DAY, LIFE)

    def fetch_ca(self, _):
        self.asked += 1
        return self.ca


@pytest.fixture
def link(tmp_path):
    return SuperLink(tmp_path / "link")


@pytest.fixture
def trust(tmp_path, link):
    """The trust of a node that knows what `link` has now."""
    home = tmp_path / "node"
    (home / "tls").mkdir(parents=True)
    machine = Machine(home, {}, resolve({}), Journal("supernode", home / "status.json"), None)
    found = Trust(machine, lambda _: link)
    found.path.write_bytes(link.ca)
    return found


def test_a_node_takes_the_ca_that_the_one_before_signed_and_then_asks_no_more(link, trust):
    link.replace(49)
    assert trust.follow("superlink:9092") > 1000
    assert trust.path.read_bytes() == link.ca
    trust.follow("superlink:9092")
    assert link.asked == 1


def test_a_node_that_came_after_an_earlier_ca_follows_too(link, trust):
    link.replace(1)
    chain = ca_chain.load(link.ca, "it")
    trust.path.write_bytes(ca_chain.dump(chain[-1:]))  # as an invitation from then names it
    link.replace(49)
    trust.follow("superlink:9092")
    assert ca_chain.newest(trust.path.read_bytes(), "it") == ca_chain.newest(link.ca, "it")


def test_a_ca_that_was_not_signed_by_the_known_one_is_ignored(link, trust, tmp_path, caplog):
    before = trust.path.read_bytes()
    foreign = SuperLink(tmp_path / "foreign")
    link.made = foreign.made
    assert trust.follow("superlink:9092") > 1000
    assert trust.path.read_bytes() == before
    assert "did not sign. It is ignored" in caplog.text


def test_a_ca_that_was_given_or_is_young_is_not_asked_for(link, trust, monkeypatch):
    monkeypatch.setattr(tls, "current_time", lambda: link.begun + 10 * DAY)
    assert trust.follow("superlink:9092") > 1000
    assert link.asked == 0


def test_a_damaged_file_is_said_now_and_then(link, trust, caplog):
    trust.path.write_bytes(b"-----BEGIN CERTIFICATE-----\ngarbage")
    assert trust.follow("superlink:9092") > 1000
    assert trust.follow("superlink:9092") > 1000
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert link.asked == 0
