"""Connections to the local cloud. They send a password only to a server of this user or of root.

While the daemon is down, any user of the machine can listen at its address. So each new connection is checked for who
owns the server at its other end, before anything is sent. No proxy is used.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import httpx

from oneflower_appliance.peers import check_server

if TYPE_CHECKING:
    import requests


def client(base_url: str, auth: tuple[str, str], silence: float) -> httpx.Client:
    """Return an HTTP client. Its requests may also raise `StrangerError`."""

    def look(event: str, info: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            stream = info["return_value"]
            try:
                check_server(stream.get_extra_info("socket"), silence)
            except OSError:
                stream.close()
                raise

    def before(request: httpx.Request) -> None:
        request.extensions = {**request.extensions, "trace": look}

    # There is no TLS to the local cloud. To read the certificate authorities for it takes longer than most requests.
    no_authorities = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    hooks = {"request": [before]}
    return httpx.Client(
        base_url=base_url, auth=auth, timeout=silence, trust_env=False, verify=no_authorities, event_hooks=hooks
    )


def session(silence: float) -> requests.Session:
    """Return a session of requests, for pyone. A `StrangerError` is in the chain of its errors."""
    import requests.adapters  # noqa: PLC0415 - costs time that most commands need not spend
    import urllib3.connection  # noqa: PLC0415

    class Checked(urllib3.connection.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            if self.sock is not None:
                check_server(self.sock, silence)

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Checked

    class Adapter(requests.adapters.HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
            super().init_poolmanager(*arguments, **options)
            self.poolmanager.pool_classes_by_scheme = {"http": Pool}

    made = requests.Session()
    made.trust_env = False
    made.mount("http://", Adapter())
    return made
