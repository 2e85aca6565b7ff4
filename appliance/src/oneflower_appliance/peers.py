"""Who owns the other end of a TCP connection on this machine, according to the kernel: sock_diag(7) or /proc/net/tcp.

sock_diag looks up one connection, in microseconds. For the tables the kernel writes all connections, in milliseconds:
they are for kernels and sandboxes without sock_diag. In both, two fields are misleading: for a socket that no process
holds (closed, or not accepted yet) the kernel says uid 0 and inode 0. So only an established connection counts, and
only if a process holds its end.
"""

from __future__ import annotations

import ipaddress
import os
import pwd
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

Address = tuple[str, int]

_ESTABLISHED, _LISTENING = "01", "0A"
_NOBODY = "0"
_TABLES = (("tcp", False), ("tcp6", True))  # and whether an IPv4 address stands there as one of IPv6
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.05

_SOCK_DIAG, _BY_FAMILY, _REQUEST, _KERNEL = 4, 20, 1, (0, 0)
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ASKED = struct.Struct("=BBxxI")  # family, protocol, states
_ENDS = struct.Struct(">HH16s16s")  # ports and addresses
_ANY_INTERFACE_AND_COOKIE = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
_FOUND = struct.Struct("=xB62xII")  # state, uid, inode


class StrangerError(OSError):
    """A server on this machine belongs to another user or to nobody: no secret may be sent to it."""


def is_loopback(host: str) -> bool:
    """Whether the host in a URL is this machine's loopback."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def can_tell() -> bool:
    """Whether this system reports who owns a connection."""
    return Path("/proc/net/tcp").exists()


def peer_uid(peer: Address, own: Address) -> int | None:
    """Return the user id that holds the `peer` end of a connection to `own` on this machine, or None."""
    try:
        state, uid, inode = _look_up(peer, own)
    except (OSError, struct.error, AttributeError):  # there is no such connection, or no sock_diag
        return _peer_uid_in_tables(peer, own)
    return uid if state == int(_ESTABLISHED, 16) and inode else None


def _look_up(end: Address, other: Address) -> tuple[int, int, int]:
    """Return state, uid and inode of the connection from `end` to `other`, else of the listener at `end`.

    Raises `OSError` if there is neither.
    """
    ips = [ipaddress.ip_address(address[0]) for address in (end, other)]
    family = socket.AF_INET if ips[0].version == 4 else socket.AF_INET6
    ends = _ENDS.pack(end[1], other[1], *(ip.packed for ip in ips))
    asked = _ASKED.pack(family, socket.IPPROTO_TCP, 0xFFFFFFFF) + ends + _ANY_INTERFACE_AND_COOKIE
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        kernel.sendto(_HEADER.pack(_HEADER.size + len(asked), _BY_FAMILY, _REQUEST, 0, 0) + asked, _KERNEL)
        answer, sender = kernel.recvfrom(4096, socket.MSG_DONTWAIT)  # the answer was there before `sendto` returned
    if sender != _KERNEL or _HEADER.unpack_from(answer)[1] != _BY_FAMILY:
        raise OSError("not found")
    state, uid, inode = _FOUND.unpack_from(answer, _HEADER.size)
    return state, uid, inode


def _peer_uid_in_tables(peer: Address, own: Address) -> int | None:
    for table, mapped in _TABLES:
        # The text is searched without parsing: with a hundred connections a second there are thousands of rows.
        ends = f" {_hexadecimal(peer, mapped=mapped)} {_hexadecimal(own, mapped=mapped)} {_ESTABLISHED} "
        _, found, rest = _read(table).partition(ends)
        if found:
            _queues, _timer, _retransmissions, uid, _timeout, inode = rest.split(None, 6)[:6]
            return int(uid) if inode != _NOBODY else None
    return None


def is_ours(connection: socket.socket) -> bool:
    """Whether a process of this user, or of root, holds the other end of an accepted connection. When unsure: no."""
    return who_is_there(connection)[1]


def who_is_there(connection: socket.socket) -> tuple[str, bool]:
    """Return whose process holds the other end of an accepted connection, and whether it is this user's or root's.

    When unsure, it is not.

    One look-up per connection is enough, because its other end is one socket, which belongs to the user who made it.
    But the look-up is by addresses, and these can be reused as soon as the other end is gone. So the last check is that
    this end has not seen it close: then it was there all the time, and the addresses were not reused.
    """
    try:
        peer, own = connection.getpeername()[:2], connection.getsockname()[:2]
        uid = peer_uid(peer, own)
        return _name(uid), uid in (0, os.geteuid()) and _stands(connection)
    except OSError:
        return _name(None), False


def _name(uid: int | None) -> str:
    if uid is None:
        return "an unknown user"
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def listener_uid(address: Address) -> int | None:
    """Return the user id that listens at `address`, or None."""
    host, port = address
    hosts = (host, "0.0.0.0", "::")  # noqa: S104 - looked for, not listened on
    places = {_hexadecimal((at, port), mapped=mapped) for at in hosts for mapped in (False, True)}
    for local, _, state, uid, inode in _rows():
        if state == _LISTENING and inode != _NOBODY and local in places:
            return int(uid)
    return None


def check_server(connection: socket.socket, patience: float) -> None:
    """Raise `StrangerError` unless a process of this user, or root's, holds the other end of a connection.

    Nobody holds that end until the server accepts, so this waits `patience` seconds for it. If the server has hung up,
    its owner can never be known.
    """
    if not can_tell():
        return
    hung_up = StrangerError("the server hung up before its owner was known, so nothing was sent")
    try:
        server, own = connection.getpeername()[:2], connection.getsockname()[:2]
    except OSError as error:
        raise hung_up from error
    deadline, pause = time.monotonic() + patience, _FIRST_PAUSE
    while (uid := peer_uid(server, own)) is None:
        if not _stands(connection):
            raise hung_up
        if time.monotonic() > deadline:
            raise StrangerError("nobody accepts the connection there, so the server's owner is not known")
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    if uid not in (0, os.geteuid()):
        raise StrangerError(f"another user of this machine (uid {uid}) listens there, so nothing was sent")


def _stands(connection: socket.socket) -> bool:
    """Whether neither end has hung up, as far as this end knows."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == int(_ESTABLISHED, 16)


def _rows() -> Iterator[tuple[str, str, str, str, str]]:
    """Yield for each socket: local and remote address, state, uid, inode."""
    for table, _ in _TABLES:
        for line in _read(table).splitlines()[1:]:
            fields = line.split()
            yield fields[1], fields[2], fields[3], fields[7], fields[9]


def _read(table: str) -> str:
    try:
        return Path(f"/proc/net/{table}").read_text(encoding="ascii")
    except OSError:
        return ""


def _hexadecimal(address: Address, *, mapped: bool) -> str:
    """Return an address as the kernel writes it; `mapped` is for an IPv4 address in the table of IPv6."""
    ip = ipaddress.ip_address(address[0])
    if ip.version == 4 and mapped:
        ip = ipaddress.ip_address(f"::ffff:{ip}")
    packed = ip.packed
    words = struct.unpack(f">{len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in struct.unpack(f"={len(words)}I", packed)) + f":{address[1]:04X}"
