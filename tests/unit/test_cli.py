"""The command line as people use it, in its own process; no test here needs a federation."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from oneflower.cli.app import app

from . import forked

COMMANDS = [
    "demo",
    "up",
    "run",
    "down",
    "ls",
    "show",
    "logs",
    "scale",
    "recover",
    "connect",
    "register",
    "unregister",
    "render",
    "validate",
    "doctor",
    "local",
]


@pytest.fixture
def oneflower(tmp_path):
    def run(*arguments, stdin=None, **environment):
        own = {"ONEFLOWER_HOME": str(tmp_path / "home"), "COLUMNS": "200", "NO_COLOR": "1"}
        return forked.run(
            "oneflower.cli", *arguments, stdin=stdin, cwd=tmp_path, env={**os.environ, **own, **environment}
        )

    yield run
    if (tmp_path / "home").exists():
        run("local", "stop")


@pytest.fixture(scope="module")
def running_home(tmp_path_factory):
    """A home in which a cloud stays, for commands that change nothing: to start one each time takes a while."""
    home = tmp_path_factory.mktemp("home")
    yield str(home)
    forked.run("oneflower.cli", "local", "stop", env={**os.environ, "ONEFLOWER_HOME": str(home)})


def test_help_teaches(oneflower):
    text = oneflower("--help").stdout
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", text)
    assert "oneflower demo" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(oneflower, command):
    done = oneflower(command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_no_command_is_a_usage_error_and_version_is_not(oneflower):
    assert oneflower("--version").stdout.startswith("oneflower 0.")
    assert oneflower("nonsense").returncode == 2
    assert oneflower("up", "--supernodes", "two").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["up", "--set", "FL_NUM_ROUNDS=0", "--set", "FL_TLS_ENABLED=x"], 3, "2 settings are not valid"),
        (["up", "--set", "NUM_ROUNDS=3"], 3, "did you mean FL_NUM_ROUNDS?"),
        (["up", "--set", "FL_NUM_ROUNDS"], 2, "NAME=VALUE"),
        (["up", "--set", "FL_SSL_KEYFILE=@nowhere.key"], 4, "FL_SSL_KEYFILE: cannot read nowhere.key"),
        (["up", "--supernodes", "11"], 3, "expected 2 to 10"),
        (["up", "--supernodes", "1"], 3, "expected 2 to 10"),
        (
            ["up", "--set", "FL_MIN_AVAILABLE_CLIENTS=3"],
            3,
            "FL_MIN_AVAILABLE_CLIENTS: is 3; expected at most min_vms (2)",
        ),
        (["up", "--set", "FL_MIN_FIT_CLIENTS=5"], 3, "FL_MIN_AVAILABLE_CLIENTS"),
        (["demo", "--supernodes", "0"], 3, "min_vms"),
        (["render", "--min-vms", "3", "--supernodes", "2"], 3, "expected 3 to 10"),
        (["validate", "missing.json"], 4, "Cannot read missing.json"),
        (["validate", "-"], 3, "is not JSON"),
        (["show", "nobody"], 4, "no federation called 'nobody'"),
        (["scale", "nobody", "3"], 4, "no federation called 'nobody'"),
        (["run", "image-classification"], 4, "There is no federation"),
        (["run", "--resume", "17", "--install"], 2, "keeps its app, its settings, its sites and its packages"),
        (["model", "--metric", "f1"], 2, "Add `--best`."),
        (["--cloud", "opennebula", "ls"], 6, "No OpenNebula credentials"),
    ],
)
def test_bad_input_is_refused_with_a_sentence_and_an_exit_code(
    oneflower, tmp_path, running_home, arguments, code, text
):
    done = oneflower(*arguments, stdin="", HOME=str(tmp_path), ONEFLOWER_HOME=running_home)
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_an_opennebula_that_is_not_there_is_one_sentence(oneflower, tmp_path):
    auth = tmp_path / "one_auth"
    auth.write_text("me:pass:word\n")
    done = oneflower("--cloud", "opennebula", "ls", ONE_AUTH=str(auth), ONEFLOW_URL="http://127.0.0.1:9")
    assert done.returncode == 6
    assert "OneFlow at http://127.0.0.1:9 cannot be reached" in done.stderr
    assert "pass:word" not in done.stderr


@pytest.mark.parametrize("compat", ["6", "7"])
def test_what_is_rendered_is_valid(oneflower, tmp_path, compat):
    rendered = oneflower("render", "--compat", compat)
    assert rendered.returncode == 0
    assert ("OpenNebula 6.8 and 6.10 only" in rendered.stderr) == (compat == "6")
    other = oneflower("validate", "-", "--compat", {"6": "7", "7": "6"}[compat], stdin=rendered.stdout)
    assert (other.returncode, "[other-release]" in other.stdout) == (3, True)
    done = oneflower("validate", "-", "--compat", compat, stdin=rendered.stdout)
    assert (done.returncode, done.stdout) == (0, "No trap found.\n")
    assert "placeholder" in done.stderr
    saved = oneflower("render", "--compat", compat, "--save", "out.json")
    assert "put in the ids of the VM templates (superlink and supernode)" in saved.stderr
    assert (tmp_path / "out.json").read_text() == rendered.stdout
    assert oneflower("render", "--compat", compat, "-o", "json").stdout == rendered.stdout
    given = oneflower("render", "--superlink-template", "1", "--supernode-template", "2", "--save", "out.json")
    assert given.stderr == "Wrote out.json. Next: `oneflow-template create out.json`.\n"


def test_the_form_is_rendered_and_is_valid(oneflower):
    rendered = oneflower("render", "--form", "--superlink-template", "1", "--supernode-template", "2")
    assert "ONEAPP_FLOWER_TRAINING_ROUNDS" in json.loads(rendered.stdout)["user_inputs"]
    assert oneflower("validate", "-", stdin=rendered.stdout).stdout == "No trap found.\n"
    both = oneflower("render", "--form", "--compat", "6")
    assert (both.returncode, "The form is for OpenNebula 7" in both.stderr) == (2, True)


def test_a_vm_template_that_asks_for_inputs_is_a_trap(oneflower):
    text = 'NAME="node"\nMEMORY="4096"\n'
    assert oneflower("validate", "-", stdin=text).stdout == "No trap found.\n"
    done = oneflower("validate", "-", stdin=text + 'USER_INPUTS=[FL_SITE="O|text|Site||"]\n')
    assert (done.returncode, "[vm-template-inputs]" in done.stdout) == (3, True)


def test_a_contribution_is_rendered_and_says_what_comes_next(oneflower, tmp_path):
    about = {"name": "x", "created": 1, "size": 1, "md5": "0" * 32, "sha256": "0" * 64}
    (tmp_path / "x.json").write_text(json.dumps(about))
    words = ["marketplace", "render", "--image", "x.json", "--save", "out"]
    done = oneflower(*words)
    assert (done.returncode, "Give --url https://.../x.qcow2, or --private" in done.stderr) == (2, True)
    done = oneflower(*words, "--url", "https://example.org/x.qcow2")
    assert "add oneflower-sklearn to SERVICES" in done.stdout
    assert (tmp_path / "out/appliances/oneflower-sklearn/appliance.sh").stat().st_mode & 0o111
    done = oneflower(*words, "--private", "-o", "json")
    assert json.loads(done.stdout) == {"script": "out/publish.sh"}


def test_a_trap_is_one_line_and_exit_code_three(oneflower):
    template = json.loads(oneflower("render", "--superlink-template", "1", "--supernode-template", "2").stdout)
    template["ready_status_gate"] = False
    done = oneflower("validate", "-", stdin=json.dumps(template))
    assert done.returncode == 3
    assert len(done.stdout.splitlines()) == 1
    assert "[gate-off]" in done.stdout
    [finding] = json.loads(oneflower("validate", "-", "-o", "json", stdin=json.dumps(template)).stdout)
    assert set(finding) == {"rule", "where", "why", "fix"}


def test_an_empty_cloud_and_removing_nothing(oneflower):
    assert json.loads(oneflower("ls", "-o", "json").stdout) == []
    assert oneflower("down", "nobody").returncode == 0
    assert oneflower("down", "nobody").returncode == 0
    running = json.loads(oneflower("local", "status", "-o", "json").stdout)
    assert running["running"] is True
    assert "oneadmin:" not in json.dumps(running)
    assert "stopped" in oneflower("local", "stop").stdout
    assert "was not running" in oneflower("local", "stop").stdout


def test_doctor_names_what_is_wrong(oneflower, tmp_path):
    good = oneflower("doctor", "-o", "json")
    assert good.returncode == 0
    assert {check["what"] for check in json.loads(good.stdout)} >= {"Python", "loopback addresses", "runtime"}


def test_a_state_folder_that_cannot_be_used_is_one_sentence(oneflower, tmp_path):
    (tmp_path / "file").write_text("")
    done = oneflower("ls", ONEFLOWER_HOME=str(tmp_path / "file" / "home"))
    assert done.returncode == 9
    assert "Cannot write" in done.stderr
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "cloud.db").write_text("this is no database, and long enough to be taken for one" * 30)
    done = oneflower("ls", ONEFLOWER_HOME=str(broken))
    assert done.returncode == 9
    assert "cannot be used" in done.stderr


def test_nothing_heavy_is_imported_for_help():
    script = "import sys; import oneflower.cli.app; print(*sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"httpx", "pyone", "matplotlib", "flwr", "uvicorn", "starlette", "cryptography", "psutil"} & set(modules)


@pytest.mark.e2e
def test_serving_for_foreign_tools_with_a_clock_that_is_stepped(oneflower, tmp_path):
    environment = {**os.environ, "ONEFLOWER_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", "from oneflower.cli import main; main()", "local", "serve", "--pace", "stepped"]
    serving = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        lines = [serving.stdout.readline().removeprefix("export ").strip() for _ in range(3)]
        variables = dict(line.split("=", 1) for line in lines)
        assert set(variables) == {"ONEFLOW_URL", "ONE_XMLRPC", "ONE_AUTH"}
        cloud = ["--cloud", "opennebula"]
        assert json.loads(oneflower(*cloud, "ls", "-o", "json", **variables).stdout) == []
        again = oneflower("local", "serve")
        assert (again.returncode, "already runs" in again.stderr) == (5, True)
        assert oneflower("local", "step", "30").stdout == "30 s have passed.\n"
        planned = json.loads(oneflower(*cloud, "register", "--dry-run", "-o", "json", **variables).stdout)
        kinds = [change["kind"] for change in planned["changes"]]
        assert kinds == ["create"] * 8, "two VM templates, and two service templates for each kind of service"
        assert "id 0" in oneflower(*cloud, "register", "--network", "loopback", **variables).stdout
        removed = oneflower(*cloud, "unregister", **variables)
        assert removed.stdout.splitlines()[0] == "- service template oneflower"
        assert "Nothing is registered" in oneflower(*cloud, "unregister", **variables).stdout
    finally:
        serving.send_signal(signal.SIGINT)
        _, said = serving.communicate(timeout=20)
    assert serving.returncode == 0
    assert said.endswith("The local cloud is stopped.\n")


@pytest.mark.parametrize("module", ["oneflower.cli.entry", "click", "oneflower.cli.app", "oneflower.api"])
def test_an_interrupt_while_modules_are_loaded_is_one_word(tmp_path, module):
    """From the first import on: we cannot change what Python does before that."""
    script = f"""
