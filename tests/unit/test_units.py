"""The units of an image: in which order they start, also beside those of OpenNebula's one-context."""

from __future__ import annotations

import graphlib

import pytest

from oneflower.images.overlay import OVERLAY
from oneflower_appliance.guest import confining

UNITS = OVERLAY / "usr/lib/systemd/system"

# What comes before what, in Debian 12. A unit with default dependencies comes after basic.target.
DEBIAN = {
    "local-fs.target": [],
    "sysinit.target": ["local-fs.target", "systemd-resolved.service", "systemd-udevd.service"],
    "basic.target": ["sysinit.target"],
    "network-pre.target": [],
    "systemd-networkd.service": ["network-pre.target", "systemd-udevd.service"],
    "systemd-resolved.service": [],
    "network.target": ["systemd-networkd.service"],
    "systemd-networkd-wait-online.service": ["systemd-networkd.service"],
    "network-online.target": ["systemd-networkd-wait-online.service"],
    "ssh.service": ["basic.target", "network.target"],
    "multi-user.target": ["basic.target", "oneflower-agent.service"],
}
# The same for the units of one-context 7.
ONE_CONTEXT = {
    "one-context-local.service": ["local-fs.target"],
    "network-pre.target": ["one-context-local.service"],
    "one-context-online.service": ["basic.target", "one-context-local.service", "systemd-networkd.service"],
    "network.target": ["one-context-online.service"],
    "systemd-networkd-wait-online.service": ["one-context-online.service"],
    "one-context.service": ["multi-user.target", "network-online.target", "one-context-online.service"],
}


def values(text, key):
    return [word for line in text.splitlines() if line.startswith(f"{key}=") for word in line.partition("=")[2].split()]


def order(*facts):
    """Return which units come before each unit."""
    before = {}
    for fact in facts:
        for unit, earlier in fact.items():
            before.setdefault(unit, set()).update(earlier)
    for path in UNITS.glob("*.service"):
        text = path.read_text()
        own = before.setdefault(path.name, set())
        own.update(values(text, "After"))
        if "DefaultDependencies=no" not in text:
            own.add("basic.target")
        for later in values(text, "Before"):
            before.setdefault(later, set()).add(path.name)
    return before


def test_the_agent_may_make_namespaces_only_where_the_policy_of_the_site_confines_tasks(tmp_path, monkeypatch):
    """That a machine then really confines tasks, the trial of an image in QEMU tries: it is not ready before."""
    calls = []
    monkeypatch.setattr(confining, "call", calls.append)
    policy = tmp_path / "site-policy.toml"
    change = OVERLAY / "usr/lib/oneflower/confinement.conf"

    def change_unit(**context):
        confining.allow(wanted=confining.confines(context, policy), change=change, unit=tmp_path / "unit")
        return (tmp_path / "unit" / change.name).exists()

    assert (
        change_unit()
        is change_unit(FL_SITE_POLICY='apps = "ask"')
        is change_unit(FL_SITE_POLICY="not a policy")
        is False
    )
    assert not calls
    assert change_unit(FL_SITE_POLICY="[task]")
    assert calls == [["systemctl", "daemon-reload"]]
    policy.write_text('apps = "any"')
    assert not change_unit(), "the file of root's counts, and what was changed is taken back"
    policy.write_text("[task]\nseconds = 60")
    assert change_unit()
    assert len(calls) == 3
    agent = (UNITS / "oneflower-agent.service").read_text()
    changed = {line.partition("=")[0] for line in change.read_text().splitlines() if "=" in line}
    assert changed == {key for key in changed if values(agent, key)}, "all of it is set in the unit"


@pytest.mark.parametrize("facts", [(DEBIAN,), (DEBIAN, ONE_CONTEXT)], ids=["alone", "beside one-context"])
def test_no_unit_waits_for_itself(facts):
    place = {unit: number for number, unit in enumerate(graphlib.TopologicalSorter(order(*facts)).static_order())}
    assert place["oneflower-context.service"] < place["systemd-networkd.service"]
    assert place["oneflower-context.service"] < place["oneflower-online.service"] < place["oneflower-agent.service"]
    assert place["network-online.target"] < place["oneflower-online.service"]
