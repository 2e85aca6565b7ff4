"""Contexts: which cloud a command speaks to, and that nobody else can change it or read the credentials."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from oneflower import api
from oneflower.cli.app import app
from oneflower.cli.session import Session
from oneflower.cloud import Federation, FederationStatus
from oneflower.contexts import CloudName, Context, Contexts, choose, default_file
from oneflower.opennebula import ServiceKind
from oneflower_appliance.errors import ExitCode, OneflowerError

NORTH = Context("north", home="/srv/north")
URLS = ("http://one:2474", "http://one:2633/RPC2")


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """Give each test a user of its own, and leave no context behind."""
    for name in ("ONEFLOWER_HOME", "ONEFLOWER_CONTEXT", "ONEFLOWER_CLOUD", "ONEFLOWER_CLOUD_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    yield
    Session.chosen, Session.contexts = Context(), Contexts(Path())


def written(text, mode=0o600):
    path = default_file()
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def run(*arguments, **environment):
    return CliRunner().invoke(app, list(arguments), env=environment)


def test_contexts_are_added_used_shown_and_removed_and_the_file_is_the_users_alone(tmp_path):
    auth = tmp_path / "auth"
    auth.write_text("me:pass:word\n", encoding="utf-8")
    auth.chmod(0o600)
    assert run("context", "add", "north", "--cloud", "local", "--home", str(tmp_path / "n")).exit_code == 0
    south = ("--cloud", "opennebula", "--oneflow", URLS[0], "--xmlrpc", URLS[1], "--auth", str(auth))
    assert run("context", "add", "south", *south).exit_code == 0
    file = default_file()
    assert file.stat().st_mode & 0o777 == 0o600
    assert "pass:word" not in file.read_text(encoding="utf-8")
    assert run("context", "show").stdout.startswith(f"north: cloud local, {tmp_path}/n"), "the first one is in use"
    assert run("context", "use", "south").exit_code == 0
    found = json.loads(run("context", "ls", "-o", "json").stdout)
    assert [(each["name"], each["in_use"]) for each in found] == [("north", False), ("south", True)]
    cloud = api.connect(Contexts.load().get("south"))
    assert (cloud.endpoints.oneflow, cloud.endpoints.login) == (URLS[0], ("me", "pass:word"))
    cloud.close()
    assert run("context", "rm", "south").exit_code == 0
    assert Contexts.load().current == ""
    assert isinstance(run("context", "use", "south").exception, OneflowerError)
    assert isinstance(run("context", "add", "north", *south).exception, OneflowerError), "it is not replaced silently"


@pytest.mark.parametrize(("arguments", "environment", "expected"), [
    ((), {}, "north"),
    ((), {"ONEFLOWER_CONTEXT": "south"}, "south"),
    (("--context", "north"), {"ONEFLOWER_CONTEXT": "south", "ONEFLOWER_CLOUD": "opennebula"}, "north"),
    (("--cloud", "opennebula"), {"ONEFLOWER_CONTEXT": "north"}, "opennebula"),
    ((), {"ONEFLOWER_CLOUD": "opennebula"}, "opennebula"),
    ((), {"ONEFLOWER_HOME": "/srv/other"}, "local"),
    (("--context", "south"), {"ONEFLOWER_HOME": "/srv/other"}, "south"),
])  # fmt: skip
def test_the_command_line_counts_before_the_environment_and_that_before_the_file(arguments, environment, expected):
    written(
        'current = "north"\n[contexts.north]\ncloud = "local"\nhome = "/srv/north"\n'
        '[contexts.south]\ncloud = "local"\nhome = "/srv/south"\n'
    )
    assert run(*arguments, "context", "show", **environment).stdout.partition(":")[0] == expected
    if expected in ("north", "south"):
        assert Session.home().state == Path(f"/srv/{expected}")


def test_another_file_is_read_instead_and_without_one_the_usual_cloud_counts(tmp_path):
    assert choose(Contexts.load(), "", None) == Context()
    other = tmp_path / "other.toml"
    Contexts(other, {"north": NORTH}, "north").save()
    for found in (run("--cloud-config", str(other), "context", "show"),
                  run("context", "show", ONEFLOWER_CLOUD_CONFIG=str(other))):  # fmt: skip
        assert found.stdout.startswith("north: cloud local, /srv/north")
    with pytest.raises(OneflowerError, match="There is no file"):
        Contexts.load(tmp_path / "missing.toml")
    with pytest.raises(OneflowerError, match="north is a cloud local, not opennebula"):
        choose(Contexts(other, {"north": NORTH}), "north", CloudName.OPENNEBULA)


def test_a_file_that_others_may_change_decides_nothing():
    """Who changes it would get the credentials sent to a server of theirs."""
    for mode in (0o620, 0o602, 0o666):
        path = written('current = "north"\n', mode)
        with pytest.raises(OneflowerError, match=f"Others may change {path}"):
            Contexts.load()


@pytest.mark.parametrize(("mode", "text", "said"), [
    (0o640, "me:secret", "Others may read"),
    (0o600, "nothing", "has no line `user:password`"),
    (0o600, None, "cannot be read"),
])  # fmt: skip
def test_credentials_that_others_may_read_or_that_are_none_are_not_used(tmp_path, mode, text, said):
    auth = tmp_path / "auth"
    if text is not None:
        auth.write_text(text, encoding="utf-8")
        auth.chmod(mode)
    context = Context("south", CloudName.OPENNEBULA, "", *URLS, str(auth)).check()
    with pytest.raises(OneflowerError, match=said) as caught:
        api.connect(context)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("text", "said"), [
    ("nonsense", "cannot be read"),
    ("other = 1", "other is not expected"),
    ("contexts = 3", "is not a file with contexts"),
    ("[contexts]\nnorth = 3", "is not a table of texts"),
    ('[contexts.north]\nhome = "/x"', "has no `cloud`"),
    ('[contexts.north]\ncloud = "local"', "needs home"),
    ('[contexts.north]\ncloud = "local"\nhome = "x"', "not an absolute path"),
    ('[contexts.north]\ncloud = "opennebula"\npassword = "x"', "password of the context north is not known"),
    ('[contexts.north]\ncloud = "opennebula"\noneflow = "one"\nxmlrpc = "two"\nauth = "/a"', "is not a URL"),
    ('[contexts."a b"]\ncloud = "local"\nhome = "/x"', "cannot be the name of a context"),
    ('current = "gone"', "no context called 'gone'"),
])  # fmt: skip
def test_what_is_wrong_with_a_file_is_said(text, said):
    written(text)
    with pytest.raises(OneflowerError, match=said):
        choose(Contexts.load(), "", None)


def test_a_context_that_is_gone_from_the_file_can_be_replaced_by_one_that_is_there():
    written('current = "gone"\n[contexts.north]\ncloud = "local"\nhome = "/srv/north"\n')
    assert run("--context", "north", "context", "use", "north").exit_code == 0
    assert run("context", "show").stdout.startswith("north")


def test_all_contexts_are_listed_even_if_one_does_not_answer(monkeypatch, tmp_path):
    Contexts(default_file(), {name: Context(name, home=str(tmp_path / name)) for name in ("gone", "north")}).save()

    def connect(_cls, context):
        if context.name == "gone":
            raise OneflowerError("Nobody answers.", "", ExitCode.CLOUD)
        return SimpleNamespace(close=lambda: None)

    def federations(_cloud):
        status = FederationStatus(3, "study", "RUNNING", 0, ServiceKind.COORDINATOR, endpoint="10.0.0.5:9092")
        return [SimpleNamespace(status=lambda: status)]

    monkeypatch.setattr(Session, "connect", classmethod(connect))
    monkeypatch.setattr(Federation, "all", federations)
    text = run("ls", "--all-contexts")
    assert text.exit_code == ExitCode.CLOUD
    assert text.stdout.split()[8:] == ["north", "3", "study", "coordinator", "RUNNING", "0/0", "-", "10.0.0.5:9092"]
    [entry] = json.loads(run("ls", "--all-contexts", "-o", "json").stdout)
    assert (entry["context"], entry["kind"]) == ("north", "coordinator")
