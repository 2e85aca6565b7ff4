"""The local cloud without a daemon: its servers in this process, machines that run nothing, a stepped clock."""

from __future__ import annotations

import asyncio
import copy
import itertools

import httpx

from oneflower.local.clock import SteppedClock, Timing
from oneflower.local.oned.compute import Compute
from oneflower.local.oned.xmlrpc import xmlrpc_app
from oneflower.local.oneflow.calls import oneflow_app
from oneflower.local.oneflow.documents import Documents
from oneflower.local.oneflow.lifecycle import Lifecycle
from oneflower.local.onegate.calls import onegate_app
from oneflower.local.store import Store

SECRET = "oneadmin:pass:word"
ONEGATE = "http://127.0.0.1:5030"


class Client:
    """Speaks HTTP with an application in this process."""

    def __init__(self, app, base, auth=None):
        self.app, self.base, self.auth = app, base, auth

    def request(self, method, path, **arguments):
        async def send():
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url=self.base, auth=self.auth) as client:
                return await client.request(method, path, **arguments)

        return asyncio.run(send())

    def get(self, path, **arguments):
        return self.request("GET", path, **arguments)

    def post(self, path, **arguments):
        return self.request("POST", path, **arguments)

    def put(self, path, **arguments):
        return self.request("PUT", path, **arguments)

    def delete(self, path, **arguments):
        return self.request("DELETE", path, **arguments)


class NoHost:
    """Runs nothing."""

    def __init__(self):
        self._addresses = (f"127.99.{n >> 8}.{n & 255}" for n in itertools.count(2))

    def prepare(self, vm, token):
        pass

    def discard(self, vm):
        pass

    def address(self):
        return next(self._addresses)


class Trace(Documents):
    """Documents that remember every state a service was in."""

    def __init__(self, store, clock):
        super().__init__(store, clock)
        self.history = {}

    def add(self, document):
        self._remember(document)
        return super().add(document)

    def save(self, document):
        super().save(document)
        self._remember(document)

    def _remember(self, document):
        if "start_time" in document.body:
            self.history.setdefault(document.id, []).append(copy.deepcopy(document.wire()))


class LocalServers:
    """Everything that the daemon has except processes."""

    def __init__(self, path, start=None, timing=None):
        self.store = Store(path)
        self.clock = SteppedClock(start)
        self.compute = Compute(self.store, self.clock, timing or Timing(), ONEGATE)
        self.compute.host = NoHost()
        self.documents = Trace(self.store, self.clock)
        self.lifecycle = Lifecycle(self.documents, self.compute)
        self.lifecycle.start()
        flow = oneflow_app(self.documents, self.lifecycle, self.compute, SECRET)
        self.flow = flow
        self.oneflow = self.as_user(*SECRET.split(":", 1))
        self.onegate = Client(onegate_app(self.documents, self.lifecycle, self.compute), ONEGATE)
        self.xmlrpc = Client(xmlrpc_app(self.compute, SECRET), "http://127.0.0.1:2633")

    def as_user(self, name, password):
        """Return a client of OneFlow with a user's requests."""
        return Client(self.flow, "http://127.0.0.1:2474", (name, password))

    def close(self):
        self.store.close()

    def put(self, vm, text):
        """Act as the guest of a VM."""
        return self.onegate.put("/vm", content=text, headers=self.headers(vm))

    def headers(self, vm):
        return {"X-ONEGATE-TOKEN": self.compute.token(self.compute.find(vm)), "X-ONEGATE-VMID": str(vm)}
