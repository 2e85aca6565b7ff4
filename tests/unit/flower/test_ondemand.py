"""The SuperExec of a small machine: started for a message, ended when none comes, and started again when it dies."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from oneflower_appliance.flower import internals, places
from oneflower_appliance.flower.features import Feature
from oneflower_appliance.flower.main import warm_superexec
from oneflower_appliance.flower.warm import ondemand, program
from oneflower_appliance.flower.warm.ondemand import IDLE, OnDemandSuperExec
from oneflower_appliance.flower.warm.superexec import WarmSuperExec

PROGRAM = """
import sys, time
open(sys.argv[1], "a").write(sys.stdin.readline())
time.sleep(60)
"""


class Node:
    """A loop of a SuperNode, and its on-demand SuperExec: a program that writes down its command."""

    def __init__(self, folder, monkeypatch):
        self.now, self.message, self.notes = 0.0, None, folder / "commands"
        self._arguments = {}

        def pull(receive, **arguments):
            self._arguments = arguments
            return None if receive() is None else 7

        self.loop = SimpleNamespace(_pull_and_store_message=pull, subprocess=None)
        self.superexec = OnDemandSuperExec("supernode", now=lambda: self.now)
        self.superexec.replace_in(self.loop)
        popen = program.subprocess.Popen

        def started(_command, **settings):
            return popen([sys.executable, "-c", PROGRAM, str(self.notes)], **settings)

        monkeypatch.setattr(program, "subprocess", SimpleNamespace(Popen=started, PIPE=program.subprocess.PIPE))
        monkeypatch.setattr(ondemand, "PAUSE", 0.0)
        self.loop.subprocess.Popen(["flower-superexec", "--insecure"])

    def pull(self, message, after=0.0):
        self.now += after
        found = self.loop._pull_and_store_message(receive=lambda: message, state="state")
        assert self._arguments == {"state": "state"}
        return found

    def commands(self):
        return self.notes.read_text().splitlines() if self.notes.exists() else []


def until(wanted):
    deadline = time.monotonic() + 20
    while not (found := wanted()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


@pytest.fixture
def node(tmp_path, monkeypatch):
    made = Node(tmp_path, monkeypatch)
    yield made
    made.superexec.terminate()


def test_it_is_started_for_a_message_and_ended_after_a_while_without_one(node):
    assert node.pull(None) is None
    assert node.pull(None, 2 * IDLE) is None
    assert node.superexec.pid == 0
    for turn in (1, 2):
        assert node.pull("message") == 7
        assert until(lambda turn=turn: len(node.commands()) == turn)
        assert node.commands()[-1] == '["flower-superexec", "--insecure"]'
        node.pull(None, 10 * IDLE)  # the task took that long
        node.pull(None, IDLE - 1)
        assert node.superexec.pid
        process = node.superexec.pid
        node.pull(None, 2)
        assert until(lambda: node.superexec.pid == 0)
        assert not Path(f"/proc/{process}").exists()


def test_it_is_started_again_when_it_dies_while_there_is_work(node, caplog):
    node.pull("message")
    assert until(node.commands)
    os.kill(node.superexec.pid, signal.SIGKILL)
    assert until(lambda: len(node.commands()) == 2)
    assert "The SuperExec ended; it is started again." in caplog.text


def test_it_is_started_while_the_rest_of_the_message_is_on_its_way(node):
    def receive():
        return "message"

    def pull(receive, **_):
        receive()
        assert until(node.commands)
        return 7

    node.loop._pull_and_store_message = pull
    node.superexec.replace_in(node.loop)
    assert node.loop._pull_and_store_message(receive=receive) == 7


def test_it_is_only_for_supernodes_on_small_machines_whose_flower_says_when_messages_come(monkeypatch):
    monkeypatch.setenv("ONEFLOWER_EXECUTION", "warm")
    monkeypatch.setenv("ONEFLOWER_PROFILE", "edge")
    assert isinstance(warm_superexec("supernode"), OnDemandSuperExec)
    made = []
    monkeypatch.setattr(WarmSuperExec, "__init__", lambda _self, role: made.append(role))
    warm_superexec("superlink")
    monkeypatch.setattr(internals.node_loop(), "_pull_and_store_message", lambda messages: messages)
    assert places.missing(Feature.SUPEREXEC_ON_DEMAND)
    warm_superexec("supernode")
    monkeypatch.undo()
    monkeypatch.setenv("ONEFLOWER_EXECUTION", "warm")
    monkeypatch.setattr(WarmSuperExec, "__init__", lambda _self, role: made.append(role))
    warm_superexec("supernode")
    assert made == ["superlink", "supernode", "supernode"]
