"""Connections to the local cloud, over which a password goes only to a server of this user's or root's.

While its daemon is down any user of the machine can listen at its address. So whose server it is is looked up on each
connection, when there is one and before anything is sent on it. No proxy is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx

from oneflower_appliance.peers import StrangerError, check_server

if TYPE_CHECKING:
    import requests


def client(base_url: str, auth: tuple[str, str], silence: float) -> httpx.Client:
    """Return a client for HTTP. Its requests raise `StrangerError`, too."""

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

    return httpx.Client(
        base_url=base_url, auth=auth, timeout=silence, trust_env=False, event_hooks={"request": [before]}
    )


def session(silence: float) -> requests.Session:
    """Return a session of requests, through which pyone speaks. `stranger_of` finds the refusal among its errors."""
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


def stranger_of(error: BaseException | None) -> StrangerError | None:
    """Return the refusal of a stranger's server among the causes of an error."""
    while error is not None and not isinstance(error, StrangerError):
        inner = [part for part in (getattr(error, "reason", None), *error.args) if isinstance(part, BaseException)]
        error = error.__cause__ or error.__context__ or next(iter(inner), None)
    return error
