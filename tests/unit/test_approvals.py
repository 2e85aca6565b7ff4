"""Who can approve an app on a site's machine, and who cannot: another machine, another user, a coordinator."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from oneflower.cloud.asks import SiteMachines
from oneflower_appliance import attributes
from oneflower_appliance.agent.approvals import Approvals
from oneflower_appliance.agent.onegate import OneGate
from oneflower_appliance.approvals import APPROVED, Asks, add_approval, prove, proven, read_asks
from oneflower_appliance.errors import OneflowerError
from tests.unit.test_site_policy import bundle

MINE = bundle().content_hash
TOKEN, VM = "the token of this machine", 7


@pytest.fixture
def asks(tmp_path):
    return Asks(tmp_path / "asks", tmp_path / "approved-apps")


def test_only_who_knows_the_token_of_a_machine_approves_and_only_that_app_on_that_machine():
    text = add_approval(TOKEN, VM, MINE, "")
    other = bundle(other="1").content_hash
    assert proven(TOKEN, VM, add_approval(TOKEN, VM, other, text)) == {MINE, other}
    forged = [
        f"{MINE}:{prove('the token of another machine', VM, MINE)}",  # by another machine of the service
        f"{other}:{prove(TOKEN, VM, MINE)}",  # an approval of another app, seen in the attributes
        f"{MINE}:{prove(TOKEN, 8, MINE)}",  # one of another machine with the same token
        f"{MINE}:", f"{MINE}", f"{MINE}:{'0' * 64}", f"../{MINE}:{prove(TOKEN, VM, MINE)}", "\u00e9:\u00e9",
    ]  # fmt: skip
    assert proven(TOKEN, VM, " ".join(forged)) == frozenset()


def test_an_agent_publishes_what_waits_and_brings_only_approvals_with_a_proof(asks, tmp_path):
    published = {}
    onegate = OneGate("http://192.0.2.1:5030", TOKEN, str(VM))
    onegate.attributes, onegate.publish = lambda: dict(published), published.update
    agent = Approvals(SimpleNamespace(home=tmp_path, onegate=onegate))
    asks.add(bundle(), 5)
    agent.look()
    [ask] = read_asks(attributes.ASKS.read(published))
    assert (ask.app, ask.content, ask.run) == ("me/mine 1.0", MINE, "5")
    published[APPROVED] = f"{MINE}:{'0' * 64}"
    agent.look()
    assert asks.approved() == frozenset()
    published[APPROVED] = add_approval(TOKEN, VM, MINE, "")
    agent.look()
    assert asks.approved() == {MINE}
    assert read_asks(attributes.ASKS.read(published)) == ()


def test_a_file_that_others_own_or_may_write_or_a_link_approves_nothing(asks, tmp_path):
    asks.approve([MINE])
    file = tmp_path / "asks" / "approved"
    assert asks.approved() == {MINE}
    file.chmod(0o666)
    assert not asks.approved()
    file.chmod(0o600)
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert not asks.approved()
    file.unlink()
    os.mkfifo(file)
    assert not asks.approved(), "and nobody is waited for"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_another_users_file_approves_nothing_and_roots_does(asks, tmp_path):
    file = tmp_path / "approved-apps"
    file.write_text(f"# of root\n{MINE}\n")
    assert asks.approved() == {MINE}
    os.chown(file, 12345, 12345)
    assert not asks.approved()


def test_a_coordinator_that_sends_many_apps_fills_neither_the_disk_nor_the_list(asks, tmp_path):
    for number in range(12):
        asks.add(bundle(many=str(number)), number)
    assert len(asks.pending()) == len(list((tmp_path / "asks").glob("*.fab"))) == 8


def test_a_name_that_would_control_a_terminal_is_written_out(asks):
    from tests.unit.test_site_policy import PROJECT

    asks.add(bundle(**{"pyproject.toml": PROJECT.replace("1.0", "\\u001b[2J")}), 5)
    [ask] = asks.pending()
    assert ask.app == "me/mine ?[2J"


def test_a_machine_of_somebody_else_is_not_approved_for(monkeypatch, tmp_path):
    """Who did not create the VM cannot compute its token: they are told so, and no attribute is written."""
    vm = SimpleNamespace(id=VM, creator="3", started=1, attributes={})
    wrote = []
    core = SimpleNamespace(
        token_password=("4", "x" * 40), vm=lambda _: vm, set_vm_attribute=lambda *said: wrote.append(said)
    )
    site = SiteMachines(SimpleNamespace(core=core))
    with pytest.raises(OneflowerError, match="Only the user who created lab/one"):
        site.approve_on(VM, MINE, "lab/one")
    vm.creator = "4"
    core.token_password = ("4", "short")
    with pytest.raises(OneflowerError, match="TOKEN_PASSWORD of 32 characters"):
        site.approve_on(VM, MINE, "lab/one")
    assert not wrote
    core.token_password = ("4", "x" * 40)
    assert site.approve_on(VM, MINE, "lab/one") == "lab/one"
    assert wrote[0][:2] == (VM, APPROVED)
