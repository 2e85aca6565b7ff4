"""The operator's commands about other sites: what they send, and what they print."""

from __future__ import annotations

import io
import json
import stat
from dataclasses import replace

import pytest
from click.testing import CliRunner
from typer.main import get_command

from oneflower import moments
from oneflower.cli import sites
from oneflower.cli.app import app
from oneflower.cloud.card import participation
from oneflower.cloud.sites import Sites as RealSites
from oneflower.cloud.sites import SiteStatus, Target
from oneflower.cloud.status import FederationStatus
from oneflower.opennebula import ServiceKind, ServiceOptions, merge_template, service_template
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.invitation import Invitation
from oneflower_appliance.node_reports import NodeReport
from oneflower_appliance.settings import Bounds, resolve
from oneflower_appliance.sites import site_of

INVITATION = Invitation.make("north", 2, "coordinator:9092", "ab" * 32)
NODE = {
    "number": 0,
    "standing": "asked",
    "online": False,
    "fingerprint": "f" * 32,
    "node": "",
    "asked": "",
    "address": "10.0.0.9",
}
NORTH = {
    "name": "north",
    "places": 2,
    "open": True,
    "expires": 4e9,
    "approves": False,
    "suspended": False,
    "nodes": [NODE],
}


class Sites:
    """The sites of a federation, which remember what they were asked."""

    def __init__(self):
        self.asked, self.found = [], (SiteStatus.parse(NORTH),)

    def invite(self, site, *wish, **more):
        self.asked.append((site, *wish, more))
        return replace(INVITATION, site=site)

    def all(self):
        return self.found

    def wait_online(self, names):
        return []

    def __getattr__(self, name):
        def ask(*wish):
            self.asked.append((name, *map(str, wish)))
            return ["north/0"]

        return ask


@pytest.fixture
def known(monkeypatch):
    found = Sites()
    monkeypatch.setattr(sites, "_sites", lambda _name: found)
    return found


@pytest.fixture
def command(known):
    def run(*arguments):
        return CliRunner().invoke(get_command(app), list(arguments), standalone_mode=False, catch_exceptions=False)

    return run


def test_an_invitation_is_the_only_line_on_standard_output_or_in_a_private_file(command, known, tmp_path):
    done = command("invite", "lab", "--site", "north", "--nodes", "2", "--expires", "12h")
    assert done.stdout == INVITATION.text() + "\n"
    assert known.asked == [("north", 2, 43200.0, {"approves": False, "endpoint": ""})]
    file = tmp_path / "north"
    done = command("invite", "lab", "--site", "north", "--nodes", "2", "--file", str(file), "-o", "json")
    assert [each["file"] for each in json.loads(done.stdout)] == [str(file)]
    assert INVITATION.text() not in done.output
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == (INVITATION.text() + "\n", 0o600)
    done = command("invite", "lab", "--site", "east", "--site", "west", "--file", str(tmp_path))
    texts = [(tmp_path / f"{site}.invitation").read_text() for site in ("east", "west")]
    assert [Invitation.parse(text).site for text in texts] == ["east", "west"]
    assert (done.stdout, "At the site: oneflower join west.invitation" in done.stderr) == ("", True)
    for wrong in (("--site", "east", "--site", "west", "--file", str(file)), ("--site", "east", "--site", "east")):
        with pytest.raises(OneflowerError) as refused:
            command("invite", "lab", *wrong)
        assert refused.value.code is ExitCode.USAGE
    assert len(known.asked) == 4, "nobody was invited by those"
    with pytest.raises(OneflowerError, match="--expires 'soon' is not a duration"):
        moments.duration("soon", "--expires")


def test_who_asks_is_shown_with_the_command_that_approves_exactly_those_keys(command, known):
    done = command("sites", "lab")
    assert "north/0  asked     no      " + "f" * 32 + "  10.0.0.9" in done.stdout
    assert "north: 0 of 2 nodes, its invitation can be used until 2096-" in done.stdout
    assert f"approve lab --key {'f' * 32}" in done.stderr
    assert json.loads(command("sites", "lab", "-o", "json").stdout)[0]["nodes"][0]["fingerprint"] == "f" * 32
    command("approve", "lab", "--key", "f" * 32)
    assert known.asked == [("approve", "[]", str(["f" * 32]))]
    for wrong in ((), ("north", "--all"), ("--key", "f", "--all")):
        with pytest.raises(OneflowerError) as refused:
            command("approve", "lab", *wrong)
        assert refused.value.code is ExitCode.USAGE
    assert len(known.asked) == 1, "nobody was approved by those"


