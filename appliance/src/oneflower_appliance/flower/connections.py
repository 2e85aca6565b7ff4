"""The connections on which a SuperNode makes requests to its SuperLink, through a proxy (FL_PROXY) if there is one.

Flower's client closes a connection that was idle for five seconds, and learns of a dead one when a request has waited
for half a minute. Here connections are kept for a minute, and the system notices dead ones (`wires`). The SuperLink may
close a kept connection at the moment in which a request is on its way: that request is made once more, on a new one.

Flower's client would follow the proxy variables of the environment, which also apply to what a ClientApp does, and it
gives up when a proxy says that it cannot reach the SuperLink just now.
"""

from __future__ import annotations

import functools
import urllib.request
from typing import TYPE_CHECKING, Any

import httpx

from oneflower_appliance.flower import internals, places
from oneflower_appliance.flower.ca_following import following
from oneflower_appliance.flower.features import Feature
from oneflower_appliance.flower.wires import OPTIONS, kept

if TYPE_CHECKING:
    from oneflower_appliance.proxy import Proxy

_SPARE = 4  # idle connections; a SuperNode has one request for messages, one for its run, and heartbeats
_CLOSED = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)


def keep_connections(proxy: Proxy | None = None) -> None:
    """Make each client of the Fleet API that this process creates from now on use such connections."""
    client = internals.fleet_client()
    own = vars(client).get("__init__")

    @functools.wraps(client.__init__)
    def __init__(self: Any, base_url: str, *, verify: Any = True, **settings: Any) -> None:  # noqa: N807
        # Flower's has none of its own. That of its parent is replaced later (`warm.waits`): it is looked up each time.
        begin = functools.partial(own, self) if own else super(client, self).__init__
        begin(base_url, verify=verify, **settings)
        first = vars(self).get("_client")
        if not isinstance(first, httpx.Client):
            if proxy:
                raise places.unsafe(Feature.PROXY, "ProtobufClient._client")
            return
        if proxy is None and urllib.request.getproxies():
            return  # Flower's client knows how to use them
        self._client = httpx.Client(
            transport=Connections(following(verify), proxy),
            timeout=first.timeout,
            follow_redirects=first.follow_redirects,
        )
        first.close()

    client.__init__ = __init__  # type: ignore[method-assign]


class Connections(httpx.HTTPTransport):
    """Sends requests on kept connections, through a proxy if there is one.

    A proxy that cannot open the way is a lost connection: Flower then tries again.
    """

    def __init__(self, verify: Any, proxy: Proxy | None = None) -> None:
        super().__init__(
            verify=verify,
            proxy=httpx.Proxy(f"http://{proxy.address}", headers=proxy.headers) if proxy else None,
            limits=httpx.Limits(max_keepalive_connections=_SPARE, keepalive_expiry=kept()),
            socket_options=OPTIONS,
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Make a request. Raises `httpx.TransportError`."""
        request.extensions["trace"] = progress = _Progress()
        try:
            try:
                return super().handle_request(request)
            except _CLOSED:
                if progress.is_new or progress.is_answered:
                    raise
                # It was closed while it was idle. What Flower's client sends again after a pause may be sent at once.
                return super().handle_request(request)
        except httpx.ProxyError as error:
            raise httpx.ConnectError(f"The proxy says: {error}", request=request) from error


class _Progress:
    """What was done for a request: whether a connection was opened for it, and whether an answer began."""

    def __init__(self) -> None:
        self.is_new = self.is_answered = False

    def __call__(self, event: str, _: Any) -> None:
        self.is_new = self.is_new or event == "connection.connect_tcp.started"
        self.is_answered = self.is_answered or event == "http11.receive_response_headers.complete"
