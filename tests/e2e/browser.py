"""A real browser, and a person in front of it."""

from __future__ import annotations

import io
import os
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from PIL import Image

from oneflower.web.guard import Keys
from oneflower.web.server import listen

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
# What htmx says of a check of the form that a newer one has replaced. Of other failures it says more than this.
_REPLACED = ("htmx:afterRequest", "htmx:sendAbort")
SECONDS = 60_000  # milliseconds, for what takes long
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1180, "height": 800}


@pytest.fixture
def chromium():
    """A browser, which keeps what it reports: errors of scripts, and what the policy of the page forbids."""
    from playwright.sync_api import sync_playwright  # of a dependency group of its own

    program = shutil.which("chromium")
    assert program, "this test needs Debian's package chromium: `make e2e` installs it as root"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


@contextmanager
def serving(fake):
    """Serve a page whose cloud is not there, on the loopback."""
    listeners = listen(0)
    fake.reset(Keys(listeners[0].getsockname()[1]))
    how = {"log_config": None, "lifespan": "off", "ws": "none", "access_log": False, "timeout_graceful_shutdown": 1}
    server = uvicorn.Server(uvicorn.Config(fake.page.application, **how))
    thread = threading.Thread(target=server.run, args=(listeners,))
    thread.start()
    try:
        yield
    finally:
        fake.page.close()
        server.should_exit = True
        thread.join()


class Person:
    """Somebody in front of the page, who sees what goes wrong in it."""

    def __init__(self, browser):
        self.page = browser.new_page(viewport=DESK, reduced_motion="reduce")
        self.page.set_default_timeout(SECONDS)
        self.wrong, self.asked = [], []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", self._hear)
        self.page.on("request", lambda request: self.asked.append(request.url))

    def _hear(self, said):
        if said.type == "error" and not said.text.startswith(_REPLACED):
            self.wrong.append(said.text)

    def reach(self, selector):
        """Go with the Tab key to an element that can be used, as somebody without a mouse."""
        for _ in range(200):
            self.page.keyboard.press("Tab")
            if self.page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"the keyboard does not reach {selector}")

    def write(self, selector, text):
        """Replace what is in a field, by the keyboard alone."""
        self.reach(selector)
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(text)

    def picture(self, name, **how):
        """Save a picture, where pictures are wanted."""
        if folder := os.environ.get("ONEFLOWER_SCREENSHOTS"):
            image = Image.open(io.BytesIO(self.page.screenshot(**how))).convert("RGB").quantize(48)
            image.save(Path(folder) / f"page-{name}.png", optimize=True)
