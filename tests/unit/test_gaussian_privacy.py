"""What noise costs in epsilon, against published values, and the ledger of what was spent."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest

from oneflower_appliance import attributes, privacy_ledger
from oneflower_appliance.agent.spending import Spending
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.gaussian_privacy import cost_of, epsilon_of
from oneflower_appliance.privacy_budget import Budget
from oneflower_appliance.privacy_ledger import PrivacyLedger
from oneflower_appliance.site_policy import EXAMPLE, SitePolicy


@pytest.mark.parametrize(
    ("multiplier", "releases", "exact", "by_renyi"),
    [  # of the PLD and the RDP accountant of Google's dp-accounting 0.6.0, for a distance of one norm and delta 1e-5
        (1, 1, 4.3771781, 4.7285071),
        (1, 10, 17.8565868, 19.0535976),
        (4, 100, 13.2067124, 14.1322262),
        (0.5, 1, 9.9972562, 10.7255097),
        (10, 1, 0.3406694, 0.3752913),
    ],
)
def test_epsilon_is_that_of_other_accountants(multiplier, releases, exact, by_renyi):
    found = epsilon_of(releases * cost_of(2 * multiplier), 1e-5)
    assert found == pytest.approx(exact, rel=1e-6)
    assert found < by_renyi


def test_epsilon_of_nothing_of_little_and_of_very_much():
    assert epsilon_of(0, 1e-5) == epsilon_of(cost_of(1e7), 1e-5) == 0
    assert 2e4 < epsilon_of(cost_of(0.01), 1e-5) < 2.2e4
    assert epsilon_of(math.inf, 1e-5) == math.inf


def test_what_was_spent_outlives_the_process_and_a_period_begins_with_nothing(tmp_path):
    path = tmp_path / "privacy.json"
    PrivacyLedger(path).charge("7", 4.0)
    PrivacyLedger(path).charge("7", 4.0)
    PrivacyLedger(path).charge("8", 1.0)
    assert path.stat().st_mode & 0o777 == 0o600
    found = PrivacyLedger(path)
    assert (found.total(), found.of("7"), found.entries()[0].replies) == (9.0, 8.0, 2)
    PrivacyLedger(path, "2027").charge("7", 2.0)
    assert (PrivacyLedger(path, "2027").total(), found.total()) == (2.0, 9.0)


def test_the_ledger_stays_small_and_its_sum_right(tmp_path, monkeypatch):
    monkeypatch.setattr(privacy_ledger, "_MOST", 2)
    ledger = PrivacyLedger(tmp_path / "privacy.json")
    for number in range(1, 7):
        ledger.charge(str(number), 1.0)
    PrivacyLedger(tmp_path / "privacy.json", "2027").charge("9", 4.0)
    assert ledger.total() == 6.0
    assert len(json.loads(ledger.path.read_text())) <= 4


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"run": "7"}]', "negative", "nan"])
def test_a_damaged_ledger_is_no_empty_one(tmp_path, content):
    path = tmp_path / "privacy.json"
    PrivacyLedger(path).charge("7", 4.0)
    one = json.loads(path.read_text())[0]
    written = {"negative": [one | {"cost": -1.0}], "nan": [one | {"cost": math.nan}]}.get(content)
    path.write_text(content if written is None else json.dumps(written))
    with pytest.raises(OneflowerError, match="cannot be read"):
        PrivacyLedger(path).total()


def test_the_privacy_of_a_policy_is_checked_as_a_whole():
    privacy = SitePolicy.parse(EXAMPLE).privacy
    assert "clip 1, noise 1, epsilon at most 50, delta 1e-05" in str(privacy)
    for table, problem in (
        ("clip = 1", "noise is missing"),
        ("clip = 0\nnoise = true", "clip is 0"),
        ("clip = 1\nnoise = 1\ndelta = 1", "delta is 1"),
        ("clip = 1\nnoise = 1\nmax-epsilon = 9.9", "max-epsilon allows no reply: one with noise 1 spends 10"),
        ('clip = 1\nnoise = 1\nmetrics = "loss"', "metrics is not a list"),
        ("clip = 1\nnoise = 1\nepsilon = 1", "epsilon is not a key"),
    ):
        with pytest.raises(OneflowerError, match=problem):
            SitePolicy.parse(f'apps = "ask"\n[privacy]\n{table}\n')
    with pytest.raises(OneflowerError, match="an app of anybody could get around it"):
        SitePolicy.parse("[privacy]\nclip = 1\nnoise = 1\n")
    assert SitePolicy.parse('[task]\negress = "none"\n[privacy]\nclip = 1\nnoise = 1\n').privacy


def test_an_agent_publishes_what_its_node_has_spent_when_that_changes(tmp_path):
    policy = SitePolicy.parse('apps = "ask"\n[privacy]\nclip = 1.0\nnoise = 4\nmax-epsilon = 8\nperiod = "2027"\n')
    published = []
    spending = Spending(SimpleNamespace(home=tmp_path, onegate=SimpleNamespace(publish=published.append)))
    ledger = PrivacyLedger(spending.path, "2027")
    for _ in range(2):
        spending.publish_news(policy)
    ledger.charge("17", policy.privacy.cost)
    spending.publish_news(policy)
    none, one = [Budget.parse(attributes.PRIVACY.read(said)) for said in published]
    assert none.epsilon == 0
    assert none.runs == ()
    assert one.sentence == "epsilon 1.99 of 8 at delta 1e-05 (clip 1, noise 4, period 2027)"
    assert [(run.run, run.updates, run.epsilon) for run in one.runs] == [("17", 1, 1.993091)]
    assert attributes.PRIVACY.read(Spending(SimpleNamespace(home=tmp_path)).said(None)) == ""
    for text in ("", "[]", '{"runs": 1}', '{"epsilon": "much", "runs": []}', "[" * 10_000):
        assert Budget.parse(text) is None
