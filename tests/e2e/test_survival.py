"""Runs that survive: a process that is killed during a run comes back, and the run ends where it would have ended."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import termios
import threading

import httpx
import numpy as np
import pytest
from sklearn.datasets import load_digits

from .conftest import until
from .test_faults import FLOWER, kill

pytestmark = pytest.mark.e2e

ROUNDS = 3
EPOCHS = "local-epochs=600"  # so that there is a time in which a node trains


@pytest.fixture(scope="module")
def auto(user):
    """A federation deployed with variables only, and what `up` printed of its training."""
    settings = {"FL_USE_CASE": "image-classification", "FL_NUM_ROUNDS": str(ROUNDS), "FL_CHECKPOINT_ENABLED": "YES",
                "FL_CHECKPOINT_INTERVAL": "1", "FL_STRATEGY": "FedAdam"}  # fmt: skip
    done = user("up", "auto", *(word for name, value in settings.items() for word in ("--set", f"{name}={value}")))
    yield done
    user("down", "auto")


def machines(user):
    link, *nodes = (vm["id"] for vm in user.show("auto")["vms"])
    return link, nodes


def test_a_federation_deployed_with_variables_only_ends_with_a_model_that_predicts(user, auto, tmp_path):
    assert f"{ROUNDS}/{ROUNDS}" in auto.stderr
    training = user.show("auto")["training"]
    assert (training["status"], training["round"], training["rounds"]) == ("completed", ROUNDS, ROUNDS)
    user("model", "auto", "--save", str(tmp_path / "digits.npz"))
    model = np.load(tmp_path / "digits.npz")
    pixels, labels = load_digits(return_X_y=True)
    scores = pixels / 16 @ model["weights"] + model["biases"]
    assert (scores.argmax(axis=1) == labels).mean() > 0.65  # three rounds of FedAdam
    card = (tmp_path / "digits-card.md").read_text()
    assert all(text in card for text in ("| Strategy | FedAdam |", "| Rounds | 3 of 3 |", "digits", "| flwr |"))
    assert json.loads((tmp_path / "digits-metrics.json").read_text())["rows"][-1]["round"] == ROUNDS


def runs(user):
    """All runs that the SuperLink knows, None while it does not answer."""
    status = user.show("auto")
    with user.client(status) as client, contextlib.suppress(httpx.HTTPError):
        return client.get(f"https://{status['control']}/oneflower/runs").json()
    return None


def recovered(user):
    until(lambda: user.is_ready("auto") and runs(user) is not None, 60, "recovery")


def test_the_form_is_trained_once_also_when_the_superlinks_machine_is_booted_again(user, auto):
    link, _ = machines(user)
    kill(user.process(link, "init.py"))
    until(lambda: not user.is_ready("auto"), 20, "a notice")
    recovered(user)
    assert len(runs(user)) == 1


def train(user, meanwhile):
    """Run to the end, do something in round 2, and return the result and the output."""
    process = user.start("run", "-f", "auto", "-o", "json", "-c", EPOCHS)
    output: list[str] = []

    def read():
        with process.stdout:
            for line in process.stdout:
                output.append(line)
                if line.lstrip().startswith(f"1/{ROUNDS}"):
                    meanwhile()

    reader = threading.Thread(target=read)
    reader.start()
    reader.join(400)
    text = "".join(output)
    assert process.wait(10) == 0, text
    return json.loads(text[text.index("\n{") :]), text


@pytest.fixture(scope="module")
def unbroken(user, auto):
    """The accuracy of an undisturbed run with the same seeds."""
    return train(user, lambda: None)[0]["rows"][-1]["accuracy"]


def check_alike(user, result, unbroken, within=0.02):
    assert [row["round"] for row in result["rows"]] == list(range(1, ROUNDS + 1))
    assert abs(result["rows"][-1]["accuracy"] - unbroken) < within
    told = [json.loads(line) for line in (user.folder / result["reports"]).read_text().splitlines()]
    assert sorted({report["round"] for report in told}) == list(range(1, ROUNDS + 1))


@pytest.mark.parametrize("what", ["Flower", "the machine"])
def test_a_run_goes_on_after_the_superlink_is_killed(user, unbroken, what):
    link, _ = machines(user)
    words = (FLOWER, "superlink") if what == "Flower" else ("init.py",)
    result, said = train(user, lambda: kill(user.process(link, *words)))
    assert "was lost; run" in said
    assert result["id"] in said.split("was lost; run ")[1]
    check_alike(user, result, unbroken)
    recovered(user)


def training(user, machine):
    """Whether a machine has taken a train message that it has not answered yet."""
    lines = [line for line in (user.machine(machine) / "console.log").read_text().splitlines() if "message (ID" in line]
    return bool(lines) and "Receiving: train" in lines[-1]


@pytest.mark.parametrize("busy", [True, False])
def test_a_run_goes_on_after_a_supernode_is_killed_in_a_round(user, unbroken, busy):
    _, nodes = machines(user)

    def strike():
        until(lambda: training(user, nodes[0]) == busy, 20, "training")
        kill(user.process(nodes[0], FLOWER, "supernode"))

    result, _ = train(user, strike)
    # A node that trained loses its work: that round is the other node's alone. One that waited for work may just
    # have been given some.
    failures = [row["failures"] for row in result["rows"]]
    assert failures == [0, 1, 0] or (failures == [0, 0, 0] and not busy)
    check_alike(user, result, unbroken, 0.1)
    recovered(user)


def test_a_run_that_was_stopped_goes_on_when_it_is_asked_to(user, unbroken):
    process = user.start("run", "-f", "auto", "-c", EPOCHS)
    with process.stdout:
        lines = iter(process.stdout)
        said = next(line for line in lines if line.startswith("  run "))
        next(line for line in lines if line.lstrip().startswith(f"1/{ROUNDS}"))
        process.send_signal(signal.SIGINT)
        rest = list(lines)
    assert process.wait(60) == 130, rest
    number = said.split()[1]
    check_alike(user, json.loads(user("run", "-f", "auto", "--resume", number, "-o", "json").stdout), unbroken)
    assert "Leave out" in user("run", "-f", "auto", "--resume", number, "--rounds", "2", code=2).stderr


def on_a_terminal(user, *arguments, meanwhile):
    """Run a command on a terminal, do something when round 1 has ended, and return all that was drawn."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 100))
    process = subprocess.Popen(
        user.command(*arguments), stdin=theirs, stdout=theirs, stderr=theirs, cwd=user.folder, env=user.environment
    )
    os.close(theirs)
    drawn, row = "", re.compile(rf" 1/{ROUNDS} +[\d.-]+ ")  # the line that lives has the number of the round, too
    with contextlib.suppress(OSError):  # the terminal has no other end any more
        while piece := os.read(ours, 65536):
            before, drawn = drawn, drawn + piece.decode(errors="replace")
            if row.search(drawn) and not row.search(before):
                meanwhile()
    os.close(ours)
    assert process.wait(60) == 0, drawn
    return drawn


def test_a_run_goes_on_after_a_supernode_hangs_which_is_seen_noticed_and_mended(user, unbroken):
    """The only test of the line that lives on a terminal with all that it needs."""
    _, nodes = machines(user)
    hung = user.process(nodes[1], FLOWER, "supernode")
    run = ("run", "-f", "auto", "-c", EPOCHS)
    drawn = on_a_terminal(user, *run, meanwhile=lambda: os.kill(hung.pid, signal.SIGSTOP))
    assert not hung.is_running()
    assert f"{ROUNDS}/{ROUNDS}" in drawn
    name = next(vm["name"] for vm in user.show("auto")["vms"] if vm["id"] == nodes[1])
    line = rf"round 2/{ROUNDS} · training \d+ s · 1/2 answered · (waiting for|late:) {name}"
    assert re.search(line, drawn), drawn
    recovered(user)
