"""TCP connections between a SuperNode and its SuperLink: for how long they are kept, and when they count as dead.

A new connection costs two round trips before its first request. Over a long line that is a fifth of a second, so a
connection waits a minute for the next request. It also costs the SuperLink a quarter of a megabyte, so it does not
wait for longer: a phase of more than a minute does not notice two round trips.

Packets may disappear without a word. Without these options, the system would wait about fifteen minutes for somebody
who is no longer there. The probes also keep a NAT from forgetting a connection.
"""

from __future__ import annotations

import random
import socket

KEPT = 60.0  # seconds without a request after which a SuperNode closes a connection, at most
OPEN = KEPT + 15.0  # seconds without a request after which a SuperLink does so
DEAD = 30.0  # seconds for which nothing that was sent has been acknowledged
_IDLE, _BETWEEN = 15, 5  # seconds: without a packet, before the first probe, and from one probe to the next

OPTIONS: tuple[tuple[int, int, int], ...] = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _BETWEEN),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, int((DEAD - _IDLE) / _BETWEEN)),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * DEAD)),
)


def notice_death(wire: socket.socket) -> None:
    """Have the system end a connection `DEAD` seconds after the other end has gone, and those that a listener takes."""
    for option in OPTIONS:
        wire.setsockopt(*option)


def kept() -> float:
    """Return for how many seconds to keep idle connections: not all SuperNodes close theirs at the same moment."""
    return KEPT * random.uniform(0.75, 1.0)  # noqa: S311 - no secret
