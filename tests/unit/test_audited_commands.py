"""Whatever changes the cloud or a federation is in the operator's audit log, before it is done."""

from __future__ import annotations

import inspect
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from oneflower.cli.app import app
from oneflower.cloud import Federation
from oneflower.cloud.audit import read_own
from oneflower.cloud.credentials import Endpoints
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.invitation import Invitation
from oneflower_appliance.run_folder import MODEL
from oneflower_appliance.run_state import RunState
from oneflower_appliance.settings import Bounds
from tests.unit.test_site_policy import bundle

# What each command that changes something is called here, and the actions that it records.
CHANGING = {
    "demo": (["demo"], {"deploy"}),
    "up": (["up", "lab"], {"deploy"}),
    "run": (["run", "image-classification"], {"run"}),
    "model": (["model", "lab"], {"fetch a model"}),
    "down": (["down", "lab"], {"remove"}),
    "scale": (["scale", "lab", "3"], {"scale"}),
    "recover": (["recover", "lab"], {"recover"}),
    "upgrade": (["upgrade", "lab"], {"upgrade"}),
    "join": (["join", "invitation"], {"deploy"}),
    "invite": (["invite", "lab", "--site", "north"], {"site.invite"}),
    "approve": (["approve", "lab", "north/2"], {"site.approve"}),
    "suspend": (["suspend", "lab", "north"], {"site.suspend"}),
    "remove": (["remove", "lab", "north"], {"site.remove"}),
    "rotate": (["rotate", "lab"], {"ca.replace"}),
    "uninvite": (["uninvite", "lab", "north"], {"site.uninvite"}),
    "register": (["register"], {"register"}),
    "unregister": (["unregister"], {"unregister"}),
    "policy approve": (["policy", "approve", "app", "--yes", "--policy", "policy.toml"], {"policy.approve"}),
    "trust add": (["trust", "add", "alice", "alice.pub", "--policy", "policy.toml"], {"trust.add"}),
    "trust rm": (["trust", "rm", "alice", "--policy", "policy.toml"], {"trust.remove"}),
    "track": (["track", "lab", "--to", "tensorboard"], {"fetch a model"}),
}
MORE = {
    "run": (["run", "--resume", "5"], {"resume"}),
    "down": (["down", "--all"], {"remove"}),
    "register": (["register", "--dry-run"], set()),
    "upgrade": (["upgrade", "lab", "--dry-run"], set()),
    "rotate": (["rotate", "lab", "--node-keys"], {"node.keys"}),
    "unregister": (["unregister", "--dry-run"], set()),
}
READING = {"ls", "show", "logs", "audit", "sites", "connect", "doctor", "metrics render", "policy asks", "local status", "cache show",
           "policy budget", "context ls", "context show"}  # fmt: skip
HERE_ONLY = {  # files, images, the cache, the daemon of the local cloud, contexts, and policies for what comes later
    "context add", "context use", "context rm",
    "policy example", "policy check", "policy hash", "policy ls", "trust ls", "sign",
    "new", "bundle", "render", "validate", "marketplace render", "image build", "image test", "cache clean",
    "local serve", "local step", "local stop",
}  # fmt: skip
BY_THE_API = {"ui"}  # the page, which has nothing but the Python API

# The same for the Python API, which the page and notebooks use.
BOUNDS = Bounds()
METHODS = {
    "begin": (lambda fed: type(fed).begin(fed.cloud, "lab", {}, BOUNDS), "deploy"),
    "deploy": (lambda fed: type(fed).deploy(fed.cloud, name="lab"), "deploy"),
    "run": (lambda fed: fed.run("image-classification"), "run"),
    "submit": (lambda fed: fed.submit("image-classification"), "run"),
    "stop": (lambda fed: fed.stop("5"), "stop"),
    "resume": (lambda fed: fed.resume("5"), "resume"),
    "fetch_model": (lambda fed: fed.fetch_model("model.npz"), "fetch a model"),
    "scale": (lambda fed: fed.scale(3), "scale"),
    "recover": (lambda fed: fed.recover(), "recover"),
    "upgrade": (lambda fed: fed.upgrade("1.42.0"), "upgrade"),
    "fetch_files": (lambda fed: fed.fetch_files(Path("files"), "5"), "fetch a model"),
    "close": (lambda fed: fed.close(), "remove"),
    "roll_back": (lambda fed: fed.roll_back(), "remove"),
    "delete": (lambda fed: fed.delete(), "remove"),
}
READERS = {
    "all", "audit", "check", "control", "defaults", "find", "follow", "follow_logs", "installed", "keeps_consoles",
    "leaving", "logs", "remains", "reports", "rotation", "runs", "sites", "status", "upgrade_plan", "wait_ready", "wait_trained",
}  # fmt: skip


