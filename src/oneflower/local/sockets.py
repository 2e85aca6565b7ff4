"""The sockets of the local cloud: its own address, which never changes, and the ports of OpenNebula's servers there."""

from __future__ import annotations

import os
import secrets
import socket
from typing import TYPE_CHECKING

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.peers import listener_uid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oneflower.local.store import Store

XMLRPC_PORT, ONEFLOW_PORT, ONEGATE_PORT = 2633, 2474, 5030
PORTS = (XMLRPC_PORT, ONEFLOW_PORT, ONEGATE_PORT)
_NETWORKS = range(16, 250)


def open_own(store: Store) -> tuple[int, list[socket.socket]]:
    """Listen on 127.N.0.1, and return N. The machines of this cloud know OneGate by that address, so N never changes.

    Raises `OneflowerError`.
    """
    start = secrets.choice(_NETWORKS)
    known = store.setting("network", "")
    for number in [int(known)] if known else [*range(start, _NETWORKS.stop), *range(_NETWORKS.start, start)]:
        try:
            sockets = _listen_everywhere(f"127.{number}.0.1")
        except OSError:
            continue
        store.set_setting("network", str(number))
        return number, sockets
    raise _taken(f"127.{known or start}.0.1", PORTS)


def open_standard() -> list[socket.socket]:
    """Listen on 127.0.0.1, where OpenNebula's servers listen by default. Raises `OneflowerError`."""
    try:
        return _listen_everywhere("127.0.0.1")
    except _PortError as error:
        raise OneflowerError(
            f"The standard port {error.port} of 127.0.0.1 cannot be used: {error.strerror}.",
            "An OpenNebula or another local cloud listens there: stop it, or leave out --ports standard.",
            ExitCode.ENVIRONMENT,
        ) from error


def open_gateway(address: str) -> socket.socket:
    """Listen for OneGate's calls on an address that only machines reach. Raises `OneflowerError`."""
    try:
        return _listen(address, ONEGATE_PORT)
    except OSError as error:
        raise _taken(address, [ONEGATE_PORT]) from error


class _PortError(OSError):
    """A port of an address cannot be listened on."""

    def __init__(self, port: int, error: OSError) -> None:
        super().__init__(error.errno, error.strerror)
        self.port = port


def _listen_everywhere(address: str) -> list[socket.socket]:
    """Listen on every port of an address. Raises `_PortError`, and then leaves none of them open."""
    sockets: list[socket.socket] = []
    for port in PORTS:
        try:
            sockets.append(_listen(address, port))
        except OSError as error:
            for opened in sockets:
                opened.close()
            raise _PortError(port, error) from error
    return sockets


def _listen(address: str, port: int) -> socket.socket:
    # asyncio switches Nagle's algorithm off if the socket says that it is TCP; otherwise every answer waits up to 40
    # ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def _taken(address: str, ports: Sequence[int]) -> OneflowerError:
    """Return the error that says who has the ports of an address. The machines of this cloud know no other address."""
    holders = {port: uid for port in ports if (uid := listener_uid((address, port))) is not None}
    if all(uid == os.geteuid() for uid in holders.values()):
        return OneflowerError(
            f"The local cloud cannot listen on {address}, ports {', '.join(map(str, ports))}.",
            "Another program of yours listens there: stop it, or choose another ONEFLOWER_HOME.",
            ExitCode.ENVIRONMENT,
        )
    who = ", ".join(f"port {port} by user id {uid}" for port, uid in holders.items())
    return OneflowerError(
        f"The local cloud cannot listen on {address}: another user of this machine has taken {who}.",
        "It gets no password and no token, and your machines wait. Have that user or root stop the program "
        f"(root sees it with `ss -ltnp src {address}`), then try again.",
        ExitCode.ENVIRONMENT,
    )