def test_several_sites_are_approved_by_their_keys_or_all_that_ask_and_a_key_too_many_approves_nobody(monkeypatch):
    south = NORTH | {"name": "south", "nodes": [NODE | {"fingerprint": "a" * 32}]}
    there = NORTH | {"name": "there", "nodes": [NODE | {"fingerprint": "b" * 32, "standing": "suspended"}]}
    found, done = [SiteStatus.parse(said) for said in (NORTH, south, there)], []
    made = RealSites(None, None)
    monkeypatch.setattr(made, "all", lambda: tuple(found))
    monkeypatch.setattr(made, "_change", lambda _, target, keys: done.append((str(target), list(keys))) or [])
    made.approve((), ["a" * 32, "f" * 32])
    assert done == [("north", ["f" * 32]), ("south", ["a" * 32])]
    done.clear()
    made.approve()
    assert done == [("north", ["f" * 32]), ("south", ["a" * 32])], "who was suspended is not among those that ask"
    done.clear()
    made.approve(["north/0", "there"])
    assert done == [("north/0", []), ("there", [])]
    with pytest.raises(OneflowerError, match=f"No node here has the key {'c' * 32}, so nobody was approved"):
        made.approve((), ["a" * 32, "c" * 32])
    assert len(done) == 2
    assert made.wait_online(["north/0"], 0) == ["north/0"]
    found[0] = SiteStatus.parse(NORTH | {"nodes": [NODE | {"online": True}]})
    assert made.wait_online(["north/0"], 0) == []


@pytest.mark.parametrize("action", ["approve", "suspend", "remove", "uninvite"])
def test_a_change_is_told_by_the_names_of_the_nodes(command, known, action):
    what = {"approve": "takes part", "suspend": "is suspended", "remove": "is removed", "uninvite": "stays"}[action]
    assert command(action, "lab", "north").stdout.endswith(f"north/0 {what}.\n")
    assert json.loads(command(action, "lab", "north", "-o", "json").stdout) == {"nodes": ["north/0"]}


@pytest.mark.parametrize("text", ["North", "north/", "north/x", "north/12345", "../runs", "north/0/1", ""])
def test_what_is_neither_a_site_nor_a_node_is_refused(text):
    with pytest.raises(OneflowerError, match="neither a site nor one of its nodes"):
        Target.parse(text)
    assert str(Target.parse("north/3")) == "north/3"


def test_an_invitation_on_the_command_line_is_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(OneflowerError, match="other users can see what a command is called with") as refused:
        sites.read_invitation(INVITATION.text())
    assert (refused.value.code, INVITATION.text() in str(refused.value)) == (ExitCode.USAGE, False)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{INVITATION.text()}\n"))
    assert sites.read_invitation("-") == INVITATION.text()
    file = tmp_path / "north"
    file.write_text(INVITATION.text())
    file.chmod(0o644)
    assert sites.read_invitation(str(file)) == INVITATION.text()
    assert f"chmod 600 {file}" in capsys.readouterr().err
    for content, code in (("x", ExitCode.INVALID_INPUT), (None, ExitCode.NOT_FOUND)):
        file.unlink() if content is None else file.write_text(content)
        with pytest.raises(OneflowerError) as refused:
            sites.read_invitation(str(file))
        assert refused.value.code is code


def test_joining_deploys_a_site_with_the_invitation_as_a_variable_of_its_supernodes(command, monkeypatch, tmp_path):
    file, deployed = tmp_path / "north", []
    file.write_text(INVITATION.text())
    file.chmod(0o600)

    class Deployed:
        def status(self):
            return FederationStatus(1, "north", "RUNNING", 2, endpoint="coordinator:9092")

    def deploy(*arguments, **more):
        deployed.append((*arguments[1:], more))
        return Deployed()

    monkeypatch.setattr(sites, "deploy", deploy)
    monkeypatch.setattr(sites.Session, "cloud", deployed.append)
    done = command("join", str(file), "--set", "FL_DATA_PATH=/data")
    assert done.stdout == "north has joined: 2 SuperNodes of the SuperLink coordinator:9092.\n"
    template, (name, number, given, limits, _, more) = deployed
    assert (template, name, number, limits, more) == ("oneflower-site", "north", 2, (1, 2), {"keep": True})
    assert given == {
        "FL_SUPERLINK_ADDRESS": "coordinator:9092", "FL_DATA_PATH": "/data", "FL_INVITATION": INVITATION.text(),
    }  # fmt: skip


def test_an_invitation_reaches_the_context_of_the_supernodes_and_no_input():
    template = service_template(ServiceOptions(kind=ServiceKind.SITE))
    settings = resolve({"FL_INVITATION": INVITATION.text()}, ServiceKind.SITE.levels)
    merged = merge_template(template, "north", settings, Bounds(1, 4, 4))
    [role] = merged["roles"]
    assert role["template_contents"]["CONTEXT"] == {"FL_INVITATION": INVITATION.text()}
    role["template_contents"] = {}
    assert INVITATION.text() not in json.dumps([merged, template])
    given = {"FL_INVITATION": INVITATION.text()}
    assert list(ServiceKind.SITE.problems(given, given)) == []


def test_the_card_says_in_how_many_rounds_each_site_took_part():
    said = [
        (1, "north/0", "train", ""), (1, "north/1", "train", ""), (1, "south/0", "train", "no reply"),
        (1, "south/0", "evaluate", ""), (2, "north/0", "train", ""), (2, "supernode_0", "train", ""),
    ]  # fmt: skip
    reports = [NodeReport(number, "7", phase, fault, name=name) for number, name, phase, fault in said]
    assert participation(reports) == [("north", 2, 2, 0), ("south", 0, 0, 1)]
    assert [site_of(name) for name in ("north/12", "north", "North/1", "north/x", "/1")] == ["north", "", "", "", ""]
