"""An application, served at doors by a real server on real sockets, in a thread."""

from __future__ import annotations

import ssl
import threading
import time

import uvicorn
from starlette.responses import PlainTextResponse

from oneflower_appliance.flower import serving

ADDRESS = "127.77.0.3"
PLAIN = ssl.SSLContext(
    ssl.PROTOCOL_TLS_CLIENT
)  # for HTTP: without it httpx reads all certificate authorities each time
PROTOBUF = {"content-type": "application/protobuf", "accept": "application/protobuf"}


class Counting:
    """An application that answers with a name, and remembers what it was asked to do."""

    def __init__(self, name):
        self.name, self.done = name, []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            self.done.append((scope["method"], scope["path"]))
            await PlainTextResponse(self.name)(scope, receive, send)


class Served:
    """A server in a thread: `control` is the address of its own door, `fleet` that of the other."""

    def __init__(self, own, fleet=None, certificates=None):
        entrances = [serving.own_entrance(serving.listen((ADDRESS, 0)), own)]
        if fleet:
            entrances.append(serving.fleet_entrance(serving.listen((ADDRESS, 0)), fleet))
        settings = {"log_config": None, "lifespan": "off", "access_log": False}
        if certificates:
            settings |= {"ssl_certfile": certificates.certificate, "ssl_keyfile": certificates.key}
        self.control, self.fleet = (entrance.listener.getsockname() for entrance in (entrances * 2)[:2])
        self.visits = [entrance.visits for entrance in entrances]
        self.server = serving.Server(uvicorn.Config(own, timeout_graceful_shutdown=1, **settings), entrances)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()
