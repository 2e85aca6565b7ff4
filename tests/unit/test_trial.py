"""Trying an image: what is pure in it."""

from __future__ import annotations

import pytest

from oneflower.cloud import FederationStatus
from oneflower.cloud.status import VmStatus
from oneflower.local.home import LocalHome
from oneflower.trial import progress, readiness
from oneflower.trial.plan import Machines, Plan
from oneflower_appliance.errors import OneflowerError

CONSOLE = "SeaBIOS\r\n\x1b[=3h\r\n\x1b[2J\x1b[01;01Honeflower: loading the kernel\r\n\r\n[\x1b[0;32m  OK  \x1b[0m] Reached target\r\n\x1b]0;evil\x07\r\n"


def machine(name, number, *, ready=False):
    return VmStatus(number, name, "superlink", "RUNNING", ready)


@pytest.fixture
def console():
    path = LocalHome.of_user().machine(7) / "console.log"
    path.parent.mkdir(parents=True)
    path.write_text(CONSOLE, newline="")
    return path


def test_the_end_of_a_console_is_shown_without_what_a_terminal_would_do(console):
    lines = progress.last_lines(machine("link", 7), 3)
    assert lines == ["oneflower: loading the kernel", "[ OK ] Reached target", "\\u001b]0;evil\\u0007"]


def test_machines_that_are_not_ready_are_spoken_of_from_time_to_time(console, monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    watch = progress.Watcher()
    status = FederationStatus(
        1, "trial", "DEPLOYING", 1, vms=(machine("link", 7), machine("node", 8), machine("up", 9, ready=True))
    )
    watch(status)
    assert capsys.readouterr().err == ""
    now[0] += 20
    watch(status)
    watch(status)
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in said] == ["link:", "node:"]
    assert "nothing on its console" in said[1]


class Rebooted:
    """A federation whose machine is, at one look after another, ready since each moment; 0 is not ready."""

    def __init__(self, *moments):
        self.moments, self.looks, self.waited = moments, 0, False

    def status(self):
        since = self.moments[min(self.looks, len(self.moments) - 1)]
        self.looks += 1
        vms = (VmStatus(7, "node", "supernode", "RUNNING", ready=since > 0, ready_since=since),)
        return FederationStatus(1, "trial", "RUNNING", 1, vms=vms)

    def wait_ready(self, *_, **__):
        self.waited = True


@pytest.mark.parametrize(("moments", "looks"), [((50, 50, 0), 3), ((50, 50, 50, 61), 4)])
def test_a_machine_that_ends_its_task_before_it_reboots_is_waited_for(monkeypatch, moments, looks):
    monkeypatch.setattr(readiness, "_PULSE", 0)
    federation = Rebooted(*moments)
    readiness.wait_back(federation, Rebooted(50).status().vms[0], limit=30, seen=0)
    assert (federation.looks, federation.waited) == (looks, True)


def test_a_machine_that_never_went_down_has_not_come_back(monkeypatch):
    monkeypatch.setattr(readiness, "_PULSE", 0)
    with pytest.raises(OneflowerError, match="node was to go down and to come back"):
        readiness.wait_back(Rebooted(50), Rebooted(50).status().vms[0], limit=0.05)


def test_one_that_does_not_say_since_when_it_is_ready_is_given_a_while(monkeypatch):
    monkeypatch.setattr(readiness, "_PULSE", 0)
    federation = Rebooted(0)
    readiness.wait_back(federation, VmStatus(7, "node", "supernode", "RUNNING", ready=True), limit=30, seen=0.05)
    assert federation.waited


def test_a_plan_survives_its_way_to_the_process_that_follows_it():
    assert Plan(Machines.QEMU, whole=True).words() == ["--machines=qemu", "--whole"]
    assert Plan(Machines.CONTAINER, whole=False).words() == ["--machines=container"]


def test_what_a_trial_did_comes_back_from_the_process_that_did_it(tmp_path, capsys):
    diary = progress.Diary()
    with diary.timed("train") as tell:
        tell("accuracy 0.97")
    with pytest.raises(OneflowerError), diary.timed("scale"):
        raise OneflowerError("It does not scale.")
    diary.write(tmp_path / "tried.json")
    assert progress.Diary.read(tmp_path / "tried.json") == [progress.Tried("train", "accuracy 0.97", 0.0)]
    assert capsys.readouterr().err.splitlines() == [
        "  train ...", "✓ train: accuracy 0.97 (0.0 s)", "  scale ...", "✗ scale (0.0 s)",
    ]  # fmt: skip
