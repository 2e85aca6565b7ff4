"""Networks as they are: a line that is slow, far, lossy, cut or silent, and an HTTP proxy.

A `Line` passes TCP connections on in user space, because not every kernel can delay packets (netem).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import subprocess
import threading
import time

_PIECE = 64 * 1024
_AGAIN = 0.3  # seconds that TCP needs to send a lost packet again, at least


class Line:
    """A line to `target`, as an address of this machine.

    `delay` is in seconds, one way. `rate` is in bytes a second, each way; 0 means no limit. `loss` is the share of
    pieces that arrive only when they are sent again. `carried` counts the bytes to and from the target; if it `keeps`
    them, they are in `kept`.
    """

    def __init__(self, target, *, delay=0.0, rate=0, loss=0.0, keeps=False):
        self.kept = bytearray() if keeps else None
        self.target, self.delay, self.rate, self.loss = target, delay, rate, loss
        self.carried = {"to": 0, "from": 0}
        self.opened = 0
        self._free = {"to": 0.0, "from": 0.0}
        self._random = random.Random(0)
        self._silent = self._is_cut = False
        self._pairs = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self._ready.wait()

    def cut(self, *, silently=False):
        """End all connections and refuse new ones. Silently: nothing passes any more, and nobody is told."""
        self._silent, self._is_cut = silently, True
        if not silently:
            self._loop.call_soon_threadsafe(self._end_all)

    def mend(self):
        """Let new connections pass. Those from before a silent cut stay dead, as after a NAT that has forgotten them."""
        self._silent = self._is_cut = False

    @contextlib.contextmanager
    def is_cut(self, *, silently=False):
        """Be cut inside the context."""
        self.cut(silently=silently)
        try:
            yield
        finally:
            self.mend()

    def close(self):
        """End everything."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def _end_all(self):
        for task in self._pairs:
            task.cancel()

    async def _serve(self):
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with await asyncio.start_server(self._pass_on, "127.0.0.1", 0) as server:
            self.address = server.sockets[0].getsockname()[:2]
            self._ready.set()
            await self._over.wait()
            self._end_all()
            await asyncio.sleep(0)

    async def _pass_on(self, reader, writer):
        if self._is_cut and not self._silent:
            writer.transport.abort()
            return
        self.opened += 1
        task = asyncio.current_task()
        self._pairs.add(task)
        there = None
        try:
            await self._as_long_as_silent()
            back, there = await asyncio.open_connection(*self.target)
            for each in (writer, there):
                each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(reader, there, "to"))
                both.create_task(self._carry(back, writer, "from"))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._pairs.discard(task)
            for each in filter(None, (writer, there)):
                each.transport.abort()

    async def _as_long_as_silent(self):
        if self._silent:
            await asyncio.Event().wait()  # until somebody gives up

    async def _carry(self, reader, writer, way):
        """Pass on what comes one way, each piece at its time."""
        pieces = asyncio.Queue(256)
        async with asyncio.TaskGroup() as both:
            both.create_task(self._take(reader, pieces, way))
            both.create_task(self._give(pieces, writer))

    async def _take(self, reader, pieces, way):
        loop = asyncio.get_running_loop()
        while True:
            data = await reader.read(_PIECE)
            await self._as_long_as_silent()
            self.carried[way] += len(data)
            if self.kept is not None:
                self.kept += data
            now = loop.time()
            if self.rate:
                self._free[way] = max(self._free[way], now) + len(data) / self.rate
                await asyncio.sleep(self._free[way] - now)
            late = _AGAIN + 2 * self.delay if self._random.random() < self.loss else 0.0
            await pieces.put((loop.time() + self.delay + late, data))
            if not data:
                return

    async def _give(self, pieces, writer):
        loop = asyncio.get_running_loop()
        while True:
            when, data = await pieces.get()
            await asyncio.sleep(when - loop.time())
            await self._as_long_as_silent()
            if not data:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()


def free_address():
    """Return an address of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()


class HttpProxy:
    """tinyproxy, a real HTTP proxy, which wants a password and passes CONNECT on to some ports.

    It listens on the loopback, or on an `address` of a network namespace.
    """

    user, password = "north", "not-in-a-log"

    def __init__(self, folder, ports, space=None, address=""):
        self.log = folder / "tinyproxy.log"
        self.address = (address, 3128) if space else free_address()
        lines = [
            f"Port {self.address[1]}", f"Listen {self.address[0]}", "Timeout 600", f'LogFile "{self.log}"',
            "LogLevel Connect", f"BasicAuth {self.user} {self.password}", *(f"ConnectPort {port}" for port in ports),
        ]  # fmt: skip
        (folder / "tinyproxy.conf").write_text("\n".join(lines) + "\n")
        within = space.within if space else ()
        self._process = subprocess.Popen([*within, "tinyproxy", "-d", "-c", str(folder / "tinyproxy.conf")])
        deadline = time.monotonic() + 10
        while not (space.finds(*self.address) == "open" if space else self._answers()):
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def _answers(self):
        with contextlib.suppress(OSError), socket.create_connection(self.address, 1):
            return True
        return False

    def tunnels(self):
        """The targets that it was asked for, one for each connection."""
        return re.findall(r": CONNECT (\S+) HTTP/", self.log.read_text())

    def close(self):
        """End it."""
        self._process.terminate()
        self._process.wait(10)


def proxy_url(address, secret=f"{HttpProxy.user}:{HttpProxy.password}"):
    """Return the value of FL_PROXY for a proxy at an address."""
    return f"http://{secret}@{address[0]}:{address[1]}"
