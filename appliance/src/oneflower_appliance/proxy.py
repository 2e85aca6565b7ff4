"""The HTTP proxy through which a SuperNode's machine reaches its SuperLink (FL_PROXY).

The proxy is asked for a tunnel (CONNECT, RFC 9110), and passes on what it cannot read: TLS begins inside the tunnel.
"""

from __future__ import annotations

import base64
import http
import http.client
import re
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from oneflower_appliance.formats import join_address, split_address

if TYPE_CHECKING:
    import ssl

_LONGEST, _MOST_LINES = 8192, 100  # of the answer of a proxy
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: ([ -~]*))?\r?\n")


class ProxyError(OSError):
    """There is no way through the proxy. Its text says why, and has no password.

    `status` is what the proxy answered, None if it did not answer.
    """

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status

    @property
    def hint(self) -> str:
        """What to do."""
        if self.wants_password:
            return "Check the user and the password in FL_PROXY."
        if self.status == http.HTTPStatus.FORBIDDEN:
            return (
                "Let the proxy pass CONNECT to that host and port. Many proxies allow port 443 only: "
                "FL_FLEET_API_ADDRESS of the SuperLink sets its port."
            )
        return "Check FL_PROXY, and that the proxy reaches the SuperLink."

    @property
    def wants_password(self) -> bool:
        """Whether the proxy does not accept the user or the password, which no other attempt changes."""
        return self.status == http.HTTPStatus.PROXY_AUTHENTICATION_REQUIRED


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy, with the user and the password that it asks for, if any."""

    host: str
    port: int
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """Read `http://[user:password@]host:port`, with %XX for special characters. Raises `ValueError`."""
        if not re.fullmatch(r"[!#-&(-\[\]-~]+", text):  # a template of OpenNebula holds these
            raise ValueError
        parts = urlsplit(text)
        secret, _, address = parts.netloc.rpartition("@")
        user, separator, password = secret.partition(":")
        if parts.scheme != "http" or parts.path.strip("/") or parts.query or parts.fragment:
            raise ValueError
        if secret and not (user and separator):
            raise ValueError
        host, port = split_address(address)
        found = cls(host, port, unquote(user, errors="strict"), unquote(password, errors="strict"))
        if not (found.user + found.password).isprintable() or ":" in found.user:
            raise ValueError
        return found

    @property
    def address(self) -> str:
        """Its host:port."""
        return join_address((self.host, self.port))

    @property
    def headers(self) -> dict[str, str]:
        """What a request for a tunnel carries."""
        if not self.user:
            return {}
        secret = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return {"Proxy-Authorization": f"Basic {secret}"}

    def open(self, host: str, port: int, timeout: float | None) -> socket.socket:
        """Return a tunnel to a host. Raises `ProxyError`; no step takes longer than `timeout` seconds."""
        try:
            wire = socket.create_connection((self.host, self.port), timeout)
        except OSError as error:
            raise ProxyError(f"the proxy {self.address} (FL_PROXY) does not answer: {error}") from error
        try:
            self._ask(wire, join_address((host, port)))
        except OSError as error:
            wire.close()
            if isinstance(error, ProxyError):
                raise
            raise ProxyError(f"the proxy {self.address} (FL_PROXY) did not answer: {error}") from error
        return wire

    def _ask(self, wire: socket.socket, target: str) -> None:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        headers = {"Host": target, **self.headers}
        lines = [f"CONNECT {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        wire.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
        with wire.makefile("rb", buffering=0) as answer:  # without a buffer, which would take what follows
            status = _STATUS.fullmatch(answer.readline(_LONGEST))
            if status is None:
                raise ProxyError(f"what answers at {self.address} (FL_PROXY) is not an HTTP proxy")
            for _ in range(_MOST_LINES):
                if answer.readline(_LONGEST) in (b"\r\n", b"\n", b""):
                    break
        code = int(status[1])
        if code not in range(200, 300):
            said = f"{code} {(status[2] or b'').decode()}".strip()
            raise ProxyError(f"the proxy {self.address} (FL_PROXY) opens no way to {target}: {said}", code)


class TunnelledConnection(http.client.HTTPSConnection):
    """HTTPS through a tunnel of `proxy`."""

    def __init__(
        self, host: str, port: int | None, *, proxy: Proxy, context: ssl.SSLContext, timeout: float | None
    ) -> None:
        super().__init__(host, port, context=context, timeout=timeout)
        self._proxy = proxy
        self._trusted = context

    def connect(self) -> None:
        """Open the tunnel, and speak TLS in it. Raises `OSError`."""
        wire = self._proxy.open(self.host, self.port, self.timeout)
        try:
            self.sock = self._trusted.wrap_socket(wire, server_hostname=self.host)
        except OSError:
            wire.close()
            raise
