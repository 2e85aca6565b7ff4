"""The one way out of a task's own network: to the SuperNode on its machine.

A process outside takes the connections to a socket inside, and passes bytes to and from the SuperNode's address.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import suppress
from typing import NoReturn

from oneflower_appliance.flower import kernel

COMES_FROM = "127.255.255.254"  # where a relay's connections come from, by which a SuperNode knows them (`task_door`)
_BLOCK = 1 << 18
_WAITING, _MOST = 128, 32  # connections: that wait, and at a time, which take memory of the relay's


class Relay:
    """The relay's process, a child of this one. Must be made before this process has a network of its own."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._ours, theirs = socket.socketpair()
        if not os.fork():
            self._ours.close()
            _be_relay(theirs, self._address)
        theirs.close()

    def connect(self) -> None:
        """Listen in the network of this process, and give the socket to the relay. Raises `OSError`."""
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        with self._ours, socket.socket(family) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(self._address)
            listening.listen(_WAITING)
            socket.send_fds(self._ours, [b"x"], [listening.fileno()])
            self._ours.recv(1)  # it has it


def _be_relay(orders: socket.socket, address: tuple[str, int]) -> NoReturn:
    try:
        kernel.die_with_parent(signal.SIGKILL)
        for each in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        _, [number], *_ = socket.recv_fds(orders, 1, 1)
        orders.send(b"x")
        with socket.socket(fileno=number) as listening:
            places = threading.Semaphore(_MOST)
            while places.acquire():
                inner, _ = listening.accept()
                threading.Thread(target=_pass_on, args=(inner, address, places), daemon=True).start()
    except (OSError, ValueError):
        os._exit(1)  # the task then reaches nothing
    finally:
        os._exit(0)


def _pass_on(inner: socket.socket, address: tuple[str, int], places: threading.Semaphore) -> None:
    try:
        _connect(inner, address)
    finally:
        places.release()


def _connect(inner: socket.socket, address: tuple[str, int]) -> None:
    source = (COMES_FROM, 0) if ":" not in address[0] else None
    with inner, suppress(OSError), socket.create_connection(address, source_address=source) as outer:
        for one in (inner, outer):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = threading.Thread(target=_copy, args=(outer, inner), daemon=True)
        back.start()
        _copy(inner, outer)
        back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    block = memoryview(bytearray(_BLOCK))
    with suppress(OSError):
        while count := source.recv_into(block):
            target.sendall(block[:count])
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
