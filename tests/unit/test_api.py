"""The Python API: its examples run, and the commands use it."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import pytest
from typer.testing import CliRunner

import oneflower
from oneflower import api
from oneflower.cli.app import app
from oneflower.cloud import Endpoints, Federation, FederationStatus, Logs, RunResult, VmStatus, federation
from oneflower_appliance.runs import RunRow

README = (Path(__file__).parents[2] / "README.md").read_text()
STATUS = FederationStatus(7, "lab", "RUNNING", 2, vms=(VmStatus(1, "superlink_0", "superlink", "running", ready=True),))
ROW = {"round": 1, "rounds": 1, "seconds": 1, "nodes": 2, "failures": 0, "server": {"loss": 1.0, "accuracy": 0.75}}


def example_in(docstring):
    """Return the code of a docstring: its indented lines."""
    return textwrap.dedent("\n".join(re.findall(r"^(?: {4}.*)?$", docstring, re.MULTILINE)))


EXAMPLES = {
    "README": re.search(r"```python\n(.*?)```", README, re.DOTALL)[1],
    "api": example_in(api.__doc__),
    "federation": example_in(federation.__doc__),
}


@pytest.fixture
def deployed(monkeypatch):
    """The federation that is deployed or found: it takes the calls that one takes, with the same arguments."""
    cloud = SimpleNamespace(endpoints=Endpoints("http://127.0.0.1:1", "http://127.0.0.1:2", "user:password"))
    made = create_autospec(Federation(cloud, 7, "lab"), spec_set=True)
    made.id, made.name, made.cloud = 7, "lab", cloud
    made.__enter__.return_value = made
    made.run.return_value = made.resume.return_value = made.fetch_model.return_value = RunResult(
        "5", "app", (RunRow.parse(json.dumps(ROW)),), 1.0
    )
    made.status.return_value = made.scale.return_value = made.recover.return_value = STATUS
    made.logs.return_value = Logs(("said by OneFlow",), STATUS.vms, {"superlink_0": ["said by the VM"]})
    made.leaving.return_value = []
    for name, found in (("deploy", made), ("find", made), ("all", [])):
        monkeypatch.setattr(Federation, name, create_autospec(getattr(Federation, name), return_value=found))
    monkeypatch.setattr(api, "local_cloud", create_autospec(api.local_cloud, return_value=cloud))
    return made


@pytest.mark.parametrize("where", EXAMPLES)
def test_an_example_of_the_python_api_runs(where, deployed, capsys):
    names = {"cloud": oneflower.local_cloud(), "Federation": Federation}
    exec(compile(EXAMPLES[where], where, "exec"), names)  # noqa: S102 - our own code
    assert Federation.deploy.called
    assert deployed.__exit__.called, "the federation is removed"
    assert capsys.readouterr().out.startswith("0.75")


@pytest.mark.parametrize(
    ("command", "method"),
    [
        ("up lab", "deploy"),
        ("show lab", "status"),
        ("logs lab", "logs"),
        ("run image-classification", "run"),
        ("run --resume 4", "resume"),
        ("model lab", "fetch_model"),
        ("model lab --best --metric f1", "fetch_model"),
        ("scale lab 3", "scale"),
        ("recover lab", "recover"),
        ("down lab", "delete"),
    ],
)
def test_a_command_uses_the_method_that_readme_names(command, method, deployed):
    assert f"`{method}()`" in README
    done = CliRunner().invoke(app, command.split(), catch_exceptions=False)
    assert done.exit_code == 0
    called = {name for name, _, _ in deployed.method_calls}
    assert Federation.deploy.called if method == "deploy" else method in called
