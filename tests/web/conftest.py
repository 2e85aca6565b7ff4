"""The page, with a cloud that is not there: what the Python API would answer is what a test says."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from unittest.mock import create_autospec

import httpx
import pytest

from oneflower.api import Federation, FederationStatus, RunState, VmStatus
from oneflower.web.app import Page
from oneflower.web.guard import COOKIE, CSRF_FIELD, Keys
from oneflower_appliance.errors import ExitCode, OneflowerError

PORT = 7420
FOREIGN = "<script>alert(1)</script>\"'&"
LINK = VmStatus(1, "superlink_0", "superlink", "running", ready=True, ip="10.0.0.1")
NODE = VmStatus(2, "supernode_0", "supernode", "running", ready=True, ip="10.0.0.2", partition="0", partitions="2")
STATUS = FederationStatus(
    7,
    "lab",
    "RUNNING",
    1,
    roles={"superlink": "RUNNING", "supernode": "RUNNING"},
    vms=(LINK, NODE),
    control="10.0.0.1:8000",
)
RUN = RunState("5", "oneflower/app", "running")


class Browser:
    """Sends requests to the page in this process, with these headers, and keeps the cookies that it gets."""

    def __init__(self, app, origin, headers):
        self._app, self._origin, self._headers = app, origin, headers
        self.cookies = httpx.Cookies()

    def request(self, method, path, headers=None, **arguments):
        async def send():
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(
                transport=transport,
                base_url=self._origin,
                headers={**self._headers, **(headers or {})},
                cookies=self.cookies,
            ) as client:
                answer = await client.request(method, path, **arguments)
                self.cookies = client.cookies
                return answer

        return asyncio.run(send())

    def get(self, path, **arguments):
        return self.request("GET", path, **arguments)

    def post(self, path, **arguments):
        return self.request("POST", path, **arguments)


class Desk:
    """A page without a server, and somebody in front of it, who waits at most `patience` seconds."""

    patience = 10

    def open(self, keys, connect, where):
        """Start the page, with these secrets."""
        self.keys = keys
        self.page = Page(connect, where, keys)
        self.office = self.page.office

    def visitor(self, **headers):
        """Return a browser that knows the address of the page, and nothing else."""
        return Browser(self.page.application, self.keys.origin, headers)

    def person(self, **headers):
        """Return the browser that the page was opened in."""
        visitor = self.visitor(**{"origin": self.keys.origin, "sec-fetch-site": "same-origin", **headers})
        visitor.cookies.set(COOKIE, self.keys.session)
        return visitor

    def submit(self, path, **fields):
        """Send a form of the page."""
        return self.person().post(path, data={CSRF_FIELD: self.keys.csrf, **fields})

    def stream(self, source, until):
        """Return the text of a stream, as far as the first event in whose text is `until`."""

        async def read():
            text = ""
            events = self.office.streams.events(source)
            try:
                async with asyncio.timeout(self.patience):
                    async for piece in events:
                        text += piece
                        if until in text:
                            return text
            finally:
                await events.aclose()
            raise AssertionError(text)

        return asyncio.run(read())

    def ended(self):
        """Return the newest job when it has ended, as its page shows it."""
        from oneflower.web import live

        number = max(self.office.jobs._jobs)  # noqa: SLF001
        return self.stream(live.job(self.office, number), "event: end")

    def leave(self):
        """End the page, and return what it says."""
        said = []
        self.page.leave(said.append)
        return said


class Fake(Desk):
    """A page whose federations are not there: `found` are what the API finds."""

    def __init__(self, monkeypatch):
        self.found = []
        self.reset(Keys(PORT))
        monkeypatch.setattr(Federation, "all", lambda _cloud: iter(self.found))
        monkeypatch.setattr(Federation, "find", self._find)
        for name, answer in (("defaults", {"FL_NUM_ROUNDS": "3"}), ("check", ())):
            monkeypatch.setattr(Federation, name, create_autospec(getattr(Federation, name), return_value=answer))

    def reset(self, keys):
        """Start the page, with these secrets."""
        self.open(keys, lambda: SimpleNamespace(close=lambda: None), "this machine")

    def _find(self, _cloud, name):
        for federation in self.found:
            if str(federation.id) == name:
                return federation
        raise OneflowerError(f"There is no federation called {name!r}.", "", ExitCode.NOT_FOUND)

    def federation(self, status=STATUS):
        """Add a federation: it takes the calls that one takes, with the same arguments."""
        made = create_autospec(Federation(SimpleNamespace(), status.id, status.name), spec_set=True)
        made.id, made.name, made.status.return_value = status.id, status.name, status
        made.runs.return_value = ()
        made.sites.all.return_value = ()
        self.found.append(made)
        return made


@pytest.fixture
def fake(monkeypatch):
    made = Fake(monkeypatch)
    yield made
    made.leave()
