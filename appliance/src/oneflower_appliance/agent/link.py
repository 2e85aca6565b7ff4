"""A client of a SuperLink: its health, over its own protocols, and oneflower's API next to Flower's."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from contextlib import closing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from oneflower_appliance.ca_file import CaFile
from oneflower_appliance.formats import split_address
from oneflower_appliance.joining import CA_PATH, JOIN_PATH
from oneflower_appliance.node_state import NodeState
from oneflower_appliance.orders import WHO_HEADER
from oneflower_appliance.proxy import Proxy, TunnelledConnection
from oneflower_appliance.run_state import RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

T = TypeVar("T")

_LONGEST = 64 * 1024  # bytes of an answer to somebody who is not a member yet
_WHO = "the agent of this SuperLink"
_PATIENCE = 5.0  # seconds
_PROTOBUF = {"Content-Type": "application/protobuf", "Accept": "application/protobuf"}


class Probe:
    """Asks a SuperLink questions over its real protocols.

    `ca` is the certificate to trust, None for plaintext. `proxy` is what all connections go through, if anything.
    """

    def __init__(self, ca: Path | None, proxy: Proxy | None = None) -> None:
        self._context = CaFile(str(ca)) if ca else None
        self._proxy = proxy

    def _connection(self, address: str, context: ssl.SSLContext | None) -> http.client.HTTPConnection:
        host, port = split_address(address)
        if context is None:
            return http.client.HTTPConnection(host, port, timeout=_PATIENCE)
        if self._proxy is None:
            return http.client.HTTPSConnection(host, port, timeout=_PATIENCE, context=context)
        return TunnelledConnection(host, port, proxy=self._proxy, context=context, timeout=_PATIENCE)

    def _ask(self, address: str, path: str, body: bytes | None = None) -> http.client.HTTPResponse:
        """Return the answer, whose body is not read. Raises `OSError`."""
        return self._exchange(self._connection(address, self._context), path, body)[0]

    def _exchange(
        self, connection: http.client.HTTPConnection, path: str, body: bytes | None, most: int = 0
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """Return the answer, and of its body at most so many bytes. Raises `OSError`."""
        with closing(connection):
            try:
                headers = _PROTOBUF if body is not None else {}
                connection.request("GET" if body is None else "POST", path, body, headers)
                answer = connection.getresponse()
                return answer, answer.read(most) if most else b""
            except http.client.HTTPException as error:
                raise OSError(f"the answer is not HTTP: {error!r}") from error

    def _status(self, address: str, path: str, body: bytes | None = None) -> int:
        return self._ask(address, path, body).status

    def fleet_answers(self, address: str) -> bool:
        """Whether the Fleet API answers there: health is good, and an unsigned Fleet request is refused as such.

        Raises `OSError` (`ssl.SSLError` among them) when there is no connection.
        """
        return self._status(address, "/health") == 200 and self._status(address, "/v1/fleet/pull-messages", b"") == 401

    def clock_difference(self, address: str) -> float:
        """Return by how many seconds the SuperLink's clock is ahead of this machine's, to about a second.

        Raises `OSError` when there is no connection.
        """
        theirs = parsedate_to_datetime(self._ask(address, "/health").headers.get("Date", ""))
        return (theirs - datetime.now(UTC)).total_seconds()

    def control_answers(self, address: str) -> bool:
        """Whether the Control API lists nodes there. Raises `OSError` when there is no connection."""
        return self._status(address, "/v1/control/list-nodes", b"") == 200

    def lists_online(self, address: str, node_id: str) -> bool:
        """Whether the SuperLink lists the SuperNode as online. Raises `OSError` when there is no connection."""
        return self._status(address, f"/health/supernode/{node_id}") == 200

    def knows_stuck(self, address: str, node_id: str) -> bool:
        """Whether the SuperNode still works on a message whose round has ended. Raises `OSError` without connection."""
        return self._status(address, f"/health/supernode/{node_id}") == 409

    def join(self, address: str, body: bytes) -> tuple[int, bytes]:
        """Send a request to join (`joining.py`). Returns the status and the answer. Raises `OSError`."""
        answer, content = self._exchange(self._connection(address, self._context), JOIN_PATH, body, _LONGEST)
        return answer.status, content

    def fetch_ca(self, address: str) -> bytes:
        """Return the CA's certificates that a SuperLink says are its own. Nothing is sent, and nothing is trusted yet.

        Raises `OSError`.
        """
        unverified = ssl.create_default_context()
        unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
        answer, content = self._exchange(self._connection(address, unverified), CA_PATH, None, _LONGEST)
        if answer.status != HTTPStatus.OK:
            raise ConnectionError(f"it does not tell its CA ({answer.status} {answer.reason})")
        return content


class KeyRefusedError(ValueError):
    """Flower refuses a node's key. `spent` if the reason is that the key was unregistered before."""

    def __init__(self, reason: str, *, spent: bool) -> None:
        super().__init__(reason)
        self.spent = spent


