"""Networks of their own: namespaces of Linux, lines that are slow, far and lossy, and a proxy that routes TLS by name.

Not every kernel can delay packets (netem). So a `Wire` has a TUN device at each end, and what carries the packets from
one to the other is this process: it delays them and loses some. TCP in the kernel sees a real line.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import itertools
import os
import random
import selectors
import shutil
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

_NEW_TUN, _TUN_WITHOUT_HEADER = 0x400454CA, 0x1001  # TUNSETIFF, IFF_TUN | IFF_NO_PI
_NUMBERS = itertools.count()
_CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3]))
except ConnectionRefusedError:
    print("refused")
except TimeoutError:
    print("silence")
else:
    print("open")
"""


def ran(*command, given=None):
    """Run a command that must succeed."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"


class Namespace:
    """A network namespace, where names are those of `hosts` and of nothing else."""

    def __init__(self, name, hosts=None):
        self.name = f"test{os.getpid()}-{name}"
        self._files = Path("/etc/netns") / self.name
        self._files.mkdir(parents=True)
        lines = {"localhost": "127.0.0.1", **(hosts or {})}
        (self._files / "hosts").write_text("".join(f"{address} {host}\n" for host, address in lines.items()))
        ran("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    @property
    def within(self):
        """What a command begins with, to run there."""
        return ("ip", "netns", "exec", self.name)

    def ip(self, *arguments):
        """Configure its devices, addresses and routes."""
        ran("ip", "-n", self.name, *arguments)

    def nft(self, rules):
        """Add rules of its firewall."""
        ran(*self.within, "nft", "-f", "-", given=rules)

    def forward(self):
        """Be a router."""
        ran(*self.within, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")

    def finds(self, address, port, seconds=5.0):
        """Return what becomes of a TCP connection from there: `open`, `refused` or `silence`."""
        command = [*self.within, sys.executable, "-c", _CONNECT, address, str(port), str(seconds)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def close(self):
        """Remove it. Processes that are still there keep it alive."""
        ran("ip", "netns", "del", self.name)
        shutil.rmtree(self._files)
        with contextlib.suppress(OSError):
            self._files.parent.rmdir()


class Wire:
    """A line of IP packets from the namespace `near` to `far`, each with the address it has there.

    `delay` is in seconds, one way. `loss` is the share of packets that never arrive. `up` and `down` are the rates from
    and to `near` as tc writes them (`1mbit`), empty for no limit. `carried` counts the bytes that arrived.
    """

    def __init__(self, near, far, *, delay=0.0, loss=0.0, up="", down=""):
        self.delay, self.loss = delay, loss
        self.carried = {"up": 0, "down": 0}
        self._over = False
        self._random = random.Random(0)
        self._ends = {way: self._end(*end, rate) for way, end, rate in (("up", near, up), ("down", far, down))}
        (space, _), (_, beyond) = near, far
        space.ip("route", "add", "default", "via", beyond)
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    @staticmethod
    def _end(space, address, rate):
        """Return the file of a TUN device in a namespace: what is sent there is read here."""
        name = f"wire{next(_NUMBERS)}"
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, _NEW_TUN, struct.pack("16sH14x", name.encode(), _TUN_WITHOUT_HEADER))
        ran("ip", "link", "set", name, "netns", space.name)
        space.ip("address", "add", f"{address}/24", "dev", name)
        space.ip("link", "set", name, "up")
        if rate:
            ran("tc", "-n", space.name, "qdisc", "add", "dev", name, "root", "tbf", "rate", rate, "burst", "5kb", "latency", "400ms")  # fmt: skip
        return device

    def _carry(self):
        due, number = [], itertools.count()
        others = {"up": self._ends["down"], "down": self._ends["up"]}
        with selectors.DefaultSelector() as selector:
            for way, device in self._ends.items():
                selector.register(device, selectors.EVENT_READ, way)
            while not self._over:
                wait = due[0][0] - time.monotonic() if due else 0.2
                for key, _ in selector.select(max(0.0, min(wait, 0.2))):
                    with contextlib.suppress(BlockingIOError):
                        while packet := os.read(key.fd, 65536):
                            if self._random.random() >= self.loss:
                                heapq.heappush(due, (time.monotonic() + self.delay, next(number), key.data, packet))
                while due and due[0][0] <= time.monotonic():
                    _, _, way, packet = heapq.heappop(due)
                    self.carried[way] += len(packet)
                    with contextlib.suppress(OSError):
                        os.write(others[way], packet)

    def close(self):
        """Remove it."""
        self._over = True
        self._thread.join()
        for device in self._ends.values():
            os.close(device)


class NameRouter:
    """haproxy, which passes TLS on by the name in its first message (SNI) and cannot read what it passes on."""

    def __init__(self, folder, space, address, ports, targets):
        lines = [
            "defaults", "mode tcp", "timeout connect 5s", "timeout client 1h", "timeout server 1h",
            "frontend tls", *(f"bind {address}:{port}" for port in ports), "tcp-request inspect-delay 5s",
            "tcp-request content accept if { req.ssl_hello_type 1 }",
            *(f"use_backend {name} if {{ req.ssl_sni -i {name} }}" for name in targets),
        ]  # fmt: skip
        for name, target in targets.items():
            lines += [f"backend {name}", f"server one {target}"]
        (folder / "haproxy.cfg").write_text("\n".join(lines) + "\n")
        self._process = subprocess.Popen([*space.within, "haproxy", "-db", "-f", str(folder / "haproxy.cfg")])
        deadline = time.monotonic() + 10
        while space.finds(address, ports[0]) != "open":
            assert self._process.poll() is None
            assert time.monotonic() < deadline

    def close(self):
        """End it."""
        self._process.terminate()
        self._process.wait(10)
