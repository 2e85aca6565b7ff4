"""Receives the bundles that a SuperNode fetches without copying them several times.

Flower's HTTP client gets the body of an answer in pieces of 16 KiB, the size of a TLS record. Each passes through
several layers in Python, which take three times the CPU time of TLS itself. `http.client` has the body decrypted into
its place. So bundles come through connections of their own. All other requests are made as before. An answer may take
as long as a SuperLink lets the body of a request take; then it is asked for again.
"""

from __future__ import annotations

import functools
import http.client
import select
import socket
import ssl
import threading
import time
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx

from oneflower_appliance.flower import internals
from oneflower_appliance.flower.bodies import PATIENCE, SLOWEST
from oneflower_appliance.flower.ca_following import following
from oneflower_appliance.flower.warm.bundles import PULL_OBJECTS
from oneflower_appliance.flower.warm.headers import BUNDLE
from oneflower_appliance.flower.warm.pace import Pace
from oneflower_appliance.flower.wires import kept, notice_death
from oneflower_appliance.proxy import TunnelledConnection

if TYPE_CHECKING:
    from oneflower_appliance.proxy import Proxy

    _Begun = tuple[http.client.HTTPResponse, socket.socket]


def download_directly(proxy: Proxy | None = None) -> None:
    """Make each client of the Fleet API that this process creates from now on fetch bundles in this way.

    They come through `proxy`, if there is one. Clients without TLS, and those that use another proxy or the
    certificate authorities of their HTTP library, do not.
    """
    client = internals.fleet_client()
    stock = client.__init__

    @functools.wraps(stock)
    def __init__(self: Any, base_url: str, *, verify: Any = True, **settings: Any) -> None:  # noqa: N807
        stock(self, base_url, verify=verify, **settings)
        trusted = isinstance(verify, str | ssl.SSLContext)
        direct = proxy is not None or not urllib.request.getproxies()
        if base_url.startswith("https:") and trusted and "_client" in vars(self) and direct:
            verify = following(verify)
            context = ssl.create_default_context(cafile=verify) if isinstance(verify, str) else verify
            self._client = Downloads(self._client, context, proxy)

    client.__init__ = __init__  # type: ignore[method-assign]


class Downloads:
    """An HTTP client that is `stock`, except for requests for bundles."""

    def __init__(self, stock: httpx.Client, context: ssl.SSLContext, proxy: Proxy | None = None) -> None:
        self._stock = stock
        self._proxy = proxy
        self._context = context
        self._kept = kept()
        self._pace = Pace()
        self._idle: list[tuple[float, http.client.HTTPSConnection]] = []

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Make a request and return its answer, with its whole body. Raises `httpx.HTTPError`."""
        if options or not request.url.path.endswith(f"/{PULL_OBJECTS}"):
            return self._stock.send(request, **options)
        request.headers[BUNDLE] = str(self._pace.size)
        connection = self._idle_connection()
        try:
            begun = _begin_again(connection, request) if connection else None
            if connection is None or begun is None:
                connection = self._new_connection(request)
                begun = _begin(connection, request)
            began = time.monotonic()
            found = _finish(begun, request)
            self._pace.note(len(found.content), time.monotonic() - began)
        except (OSError, http.client.HTTPException) as error:
            if connection:
                connection.close()
            # Flower tries again, except where the text speaks of certificates or of TLS.
            bad = isinstance(error, ssl.SSLCertVerificationError)
            why = f"the SuperLink's certificate is not valid: {error}" if bad else "the connection was lost"
            raise httpx.ReadError(why, request=request) from error
        if connection.sock:
            self._idle.append((time.monotonic(), connection))
        return found

    def close(self) -> None:
        """Close all connections."""
        while self._idle:
            self._idle.pop()[1].close()
        self._stock.close()

    def _idle_connection(self) -> http.client.HTTPSConnection | None:
        while True:
            try:
                since, connection = self._idle.pop()  # another thread may have taken the last one
            except IndexError:
                return None
            if time.monotonic() - since < self._kept and not _has_news(connection.sock):
                return connection
            connection.close()

    def _new_connection(self, request: httpx.Request) -> http.client.HTTPSConnection:
        patience = request.extensions.get("timeout", {}).get("read")
        host, port = request.url.host, request.url.port
        if self._proxy:
            return TunnelledConnection(host, port, proxy=self._proxy, context=self._context, timeout=patience)
        return http.client.HTTPSConnection(host, port, timeout=patience, context=self._context)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)


def _begin(connection: http.client.HTTPSConnection, request: httpx.Request) -> _Begun:
    """Make a request, and return its answer, whose body is not read, and the socket that it comes from."""
    is_new = connection.sock is None
    if is_new:
        connection.connect()
        notice_death(connection.sock)
    connection.putrequest(request.method, request.url.raw_path.decode(), skip_host=True, skip_accept_encoding=True)
    for name, value in request.headers.multi_items():
        connection.putheader(name, value)
    connection.endheaders(request.read())
    wire = connection.sock  # which the connection forgets if the answer is its last
    return connection.getresponse(), wire


def _begin_again(connection: http.client.HTTPSConnection, request: httpx.Request) -> _Begun | None:
    """Make a request on a connection that was idle. Returns None if it was closed before an answer came."""
    try:
        return _begin(connection, request)
    except (ConnectionError, ssl.SSLEOFError):
        connection.close()
        return None


def _finish(begun: _Begun, request: httpx.Request) -> httpx.Response:
    answer, wire = begun
    limit = threading.Timer(PATIENCE + (answer.length or 0) / SLOWEST, _cut, (wire,))
    limit.daemon = True
    limit.start()
    try:
        content = answer.read()
    finally:
        limit.cancel()
    return httpx.Response(answer.status, headers=answer.getheaders(), content=content, request=request)


def _has_news(wire: socket.socket) -> bool:
    """Whether something came on an idle connection: that it is closed."""
    look = select.poll()
    look.register(wire, select.POLLIN)
    return bool(look.poll(0))


def _cut(wire: socket.socket) -> None:
    """End a connection that another thread reads from: the time for the answer is over."""
    with suppress(OSError):
        socket.socket.shutdown(wire, socket.SHUT_RDWR)  # that of a TLS socket would let the other thread read on
