"""The agent waits for a task that runs when its machine goes down: how long, and when it does not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from oneflower.local.host.machines import drain_limit
from oneflower.opennebula.states import ServiceState
from oneflower_appliance.agent import drain as module
from oneflower_appliance.agent.drain import REMOVED, drain
from oneflower_appliance.agent.onegate import OneGateError
from oneflower_appliance.orders import DRAIN, NodeReport
from oneflower_appliance.settings import resolve


class Node:
    """A SuperNode's process, its machine, and the time, which passes while somebody waits for its end."""

    def __init__(self, folder, monkeypatch, *, ends=None, states=(), busy=0.0, limit="60"):
        self.now, self.ends, self.states, self.busy, self.signals = 0.0, ends, list(states), busy, []
        self.report = folder / "report"
        self.settings = resolve({"FL_DRAIN_TIMEOUT": limit})
        self.onegate = SimpleNamespace(service_state=self._state)
        self.ended = SimpleNamespace(is_set=lambda: False, wait=self._wait)
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        self._write()

    def _state(self):
        state = self.states.pop(0) if len(self.states) > 1 else (self.states or [ServiceState.SCALING])[0]
        if isinstance(state, Exception):
            raise state
        return int(state)

    def _write(self):
        NodeReport("7", working_since=1.0 if self.now < self.busy else None).write(self.report)

    def _wait(self, seconds):
        self.now += seconds
        self._write()
        return self.ends is not None and self.now >= self.ends

    def send(self, number):
        self.signals.append(number)

    def drain(self):
        return drain(self, self, self.report)


def test_a_task_that_ends_in_time_is_waited_for(tmp_path, monkeypatch):
    node = Node(tmp_path, monkeypatch, ends=40, busy=39)
    assert node.drain()
    assert (node.now, node.signals) == (40, [DRAIN])


def test_a_task_that_does_not_end_is_lost_after_the_time_and_the_log_says_what_to_set(tmp_path, monkeypatch, caplog):
    node = Node(tmp_path, monkeypatch, busy=1000)
    with caplog.at_level("WARNING"):
        assert not node.drain()
    assert node.now == 60
    assert "Raise FL_DRAIN_TIMEOUT" in caplog.text


@pytest.mark.parametrize("state", [ServiceState.UNDEPLOYING, ServiceState.FAILED_UNDEPLOYING])
def test_nobody_waits_where_the_whole_service_is_removed(tmp_path, monkeypatch, state):
    node = Node(tmp_path, monkeypatch, busy=1000, states=[state])
    assert not node.drain()
    assert (node.now, node.signals) == (0, [])
    node = Node(tmp_path, monkeypatch, busy=1000, states=[ServiceState.RUNNING, state])
    assert not node.drain()
    assert node.now < 10, "it was known a moment later"


def test_a_onegate_that_does_not_answer_costs_no_task(tmp_path, monkeypatch):
    node = Node(tmp_path, monkeypatch, ends=20, busy=20, states=[OneGateError("It is away.", "", heals=True)])
    assert node.drain()


def test_a_node_without_a_task_that_cannot_reach_its_superlink_is_not_waited_for_long(tmp_path, monkeypatch):
    node = Node(tmp_path, monkeypatch)
    assert not node.drain()
    assert node.now < 10


def test_without_a_time_nothing_is_waited_for(tmp_path, monkeypatch):
    node = Node(tmp_path, monkeypatch, busy=1000, limit="0")
    assert not node.drain()
    assert node.signals == []


def test_the_states_are_those_of_oneflow():
    assert {ServiceState(number).name for number in REMOVED} == {
        state.name for state in ServiceState if "UNDEPLOYING" in state.name
    }


def test_the_local_cloud_gives_a_supernode_the_time_that_its_task_has():
    def limit(**context):
        return drain_limit(SimpleNamespace(context=context))

    assert limit(ONEFLOWER_ROLE="supernode", FL_DRAIN_TIMEOUT="300") == 300
    assert limit(ONEFLOWER_ROLE="supernode") == 120
    assert limit(ONEFLOWER_ROLE="supernode", FL_DRAIN_TIMEOUT="soon") == 0
    assert limit(ONEFLOWER_ROLE="superlink", FL_DRAIN_TIMEOUT="300") == 0
