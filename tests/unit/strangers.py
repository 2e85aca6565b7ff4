"""Another user of this machine, who listens where a server of ours should."""

from __future__ import annotations

import os
import select
import signal
import socket
from contextlib import contextmanager

NOBODY = 65534


@contextmanager
def stranger(host, port, *, accepts=True):
    """Listen at an address as another user, in a process of its own. Yields the port, and what has come there so far."""
    ready, tell_ready = os.pipe()
    heard, tell_heard = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            _listen(host, port, tell_ready, tell_heard, accepts=accepts)
        finally:
            os._exit(1)
    os.close(tell_ready)
    os.close(tell_heard)

    def received(seconds=0.3):
        """Return what came, once nothing has come for a while: the child sends on what it gets at once."""
        content = b""
        while select.select([heard], [], [], seconds)[0] and (more := os.read(heard, 65536)):
            content += more
        return content

    try:
        yield int(os.read(ready, 20)), received
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(heard)


def _listen(host, port, ready, heard, *, accepts):  # pragma: no cover - another process
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
        os.write(ready, b"%d" % listener.getsockname()[1])
        while accepts:
            connection, _ = listener.accept()
            with connection:
                try:
                    while content := connection.recv(65536):
                        os.write(heard, content)
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                except OSError:
                    continue
        signal.pause()
