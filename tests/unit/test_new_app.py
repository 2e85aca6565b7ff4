"""`oneflower new`: what it writes is an app, and what it refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest

from oneflower.cli.apps import Framework
from oneflower.cloud.apps import load_app
from oneflower.scaffold.new_app import FRAMEWORKS, write_app
from oneflower_appliance.errors import ExitCode, OneflowerError


def test_the_command_offers_every_framework():
    assert [str(framework) for framework in Framework] == list(FRAMEWORKS)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_new_app_is_a_flower_app_without_faults(tmp_path, framework):
    app = write_app("my-app", framework, tmp_path)
    found = load_app(str(app.folder), {})
    assert found.name == "my-app"
    assert found.run_config({}, 7, {"local-epochs": "2"}) == {"num-server-rounds": 7, "local-epochs": 2}
    assert {str(path) for path in app.files} == {
        str(path.relative_to(app.folder)) for path in app.folder.rglob("*") if path.is_file()
    }
    for path in app.files:
        assert "$" not in (app.folder / path).read_text().replace("\n$ ", "\n")
        assert (app.folder / path).stat().st_mode & 0o777 == 0o644
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, app.folder], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "needs letters"),
        ("9lives", "needs letters"),
        ("my_app", "needs letters"),
        ("my--app", "needs letters"),
        ("app-", "needs letters"),
        ("../app", "needs letters"),
        ("größe", "needs letters"),
        ("app\n", "needs letters"),
        ("a" * 33, "at most 32 characters"),
        ("class", "another meaning"),
        ("json", "another meaning"),
        ("torch", "another meaning"),
        ("Flwr", "another meaning"),
        ("image-classification", "a pre-built app has it"),
    ],
)
def test_names_that_flower_or_python_cannot_use_are_refused(tmp_path, name, why):
    with pytest.raises(OneflowerError, match=why) as refused:
        write_app(name, "sklearn", tmp_path)
    assert refused.value.code is ExitCode.USAGE
    assert not list(tmp_path.iterdir())


def test_what_is_there_already_is_not_touched(tmp_path):
    (tmp_path / "mine").symlink_to("nowhere")
    with pytest.raises(OneflowerError, match="mine exists already"):
        write_app("mine", "sklearn", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_app_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OneflowerError("Cannot write: the disk is full.")

    monkeypatch.setattr("oneflower.scaffold.new_app.write_atomic", fail)
    with pytest.raises(OneflowerError, match="the disk is full"):
        write_app("mine", "sklearn", tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(OneflowerError, match="Cannot write in"):
        write_app("mine", "sklearn", tmp_path / "missing")
