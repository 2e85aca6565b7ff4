"""A SuperNode's process tells its agent that the SuperLink hears from it, only while that is so."""

from __future__ import annotations

import contextlib
import time
from types import SimpleNamespace

import pytest

from oneflower_appliance import orders
from oneflower_appliance.flower import internals
from oneflower_appliance.flower.nodereport import Reporter
from oneflower_appliance.flower.warm.longpoll import _LONGEST as LONGEST
from oneflower_appliance.orders import NodeReport


class SuperLink:
    """The SuperLink's side of Flower's client: what the next request is answered with, or raises."""

    def __init__(self):
        self.answer = None
        self.during = []

    def answers(self, request):
        self.during.append(NodeReport.read(request) if request else None)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def link(monkeypatch):
    found = SuperLink()
    for name in ("SendNodeHeartbeat", "PullMessages"):
        monkeypatch.setattr(internals.fleet_client(), name, lambda _, request: found.answers(request))
    states = type(internals.node_state())
    monkeypatch.setattr(states, "set_node_id", states.set_node_id)
    return found


@pytest.fixture
def node(link, tmp_path):
    """Return the client of a node that has its id, and the file with its report."""
    path = tmp_path / "home" / "report.json"
    reporter = Reporter(path)
    reporter.start()
    internals.node_state().set_node_id(7)
    assert NodeReport.read(path) == NodeReport("7")
    client = internals.fleet_client().__new__(internals.fleet_client())
    client.reporter = reporter
    return client, path


def test_a_node_is_shown_online_only_after_a_heartbeat_that_was_acknowledged(node, link):
    client, path = node
    assert not NodeReport.read(path).shows_online
    for answer, online in (
        (SimpleNamespace(success=True), True),
        (SimpleNamespace(success=False), False),  # the SuperLink does not know the node any more
        (SimpleNamespace(success=True), True),
        (ConnectionRefusedError(), False),
    ):
        link.answer = answer
        with contextlib.suppress(ConnectionRefusedError):
            client.SendNodeHeartbeat(None)
        assert NodeReport.read(path).shows_online is online
        assert NodeReport.read(path).node_id == "7"


def test_a_node_that_works_for_long_is_shown_online_only_while_the_superlink_looks_after_its_work(
    node, link, monkeypatch
):
    client, path = node
    link.answer = SimpleNamespace(success=True)
    client.SendNodeHeartbeat(None)
    monkeypatch.setattr(orders, "_AWHILE", 0.0)
    for messages in ([], ["a message"], []):
        link.answer = SimpleNamespace(messages_list=messages)
        client.PullMessages(path)
        assert link.during[-1].shows_online, "while it waits for a message"
        assert NodeReport.read(path).shows_online is (not messages)
        if messages:
            client.reporter.note_watched(watched=True)
            assert NodeReport.read(path).shows_online
            client.reporter.note_stuck()
            assert (NodeReport.read(path).shows_online, NodeReport.read(path).stuck) == (False, True)
            client.reporter.note_watched(watched=False)
    assert not NodeReport.read(path).stuck


def test_a_request_that_was_recorded_as_a_heartbeat_shows_the_node_online_until_one_is_lost(link, tmp_path):
    path = tmp_path / "report.json"
    reporter = Reporter(path)
    reporter.start()
    internals.node_state().set_node_id(7)
    reporter.note_heard(time.monotonic() - 25)
    assert NodeReport.read(path).shows_online
    link.answer = TimeoutError()
    client = internals.fleet_client().__new__(internals.fleet_client())
    with contextlib.suppress(TimeoutError):
        client.PullMessages(None)
    assert not NodeReport.read(path).shows_online


def test_an_old_heartbeat_shows_nothing():
    now = time.monotonic()
    assert NodeReport("7", heard=now - 2 * LONGEST).shows_online, "one request is held after the other"
    assert not NodeReport("7", heard=now - 56).shows_online
    assert not NodeReport("7", heard=now + 1000).shows_online, "from before this machine was booted"
    constants = internals.constants()
    pause = (constants.HEARTBEAT_DEFAULT_INTERVAL - constants.HEARTBEAT_CALL_TIMEOUT) * (
        constants.HEARTBEAT_BASE_MULTIPLIER + constants.HEARTBEAT_RANDOM_RANGE[1]
    )
    listed = constants.HEARTBEAT_PATIENCE * constants.HEARTBEAT_DEFAULT_INTERVAL
    assert max(pause, 2 * LONGEST) < orders._RECENT < listed


def test_a_report_that_cannot_be_written_does_not_end_the_heartbeats(node, link):
    client, path = node
    path.unlink()
    path.parent.rmdir()
    path.parent.touch()
    link.answer = SimpleNamespace(success=True)
    assert client.SendNodeHeartbeat(None).success


def test_how_long_tasks_took_is_reported_and_which_of_them_were_trainings(node, link, monkeypatch):
    client, path = node
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for kind, seconds, worked, trained in (
        ("train", 8.0, 8.0, 8.0),
        ("evaluate", 2.0, 10.0, 8.0),
        ("train.head", 5.0, 15.0, 5.0),
    ):
        link.answer = SimpleNamespace(messages_list=[SimpleNamespace(metadata=SimpleNamespace(message_type=kind))])
        client.PullMessages(None)
        assert NodeReport.read(path).trains is (kind != "evaluate")
        now += seconds
        link.answer = SimpleNamespace(messages_list=[])
        client.PullMessages(None)
        report = NodeReport.read(path)
        assert (report.working_since, report.worked, report.trained) == (None, worked, trained)
