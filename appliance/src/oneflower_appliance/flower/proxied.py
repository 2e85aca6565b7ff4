"""Makes the requests of a SuperNode to its SuperLink go through a proxy (FL_PROXY), and no others.

Flower's client would follow the proxy variables of the environment, which also apply to what a ClientApp does, and it
gives up when a proxy says that it cannot reach the SuperLink just now.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import httpx

from oneflower_appliance.flower import internals, places
from oneflower_appliance.flower.features import Feature

if TYPE_CHECKING:
    from oneflower_appliance.proxy import Proxy


def go_through(proxy: Proxy) -> None:
    """Make each client of the Fleet API that this process creates from now on use a proxy."""
    client = internals.fleet_client()
    stock = client.__init__

    @functools.wraps(stock)
    def __init__(self: Any, base_url: str, *, verify: Any = True, **settings: Any) -> None:  # noqa: N807
        stock(self, base_url, verify=verify, **settings)
        direct = vars(self).get("_client")
        if not isinstance(direct, httpx.Client):
            raise places.unsafe(Feature.PROXY, "ProtobufClient._client")
        self._client = httpx.Client(
            transport=_Tunnel(verify=verify, proxy=httpx.Proxy(f"http://{proxy.address}", headers=proxy.headers)),
            timeout=direct.timeout,
            follow_redirects=direct.follow_redirects,
        )
        direct.close()

    client.__init__ = __init__  # type: ignore[method-assign]


class _Tunnel(httpx.HTTPTransport):
    """Sends requests through a proxy. One that cannot open the way is a lost connection: Flower then tries again."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return super().handle_request(request)
        except httpx.ProxyError as error:
            raise httpx.ConnectError(f"The proxy says: {error}", request=request) from error
