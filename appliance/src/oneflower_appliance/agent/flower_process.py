"""Flower as the agent sees it: its command lines, ports, protocols and log lines.

Supported: 1.41 and 1.42, where one HTTP(S) application serves the Fleet, Control and Runtime APIs. Nothing here imports
Flower: it runs in processes of its own, which `prepare` starts and of which `inside` knows the rest.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import re
import ssl
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import write_atomic
from oneflower_appliance.orders import EXECUTION_VARIABLE, LEVEL_VARIABLE, RUNS_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from oneflower_appliance.settings import Settings


FLEET_PORT = 9092
CONTROL_PORT = 8000
SUPERNODE_PORT = 9094

EARLIEST, LATEST = -4.0, 304.0  # of a signature's age in seconds, at its SuperLink (-5 and 305, less the rounding)
_PROTOBUF = {"Content-Type": "application/protobuf", "Accept": "application/protobuf"}


def check_installed(version: str) -> None:
    """Raise `OneflowerError` unless the Flower installed here is `version`."""
    try:
        installed = importlib.metadata.version("flwr")
    except importlib.metadata.PackageNotFoundError:
        installed = "none"
    if installed != version:
        raise OneflowerError(
            f"FLOWER_VERSION asks for Flower {version}; this machine carries {installed}.",
            "Use the image that was built for that release, or leave FLOWER_VERSION at its default.",
            ExitCode.ENVIRONMENT,
        )


def environment(home: Path, settings: Settings) -> dict[str, str]:
    """Return the environment of Flower's processes, whose state lives in `home`."""
    bin_folder = home / "bin"
    # Flower starts its helpers by name: ours come first, then those of this interpreter's environment.
    path = os.pathsep.join([str(bin_folder), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {
        "FLWR_HOME": str(home / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
        "PATH": path,
        RUNS_VARIABLE: str(home / "runs"),
        LEVEL_VARIABLE: settings.text("FL_LOG_LEVEL"),
        EXECUTION_VARIABLE: settings.text("FL_EXECUTION"),
    }


def install_helpers(home: Path) -> None:
    """Put our `flwr-serverapp` and `flwr-clientapp` before Flower's, which do more before they do the same."""
    for name in ("serverapp", "clientapp"):
        script = f"#!{sys.executable}\nfrom oneflower_appliance.flower.main import {name}\n{name}()\n"
        write_atomic(home / "bin" / f"flwr-{name}", script, 0o755)


def prepare(role: str) -> list[str]:
    """Return the command line of a process that gets ready to be a SuperLink or a SuperNode and waits for orders."""
    return [sys.executable, "-P", "-m", "oneflower_appliance.flower.main", role, "--parent", str(os.getpid())]


class Probe:
    """Asks a SuperLink questions over its real protocols. `ca` is the certificate to trust, None for plaintext."""

    def __init__(self, ca: Path | None) -> None:
        self._scheme = "https" if ca else "http"
        self._context = ssl.create_default_context(cafile=str(ca)) if ca else None

    def _status(self, address: str, path: str, body: bytes | None = None) -> int:
        request = urllib.request.Request(  # noqa: S310 - http and https only, by construction
            f"{self._scheme}://{address}{path}", data=body, headers=_PROTOBUF if body is not None else {}
        )
        try:
            with urllib.request.urlopen(request, timeout=5, context=self._context) as response:  # noqa: S310
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def fleet_answers(self, address: str) -> bool:
        """Whether the Fleet API answers there: health is good, and an unsigned Fleet request is refused as such.

        Raises `OSError` (`ssl.SSLError` among them) when there is no connection.
        """
        return self._status(address, "/health") == 200 and self._status(address, "/v1/fleet/pull-messages", b"") == 401

    def clock_difference(self, address: str) -> float:
        """Return by how many seconds the SuperLink's clock is ahead of this machine's, to about a second.

        Raises `OSError` when there is no connection.
        """
        with urllib.request.urlopen(  # noqa: S310 - http and https only, by construction
            f"{self._scheme}://{address}/health", timeout=5, context=self._context
        ) as response:
            theirs = parsedate_to_datetime(response.headers.get("Date", ""))
        return (theirs - datetime.now(UTC)).total_seconds()

    def control_answers(self, address: str) -> bool:
        """Whether the Control API lists nodes there. Raises `OSError` when there is no connection."""
        return self._status(address, "/v1/control/list-nodes", b"") == 200

    def lists_online(self, address: str, node_id: str) -> bool:
        """Whether the SuperLink lists the SuperNode as online. Raises `OSError` when there is no connection."""
        return self._status(address, f"/health/supernode/{node_id}") == 200

    def knows_stuck(self, address: str, node_id: str) -> bool:
        """Whether the SuperNode still works on a message whose round is over. Raises `OSError` without connection."""
        return self._status(address, f"/health/supernode/{node_id}") == 409


class KeyRefusedError(ValueError):
    """Flower does not take a node's key. `spent` when that is because the key was unregistered before."""

    def __init__(self, reason: str, *, spent: bool) -> None:
        super().__init__(reason)
        self.spent = spent


class LoopbackDoor:
    """The API beside Flower's own, at a SuperLink's loopback door.

    Every method raises `OSError` when nobody answers, and `ValueError` with the reason when the answer is no. `ca` is
    the certificate to trust, None for plaintext.
    """

    def __init__(self, ca: Path | None, control: str) -> None:
        self._context = ssl.create_default_context(cafile=str(ca)) if ca else None
        self._url = f"{'https' if ca else 'http'}://{control}/oneflower"

    def register(self, public_key: str) -> str:
        """Make a PEM public key known and return its node id; one that is known already keeps its id.

        Raises `KeyRefusedError` when it is the key that is refused.
        """
        answer = self._ask("POST", "/nodes", {"public_key": public_key})
        if "id" not in answer:
            raise KeyRefusedError(str(answer["refused"]), spent=bool(answer["spent"]))
        return str(answer["id"])

    def unregister(self, node_id: str) -> None:
        """Forget a node. One that is unknown is not an error."""
        self._ask("DELETE", f"/nodes/{node_id}")

    def is_online(self, node_id: str) -> bool:
        """Whether a node is online."""
        return any(node["id"] == node_id and node["status"] == "online" for node in self._ask("GET", "/nodes"))

    def nodes_online(self) -> int:
        """Return how many SuperNodes are online."""
        return sum(node["status"] == "online" for node in self._ask("GET", "/nodes"))

    def runs(self) -> list[dict[str, Any]]:
        """Return all runs, oldest first."""
        found: list[dict[str, Any]] = self._ask("GET", "/runs")
        return found

    def start(self, use_case: str, config: Mapping[str, str | int | float | bool]) -> str:
        """Start a run of a pre-built app and return its id."""
        return str(self._ask("POST", "/runs", {"use_case": use_case, "config": dict(config)})["id"])

    def resume(self, run: str) -> str:
        """Have a run that was lost go on, and return the id of the one that takes its place."""
        return str(self._ask("POST", "/runs", {"resumes": run})["id"])

    def tidy(self, forget: Iterable[str]) -> None:
        """Delete what runs that have ended do not need any more, and all that there is of the runs to `forget`."""
        self._ask("POST", "/retention", {"forget": list(forget)})

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self._url + path, data=data, method=method)  # noqa: S310 - http(s) only
        try:
            with urllib.request.urlopen(request, timeout=30, context=self._context) as response:  # noqa: S310
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(error.read().decode(errors="replace").strip() or str(error)) from error


class HungError(OneflowerError):
    """Flower runs and does not do its work any more, so it has to be started again."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message, "It is started again; see `oneflower logs` if that does not help.", ExitCode.ENVIRONMENT
        )


class RefusedError(OneflowerError):
    """The SuperLink refused what a SuperNode signed: a wrong clock, or a key that it does not know (any more)."""

    def __init__(self) -> None:
        super().__init__(
            "The SuperLink refused a signed request of this SuperNode.",
            "Check that the clocks of the two machines agree (NTP) and that the SuperLink knows this SuperNode's key: "
            "`flwr supernode register` makes it known.",
            ExitCode.ENVIRONMENT,
        )


_REFUSED = (
    r"Invalid SuperNode authentication|401 Unauthorized|must be registered via the CLI|code: 2004"
    r"|Failed to activate SuperNode"
)
_CAUSES = (
    (r"Errno 98|address already in use",
     "A port that Flower needs is already in use on this machine.", "Stop the program that listens there."),
    (r"CERTIFICATE_VERIFY_FAILED|certificate verify failed",
     "The SuperLink's certificate is not signed by the CA that this machine trusts.",
     "Give this SuperNode the ca.crt of that SuperLink (FL_SSL_CA_CERTFILE), or none, to use the published one."),
    (r"unable to open database file|disk I/O error|readonly database|disk is full|No space left|Read-only file system",
     "Flower cannot write its state.", "Free disk space, or let FL_DATABASE point to a folder that can be written."),
)  # fmt: skip


def explain(tail: Sequence[str], status: int | None) -> OneflowerError:
    """Return why a Flower process ended, from its last lines and its exit status."""
    text = "\n".join(tail)
    if re.search(_REFUSED, text):
        return RefusedError()
    for pattern, message, hint in _CAUSES:
        if re.search(pattern, text):
            return OneflowerError(message, hint, ExitCode.ENVIRONMENT)
    how = f"was ended by signal {-status}" if status is not None and status < 0 else f"ended with exit status {status}"
    last = next((line for line in reversed(tail) if line.strip()), "no output")
    return OneflowerError(
        f"Flower {how}: {last.strip()[:300]}",
        "The lines before it are in the agent's log (`oneflower logs`).",
        ExitCode.ENVIRONMENT,
    )