import importlib.abc, os, signal, sys

class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from oneflower.cli import main
main()
"""
    environment = {**os.environ, "ONEFLOWER_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", script, "ls"], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


def test_before_the_first_answer_to_an_interrupt_next_to_nothing_is_loaded():
    script = "import sys; before = set(sys.modules); import oneflower.cli; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"oneflower", "oneflower.cli", "__future__"}


@pytest.mark.parametrize("name", ["../../x", "", "lab\nevil", "x" * 300, "\x1b]0;owned\x07"])
def test_a_name_is_checked_before_anything_else(oneflower, tmp_path, name):
    done = oneflower("up", name)
    assert done.returncode == 3
    assert "cannot be the name of a federation" in done.stderr
    assert "\x1b" not in done.stderr
    assert not (tmp_path / "home").exists(), "not even the local cloud was started"


def commands(group, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def test_o_is_a_format_on_every_command_that_ends():
    found = dict(commands(typer.main.get_command(app)))
    formats = {
        name: [param.type.choices for param in command.params if "-o" in param.opts] for name, command in found.items()
    }
    assert formats.pop("local serve") == formats.pop("ui") == []
    assert len(formats) > 15
    for name, choices in formats.items():
        assert [list(map(str, one)) for one in choices] == [["text", "json"]], name


def test_removing_nothing_is_an_empty_list(oneflower):
    done = oneflower("down", "nobody", "-o", "json")
    assert (done.returncode, json.loads(done.stdout)) == (0, [])
    assert json.loads(oneflower("local", "stop", "-o", "json").stdout) == {"stopped": True}


def test_a_shell_can_complete(tmp_path):
    program = Path(sys.executable).parent / "oneflower"
    environment = {
        **os.environ, "_ONEFLOWER_COMPLETE": "complete_bash", "COMP_WORDS": "oneflower sc", "COMP_CWORD": "1",
        "ONEFLOWER_HOME": str(tmp_path),
    }  # fmt: skip
    done = subprocess.run([program], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout.split()) == (0, ["scale"])


def test_without_a_stepped_cloud_there_is_nothing_to_step(oneflower):
    done = oneflower("local", "step", "5")
    assert (done.returncode, "serve --pace stepped" in done.stderr) == (5, True)
