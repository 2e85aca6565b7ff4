"""A small machine at the edge of a network: fewer processes, and fewer questions over its line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from oneflower_appliance.agent import edge, site_checks
from oneflower_appliance.agent.site_checks import look_at_machine
from oneflower_appliance.checks import OK, WARN, Topic
from oneflower_appliance.flower.profile import is_edge
from oneflower_appliance.flower.warm.tasks import Workers
from oneflower_appliance.settings import resolve
from oneflower_appliance.values import Settings


def unreachable():
    raise ConnectionRefusedError


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def asked(profile, seconds, answer=unreachable):
    """How often a SuperLink is asked, by an agent that looks every ten seconds for so long."""
    clock, count = Clock(), 0
    questions = edge.Questions(Settings({"FL_PROFILE": profile, "FL_EDGE_MAX_BACKOFF": "300"}))

    def question():
        nonlocal count
        count += 1
        return answer()

    while clock.now < seconds:
        if answer is unreachable:
            with pytest.raises(OSError, match=r"^$|shortly before"):
                questions.ask(question, clock)
        else:
            assert questions.ask(question, clock)
        clock.now += 10
    return count


def test_only_a_small_machine_asks_ever_less_often_while_it_gets_no_answer():
    assert asked("standard", 3600) == 360
    assert 12 < asked("edge", 3600) < 30
    assert asked("edge", 3600, lambda: True) == 360


def test_after_an_answer_it_asks_as_often_as_before():
    clock = Clock()
    questions = edge.Questions(Settings({"FL_PROFILE": "edge", "FL_EDGE_MAX_BACKOFF": "300"}))
    for _ in range(8):
        clock.now += 1000
        with pytest.raises(ConnectionRefusedError):
            questions.ask(unreachable, clock)
    clock.now += 1000
    assert questions.ask(lambda: True, clock)
    with pytest.raises(ConnectionRefusedError):
        questions.ask(unreachable, clock)
    clock.now += 11
    with pytest.raises(ConnectionRefusedError):
        questions.ask(unreachable, clock)


@pytest.mark.parametrize(("profile", "status"), [("standard", WARN), ("edge", OK)])
def test_a_machine_with_512_mb_is_enough_for_the_profile_that_is_made_for_it(monkeypatch, tmp_path, profile, status):
    monkeypatch.setattr(site_checks, "total_memory", lambda: 480 << 20)  # the kernel keeps the rest
    found = {check.what: check for check in look_at_machine(resolve({"FL_PROFILE": profile}), tmp_path)}
    assert found[Topic.MEMORY].status == status, found[Topic.MEMORY]


@pytest.mark.parametrize(("profile", "waiting"), [("standard", 1), ("edge", 0)])
def test_a_small_machine_starts_no_worker_in_advance(monkeypatch, profile, waiting):
    for name, value in edge.environment(Settings({"FL_PROFILE": profile})).items():
        monkeypatch.setenv(name, value)
    started = []

    class Worker:
        pid = 1

        def __init__(self):
            started.append(self)
            self.stdin = open("/dev/null", "w")  # noqa: SIM115 - the launcher closes it

        def poll(self):
            return None

    class Reports:
        def began(self, *_):
            pass

    monkeypatch.setattr(Workers, "_start", lambda _: Worker())
    workers = Workers("supernode", Reports())
    workers.launch({"token": "t"})
    assert len(started) == 1 + waiting
    assert (workers.waiting is not None) == bool(waiting) == (not is_edge())
    if workers.waiting:
        workers.waiting.stdin.close()


def test_an_agent_has_only_its_own_role_in_memory():
    code = "import sys; from oneflower_appliance.agent import agent; agent._role('supernode'); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "oneflower_appliance.agent.supernode" in found
    assert not {"oneflower_appliance.agent.superlink", "sqlite3"} & set(found)
