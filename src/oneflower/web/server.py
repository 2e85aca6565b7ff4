"""Serves the page on the loopback until it is interrupted."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
import webbrowser
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from oneflower.web.app import Page
from oneflower.web.guard import Keys
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oneflower.api import Cloud

_TRIES = 20
_NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def serve(
    connect: Callable[[], Cloud], where: str, port: int, tell: Callable[[str], None], *, browser: bool = True
) -> None:
    """Serve the page until an interrupt, which also rolls a deployment back that is not over.

    `connect` returns a connection to the cloud, for one thread. `where` names the cloud. `port` 0 stands for a free
    one. `tell` receives the address. Raises `OneflowerError`.
    """
    connect().close()  # what is wrong with the cloud is said here
    listeners = listen(port)
    keys = Keys(listeners[0].getsockname()[1])
    page = Page(connect, where, keys)
    config = uvicorn.Config(
        page.application, log_config=None, access_log=False, lifespan="off", ws="none", server_header=False,
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = _Server(config, page)
    with entrance(keys.address) as file:
        tell(f"The page of {where} is at\n  {keys.address}\nIt opens once. Ctrl-C ends it.")
        if browser and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            webbrowser.open(file.as_uri())
        with suppress(KeyboardInterrupt):  # which is how it ends
            server.run(listeners)
    page.leave(tell)


class _Server(uvicorn.Server):
    """Uvicorn, which ends the streams of the page first: they would not end by themselves."""

    def __init__(self, config: uvicorn.Config, page: Page) -> None:
        super().__init__(config)
        self._page = page

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then the server."""
        self._page.close()
        await super().shutdown(sockets)


def listen(port: int) -> list[socket.socket]:
    """Listen on the loopback, of IPv4 and of IPv6: a browser may try either. Raises `OneflowerError`."""
    for _ in range(_TRIES):
        try:
            first = _bind(socket.AF_INET, "127.0.0.1", port)
        except OSError as error:
            raise _taken(port, error) from error
        try:
            return [first, _bind(socket.AF_INET6, "::1", first.getsockname()[1])]
        except OSError as error:
            if error.errno in _NO_IPV6:
                return [first]
            first.close()
            if port:
                raise _taken(port, error) from error
    raise OneflowerError("No port of the loopback is free.", "Choose one with --port.", ExitCode.ENVIRONMENT)


def _bind(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.listen()  # at once: until then another user could take the port, too
    except OSError:
        listener.close()
        raise
    return listener


def _taken(port: int, error: OSError) -> OneflowerError:
    return OneflowerError(
        f"The page cannot listen on port {port} of the loopback: {error.strerror}.",
        "Choose another with --port, or leave it out for a free one.",
        ExitCode.ENVIRONMENT,
    )


@contextmanager
def entrance(address: str) -> Iterator[Path]:
    """Yield a file that leads to the address. A browser's command line, which all users see, names the file only."""
    with tempfile.TemporaryDirectory(prefix="oneflower-page-") as folder:  # which only its user may enter
        file = Path(folder) / "open.html"
        file.write_text(f'<!doctype html><meta http-equiv="refresh" content="0;url={address}">\n', encoding="utf-8")
        yield file