class SuperLinkApi:
    """oneflower's API next to Flower's own, at a SuperLink's loopback address.

    Every method raises `OSError` if nobody answers, and `ValueError` with the reason for a refusal. `ca` is
    the certificate to trust, None for plaintext. `patience` is how many seconds it may take to answer.
    """

    def __init__(self, ca: Path | None, control: str, patience: float = 30) -> None:
        self._patience = patience
        self._context = CaFile(str(ca)) if ca else None
        self._url = f"{'https' if ca else 'http'}://{control}/oneflower"

    def register(self, public_key: str) -> str:
        """Register a PEM public key and return its node id; a key that is already known keeps its id.

        Raises `KeyRefusedError` if the key itself is refused.
        """
        answer = self._ask("POST", "/nodes", {"public_key": public_key})
        if "id" not in answer:
            raise KeyRefusedError(str(answer["refused"]), spent=bool(answer["spent"]))
        return str(answer["id"])

    def unregister(self, node_id: str) -> None:
        """Remove a node. It is not an error if it is unknown."""
        self._ask("DELETE", f"/nodes/{node_id}")

    def nodes(self) -> list[NodeState]:
        """Return every SuperNode that was ever known."""
        return self._listed("/nodes", NodeState.parse)

    def traffic(self) -> tuple[int, int]:
        """Return how many bytes SuperNodes have sent, and how many they were sent, if they are counted."""
        said = self._ask("GET", "/traffic")
        return int(said["received"]), int(said["sent"])

    def is_online(self, node_id: str) -> bool:
        """Whether a node is online."""
        return any(node.id == node_id and node.online for node in self.nodes())

    def nodes_online(self) -> int:
        """Return how many SuperNodes are online."""
        return sum(node.online for node in self.nodes())

    def runs(self) -> list[RunState]:
        """Return all runs, oldest first."""
        return self._listed("/runs", RunState.parse)

    def start(self, use_case: str, config: Mapping[str, str | int | float | bool]) -> str:
        """Start a run of a pre-built app and return its id."""
        return str(self._ask("POST", "/runs", {"use_case": use_case, "config": dict(config)})["id"])

    def resume(self, run: str) -> str:
        """Resume a lost run, and return the id of the new run."""
        return str(self._ask("POST", "/runs", {"resumes": run})["id"])

    def tidy(self, forget: Iterable[str]) -> None:
        """Delete the data that ended runs no longer need, and all data of the runs to `forget`."""
        self._ask("POST", "/retention", {"forget": list(forget)})

    def _listed(self, path: str, parse: Callable[[Mapping[str, Any]], T]) -> list[T]:
        try:
            return [parse(entry) for entry in self._ask("GET", path)]
        except (KeyError, TypeError) as error:
            raise ValueError(f"The SuperLink's list of {path[1:]} cannot be read: {error!r}") from error

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        headers = {WHO_HEADER: _WHO}
        request = urllib.request.Request(self._url + path, data, headers, method=method)  # noqa: S310 - http(s) only
        try:
            with urllib.request.urlopen(request, timeout=self._patience, context=self._context) as response:  # noqa: S310
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(error.read().decode(errors="replace").strip() or str(error)) from error
