"""A page with fifty nodes and a thousand rounds in a real browser: small, quick, and a new round is there at once."""

from __future__ import annotations

import threading
import time

import pytest
import uvicorn

from oneflower.api import NodeReport, RunRow, RunState
from oneflower.web.guard import Keys
from oneflower.web.server import listen
from tests.web.conftest import STATUS, Fake

from .browser import Person, chromium  # noqa: F401 - a fixture

pytestmark = pytest.mark.e2e

NODES, ROUNDS = 50, 1000
KILOBYTES = 300  # of the first view
USABLE, ROW, FRAME = 3.0, 2.0, 0.5  # seconds; on a quiet machine a third of it is enough


def row(number):
    return RunRow(number, ROUNDS + 1, 0.5, NODES, 0, 1 / number, 1 - 0.5 / number, {}, NODES)


def reports(number):
    return [
        NodeReport(number, str(node), "train", "", "", 100 + node, 0.5 + node / 100, 1000, 1000, {"train_loss": 1 / number}, name=f"supernode_{node}")
        for node in range(NODES)
    ]  # fmt: skip


@pytest.fixture
def served(monkeypatch):
    """The page with a made-up record, on the loopback. Its `more` lets another round end."""
    fake = Fake(monkeypatch)
    made = fake.federation(STATUS)
    made.runs.return_value = (RunState("5", "oneflower/app", "running"),)
    fake.more, fake.ended = threading.Event(), 0.0

    def follow(_run, *, on_row, on_reports, on_log, notify):
        for number in range(1, ROUNDS + 1):
            on_row(row(number))
            on_reports(reports(number))
        fake.more.wait(60)
        fake.ended = time.monotonic()
        on_row(row(ROUNDS + 1))
        on_reports(reports(ROUNDS + 1))

    made.follow.side_effect = follow
    listeners = listen(0)
    fake.reset(Keys(listeners[0].getsockname()[1]))
    server = uvicorn.Server(
        uvicorn.Config(
            fake.page.application,
            log_config=None,
            lifespan="off",
            ws="none",
            access_log=False,
            timeout_graceful_shutdown=1,
        )
    )
    thread = threading.Thread(target=server.run, args=(listeners,))
    thread.start()
    yield fake
    fake.more.set()
    fake.page.close()
    server.should_exit = True
    thread.join()


def test_a_large_run_is_small_quick_and_smooth(served, chromium):  # noqa: F811
    person = Person(chromium)
    page, sizes = person.page, []
    page.goto(served.keys.address)
    page.get_by_role("link", name="lab").wait_for()
    page.on("response", lambda answer: sizes.append((answer.url, answer.headers.get("content-length", "0"))))
    page.goto(f"{served.keys.origin}/federations/7")
    page.locator("#rounds tbody tr", has_text=f"{ROUNDS}/").wait_for()
    page.locator("#node-curve canvas").wait_for()
    static = sum(int(size) for url, size in sizes if "/events" not in url and "/nodes?" not in url)

    began = time.monotonic()
    page.reload()
    page.locator("#rounds-wanted").wait_for()
    usable = time.monotonic() - began
    page.locator("#rounds tbody tr", has_text=f"{ROUNDS}/").wait_for()
    page.locator("#node-curve canvas").wait_for()
    complete = time.monotonic() - began

    # The longest time in which the page draws nothing, while nodes are pointed at and the quantity is changed.
    page.evaluate(
        "() => { window.longest = 0; let last = performance.now();"
        "const tick = (now) => { window.longest = Math.max(window.longest, now - last); last = now; requestAnimationFrame(tick); };"
        "requestAnimationFrame(tick); }"
    )
    box = page.locator("#node-curve canvas").bounding_box()
    for step in range(20):
        page.mouse.move(box["x"] + 80 + step * 10, box["y"] + 60 + step * 5)
    with page.expect_response(lambda answer: "train_loss" in answer.url):
        page.select_option("#quantity", "train: train_loss")
    page.evaluate("() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    longest = page.evaluate("window.longest") / 1000

    served.more.set()
    page.locator("#rounds tbody tr", has_text=f"{ROUNDS + 1}/").wait_for()
    late = time.monotonic() - served.ended
    figures = f"usable {usable:.2f} s, complete {complete:.2f} s, {static / 1000:.0f} kB, frame {longest:.3f} s, row {late:.3f} s"
    assert 100_000 < static <= KILOBYTES * 1000, figures
    assert usable <= USABLE, figures
    assert longest <= FRAME, figures
    assert late <= ROW, figures
    assert person.wrong == []
