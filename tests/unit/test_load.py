"""What a SuperNode publishes for scaling policies, and how often."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from oneflower_appliance import metrics as m
from oneflower_appliance.agent import load as module
from oneflower_appliance.agent.load import Load
from oneflower_appliance.agent.metrics import gpu as gpu_metrics
from oneflower_appliance.agent.metrics import machine as machine_metrics
from oneflower_appliance.agent.onegate import OneGateError
from oneflower_appliance.attributes import ATTRIBUTES, NUMBERS
from oneflower_appliance.orders import NodeReport
from oneflower_appliance.settings import resolve


class Node:
    """A node whose time, load and work a test decides. It looks every 10 s, as the agent does."""

    def __init__(self, monkeypatch, gpus=()):
        self.now, self.cpu, self.free, self.gpus = 1000.0, 0.0, 0.5, list(gpus)
        self.report, self.published, self.is_down, self.measured = NodeReport("7"), [], False, 0
        settings = resolve({"FL_GPU_ENABLED": "YES" if gpus else "NO"})
        monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0, 1})
        monkeypatch.setattr(machine_metrics, "MachineMetrics", lambda *_: SimpleNamespace(measure=self._measure))
        monkeypatch.setattr(gpu_metrics, "GpuMetrics", lambda: SimpleNamespace(measure=self._measure_gpus))
        machine = SimpleNamespace(settings=settings, onegate=SimpleNamespace(publish=self._publish))
        self.load = Load(machine, lambda: None, lambda: self.now)
        self.first = self.load.said(self.report)

    def _measure(self):
        self.measured += 1
        yield m.CPU.is_(0.0, "agent")
        yield m.CPU.is_(self.cpu, "flower")
        yield m.MEMORY.is_(100)
        yield m.MEMORY_FREE.is_(100 * self.free)

    def _measure_gpus(self):
        yield from (m.GPU_USE.is_(use, str(index)) for index, use in enumerate(self.gpus))

    def _publish(self, values):
        if self.is_down:
            raise OneGateError("It is away.", "", heals=True)
        self.published.append((self.now, values))

    def look(self, seconds, cores=0.0, **report):
        """Let time pass, in which so many cores were busy and the process reported this."""
        self.report = NodeReport("7", **{"worked": self.report.worked, "trained": self.report.trained, **report})
        for _ in range(round(seconds / 10)):
            self.now += 10
            self.cpu += 10 * cores
            self.load.publish_news(self.report)

    @property
    def last(self):
        return self.published[-1][1]


@pytest.fixture
def node(monkeypatch):
    return Node(monkeypatch)


def test_an_idle_node_publishes_its_numbers_once_and_then_nothing(node):
    assert node.first == {"FL_CPU": "0", "FL_MEMORY": "50", "FL_BUSY": "0", "FL_TASK_SECONDS": "0"}
    assert set(node.first) == NUMBERS - {"FL_GPU"}
    node.look(3600, cores=0.05)
    node.free = 0.1
    node.look(60, cores=1.5)
    assert node.published == [], "other programs work there"
    assert node.measured <= 3 + 3600 / 30, "it does not even look more often"


def test_a_busy_node_publishes_at_most_every_thirty_seconds(node):
    node.look(10, cores=1.0, working_since=node.now, trains=True)
    for _ in range(20):
        node.free = 0.1 if node.free == 0.5 else 0.5
        node.look(30, cores=1.0, working_since=1000.0, trains=True)
    times = [when for when, _ in node.published]
    assert len(times) > 10
    assert min(after - before for before, after in itertools.pairwise(times)) >= 30
    assert (node.last["FL_CPU"], node.last["FL_BUSY"]) == ("50", "100")


def test_only_a_change_of_more_than_five_percent_of_its_scale_counts(node):
    node.look(90, working_since=node.now)
    before = len(node.published)
    node.free = 0.45
    node.look(60, working_since=1000.0)
    assert len(node.published) == before
    node.free = 0.44
    node.look(60, working_since=1000.0)
    assert [values["FL_MEMORY"] for _, values in node.published[before:]] == ["56"]


def test_the_seconds_of_a_task_are_those_of_a_training_and_are_forgotten_after_a_while(node):
    begun = node.now
    node.look(50, working_since=begun, trains=True)
    assert float(node.last["FL_TASK_SECONDS"]) >= 30, "a task that runs counts so far"
    node.look(40, worked=50.0, trained=50.0)
    assert node.last["FL_TASK_SECONDS"] == "50"
    node.look(60, worked=51.0)  # an evaluation
    assert node.last["FL_TASK_SECONDS"] == "50"
    node.look(200, worked=51.0)
    assert (node.last["FL_TASK_SECONDS"], node.last["FL_BUSY"]) == ("0", "0")
    before = len(node.published)
    node.look(600, worked=51.0)
    assert len(node.published) == before


def test_a_process_that_was_started_again_begins_anew(node):
    node.look(60, worked=40.0, trained=40.0)
    node.load.publish_news(None)
    node.look(60, worked=0.0)
    assert float(node.last["FL_BUSY"]) >= 0


def test_gpus_are_published_where_there_are_any(monkeypatch):
    assert Node(monkeypatch, gpus=[0.5, 1.0]).first["FL_GPU"] == "75"


def test_a_onegate_that_does_not_answer_is_asked_again_later(node):
    node.is_down, node.free = True, 0.1
    node.look(60, worked=1.0)
    node.is_down = False
    node.look(60, worked=1.0)
    assert node.last["FL_MEMORY"] == "90"


def test_a_machine_that_cannot_be_measured_still_says_how_busy_it_is(node, monkeypatch):
    def broken():
        raise OSError("no /proc")
        yield

    monkeypatch.setattr(node.load, "_measures", [broken])
    node.look(60, working_since=node.now, trains=True)
    assert set(node.last) == {"FL_BUSY", "FL_TASK_SECONDS"}


def test_what_is_published_can_be_read(node):
    for name, value in node.first.items():
        assert ATTRIBUTES[name].read({name: value}) == value
        assert ATTRIBUTES[name].read({name: "1e9"}) == ""