class Refusing:
    """A part of a cloud that does nothing and answers no question."""

    def __getattr__(self, name):
        def refuse(*_args, **_more):
            raise OneflowerError(f"It does not {name}.", "")

        return refuse


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    surroundings = SimpleNamespace(audit=lambda: tmp_path / "audit")
    endpoints = Endpoints("http://one:2474", "http://one:2633/RPC2", "alice:secret")
    found = SimpleNamespace(
        surroundings=surroundings, endpoints=endpoints, tell=print, core=Refusing(), oneflow=Refusing()
    )
    status = SimpleNamespace(id=7, name="lab", names={}, partitions={}, ready=False, state="FAILED", settings={})
    lab = Federation(found, 7, "lab")
    monkeypatch.setattr("oneflower.cli.session.Session.cloud", lambda *_: found)
    monkeypatch.setattr(Federation, "find", lambda *_: lab)
    monkeypatch.setattr(Federation, "all", lambda *_: iter([lab]))
    monkeypatch.setattr(Federation, "status", lambda _: status)
    monkeypatch.setattr("oneflower.cloud.service.Service.status", lambda _: status)
    monkeypatch.setattr("oneflower.cloud.sites._endpoint", lambda *_: "192.0.2.1:9092")
    monkeypatch.setattr("oneflower.cloud.sites.ca_fingerprint", lambda _: "0" * 64)
    monkeypatch.setattr("oneflower.cloud.rotation.ca_fingerprint", lambda _: "0" * 64)
    monkeypatch.setattr(Federation, "leaving", lambda *_: [])
    link = SimpleNamespace(runs=lambda: [RunState("5", "a/b", "running")], json=lambda _: [MODEL])
    monkeypatch.setattr("oneflower.cloud.superlink.reach", lambda *_: nullcontext(link))
    monkeypatch.setattr("oneflower.cli.policy._bundle", lambda *_: bundle())
    monkeypatch.setenv("ONEFLOWER_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alice.pub").write_text("no key")
    (tmp_path / "invitation").write_text(Invitation.make("north", 1, "192.0.2.1:9092", "0" * 64).text())
    return found


def commands(group, before=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*before, name))
        else:
            yield " ".join((*before, name))


def actions(cloud):
    found = [(entry["action"], entry["outcome"]) for entry in read_own(cloud).entries]
    assert all(outcome == "begun" for _, outcome in found[::2])
    return {action for action, _ in found}


def test_every_command_and_every_method_is_known_to_change_something_or_not():
    known = [CHANGING, READING, HERE_ONLY, BY_THE_API]
    assert set(commands(typer.main.get_command(app))) == set().union(*known)
    assert sum(map(len, known)) == len(set().union(*known))
    methods = {name for name, _ in inspect.getmembers(Federation) if not name.startswith("_")}
    assert methods == METHODS.keys() | READERS


@pytest.mark.parametrize(("arguments", "recorded"), [*CHANGING.values(), *MORE.values()])
def test_a_command_that_changes_something_records_it_before(cloud, arguments, recorded):
    CliRunner().invoke(app, arguments + (["--force"] if arguments[0] == "unregister" else []))
    assert actions(cloud) == recorded


@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_changes_something_records_it_before(cloud, method):
    call, recorded = METHODS[method]
    with suppress(OneflowerError, AttributeError):
        call(Federation.find())
    assert actions(cloud) == {recorded}
