"""How Flower's clients wait, with the real client against a real server."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import httpx
import pytest

from oneflower_appliance.flower.warm import waits

GRID, NODE = "/flwr.proto.Runtime/PullMessages", "/flwr.proto.Fleet/PullMessages"


def ask(how, method, *, holds=True):
    """Return what the request said about waiting."""
    request = httpx.Request("POST", "http://x")
    headers = {"Preference-Applied": "wait"} if holds and method else {}
    how.intercept(SimpleNamespace(rpc_method=method, request=request), lambda _: httpx.Response(200, headers=headers))
    return request.headers.get("Prefer")


@pytest.mark.parametrize(
    ("method", "seconds"),
    [
        (NODE, 25),
        ("/flwr.proto.Runtime/AcquireTask", 15),
        ("/flwr.proto.Fleet/PullObject", 15),
        ("/flwr.proto.Runtime/PullObject", 15),
    ],
)
def test_loops_say_how_long_they_wait(method, seconds):
    assert ask(waits.Waits(), method) == f"wait={seconds}"


def test_nothing_else_waits():
    assert ask(waits.Waits(), "/flwr.proto.Fleet/PushMessages") is None
    assert ask(waits.Waits(), GRID) is None, "an app that asks for replies itself is answered at once"


def test_a_grid_that_would_sleep_waits_once_instead():
    how = waits.Waits()
    started = time.monotonic()
    how.sleep_of_the_grid(3)
    assert time.monotonic() - started < 0.5
    assert ask(how, GRID) == "wait=3"
    assert ask(how, GRID) is None


def test_each_thread_waits_for_its_own_replies():
    """The legacy API waits for each node in a thread of its own. They used to take each other's patience."""
    how = waits.Waits()
    how.sleep_of_the_grid(3)
    said = []
    other = threading.Thread(target=lambda: said.append(ask(how, GRID)))
    other.start()
    other.join()
    assert said == [None]
    assert ask(how, GRID) == "wait=3"


def test_a_grid_sleeps_where_nobody_holds_questions():
    how = waits.Waits()
    how.sleep_of_the_grid(3)
    ask(how, GRID, holds=False)
    started = time.monotonic()
    how.sleep_of_the_grid(0.2)
    assert time.monotonic() - started >= 0.2
    assert ask(how, GRID) is None


def test_after_a_question_that_was_held_nobody_sleeps():
    how = waits.Waits()
    ask(how, NODE)
    started = time.monotonic()
    how.sleep(3)
    assert time.monotonic() - started < 0.5


def test_after_one_that_was_not_it_sleeps_as_before():
    how = waits.Waits()
    ask(how, NODE, holds=False)
    started = time.monotonic()
    how.sleep(0.2)
    assert time.monotonic() - started >= 0.2


def test_a_sleep_ends_when_something_happens():
    how = waits.Waits()
    threading.Timer(0.1, how.something_happened).start()
    started = time.monotonic()
    how.sleep(3)
    assert 0.05 < time.monotonic() - started < 1
    started = time.monotonic()
    how.sleep(0.2)
    assert time.monotonic() - started >= 0.2, "and the next one does not"
