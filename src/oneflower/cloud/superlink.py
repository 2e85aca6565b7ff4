"""The client of the SuperLink's own API, on the SuperLink's loopback, and of the `flwr` that fits its release."""

from __future__ import annotations

import json
import os
import ssl
import tempfile
from base64 import b64encode
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import httpx

from oneflower.cloud.outages import DAEMON_REVIVED
from oneflower.cloud.person import person
from oneflower.cloud.runconfig import toml_key, toml_string
from oneflower.events import ignore
from oneflower.process import QUIET_FLOWER
from oneflower.process import run as run_program
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import write_atomic
from oneflower_appliance.node_state import NodeState
from oneflower_appliance.orders import WHO_HEADER
from oneflower_appliance.run_state import RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from oneflower.cloud.status import FederationStatus
    from oneflower.cloud.surroundings import Surroundings
    from oneflower.events import Notify

CONNECTION = "oneflower"  # the SuperLink's name in the settings for `flwr`
TIMEOUT = 10.0
_CHANGE = 60.0  # seconds for a request that changes a run
# An older SuperLink does not know the files of an app (400), and one that runs stock Flower does not take them (501).
_NO_SUCH_CALL = (httpx.codes.BAD_REQUEST, httpx.codes.NOT_IMPLEMENTED)


def is_untrusted(error: BaseException | None) -> bool:
    """Whether a request failed because the server's certificate is not to be trusted."""
    while error and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


class TooLongError(Exception):
    """An answer is longer than it may be."""


@dataclass
class SuperLinkClient:
    """Sends requests to one SuperLink. If it does not answer, `revive` may restart what runs its machine."""

    address: str
    ca: str
    flwr: Path
    revive: Callable[[], object] = lambda: None
    _http: httpx.Client = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._connect()

    def _connect(self) -> None:
        context = ssl.create_default_context(cadata=self.ca) if self.ca else False
        scheme = "https" if self.ca else "http"
        url = f"{scheme}://{self.address}"
        headers = {WHO_HEADER: person()}
        self._http = httpx.Client(base_url=url, verify=context, timeout=TIMEOUT, trust_env=False, headers=headers)

    def trust(self, ca: str) -> None:
        """Trust the CA that the SuperLink has by now, in PEM."""
        if ca and ca != self.ca:
            self.close()
            self.ca = ca
            self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    def wait_at_most(self, seconds: float) -> None:
        """Set how long to wait for an answer."""
        self._http.timeout = httpx.Timeout(seconds)

    def get(self, path: str) -> httpx.Response | None:
        """Return an answer of the API, or None for 404. Raises `httpx.HTTPError`."""
        try:
            answer = self._http.get(f"/oneflower{path}")
        except httpx.TransportError:
            self.revive()  # what runs the SuperLink's machine, if that has ended too
            raise
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        return answer.raise_for_status()

    def json(self, path: str) -> Any:
        """Return the content of an answer of the API, or None for 404. Raises `httpx.HTTPError`."""
        answer = self.get(path)
        return None if answer is None else answer.json()

    def runs(self) -> list[RunState]:
        """Return all runs, oldest first. Raises `httpx.HTTPError`."""
        return [RunState.parse(run) for run in self.json("/runs") or ()]

    def run(self, number: str) -> RunState:
        """Return a run; only its id is set if there is no such run. Raises `httpx.HTTPError`."""
        return RunState.parse({"id": number} | (self.json(f"/runs/{number}") or {}))

    def text(self, path: str) -> str:
        """Return an answer of the API as it is, empty for 404. Raises `httpx.HTTPError`."""
        answer = self.get(path)
        return "" if answer is None else answer.text

    def download(self, path: str, stream: BinaryIO, most: int | None = None) -> int:
        """Write an answer of the API into `stream`, piece by piece, and return its bytes.

        Raises `httpx.HTTPError`, and `TooLongError` when there are more than `most`.
        """
        length = 0
        with self._http.stream("GET", f"/oneflower{path}") as answer:
            announced = int(answer.raise_for_status().headers.get("Content-Length", 0))
            if most is not None and announced > most:
                raise TooLongError
            for piece in answer.iter_bytes():
                length += len(piece)
                if most is not None and length > most:
                    raise TooLongError
                stream.write(piece)
        return length

    def start(
        self, files: Mapping[str, bytes], config: Mapping[str, Any], chosen: Mapping[str, Any] | None = None
    ) -> str | None:
        """Start a run of the app that consists of these files, and return its id; None if it has to be `flwr run`.

        `chosen` are its sites. Raises `OneflowerError`.
        """
        wanted: dict[str, Any] = {
            "files": {name: b64encode(content).decode() for name, content in files.items()}, "config": config,
        }  # fmt: skip
        if chosen:
            wanted = {"chosen": wanted | dict(chosen)}
        try:
            answer = self._http.post("/oneflower/runs", content=json.dumps(wanted), timeout=_CHANGE)
        except httpx.HTTPError as error:
            raise self.silent(error) from error
        if answer.status_code in _NO_SUCH_CALL:
            return None
        if answer.headers.get("content-type") == "application/json" and answer.status_code == httpx.codes.CONFLICT:
            raise _said(answer)
        if answer.is_error:
            raise OneflowerError(f"Flower refused: {answer.text.strip()}", "", ExitCode.RUN_FAILED)
        return str(answer.json()["id"])

    def resume(self, number: str) -> str:
        """Resume a run, and return the id of the new run. Raises `OneflowerError`."""
        try:
            answer = self._http.post("/oneflower/runs", json={"resumes": number}, timeout=_CHANGE)
        except httpx.HTTPError as error:
            raise self.silent(error) from error
        if answer.is_error:
            raise OneflowerError(f"Run {number} cannot be resumed: {answer.text.strip()}", "", ExitCode.RUN_FAILED)
        return str(answer.json()["id"])

    def stop(self, number: str) -> None:
        """Stop a run. Raises `OneflowerError`."""
        try:
            answer = self._http.post(f"/oneflower/runs/{number}/stop", timeout=_CHANGE)
        except httpx.HTTPError as error:
            raise self.silent(error) from error
        if answer.is_error:
            reason = " ".join(answer.text.split())[:300]
            raise OneflowerError(f"Run {number} cannot be stopped: {reason}", "", ExitCode.RUN_FAILED)

    def change(self, path: str, said: Mapping[str, Any]) -> dict[str, Any] | None:
        """Ask for a change, and return the answer; None if there is no such call. Raises `OneflowerError`."""
        try:
            answer = self._http.post(f"/oneflower{path}", json=dict(said), timeout=_CHANGE)
            if answer.status_code in (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED, *_NO_SUCH_CALL):
                return None
            if answer.status_code == httpx.codes.CONFLICT:
                raise _said(answer)
            found: dict[str, Any] = answer.raise_for_status().json()
        except httpx.HTTPStatusError as error:
            raise refusal(error.response) from error
        except httpx.HTTPError as error:
            raise self.silent(error) from error
        return found

    def silent(self, error: httpx.HTTPError) -> OneflowerError:
        """Return the error for a missing answer."""
        return OneflowerError(
            f"The SuperLink at {self.address} does not answer: {error}.",
            "Check with `oneflower show` that it is ready.",
            ExitCode.CONFLICT,
        )

    def nodes(self) -> list[NodeState]:
        """Return all SuperNodes that the SuperLink knows. Raises `OneflowerError` when it does not answer."""
        try:
            return [NodeState.parse(node) for node in self.json("/nodes") or ()]
        except httpx.HTTPError as error:
            raise self.silent(error) from error

    def flower(self, *arguments: str) -> dict[str, Any]:
        """Run a `flwr` command against this SuperLink and return its JSON answer. Raises `OneflowerError`."""
        with tempfile.TemporaryDirectory(prefix="oneflower-") as folder:
            home = Path(folder)
            if self.ca:
                write_atomic(home / "ca.crt", self.ca)
            ca = home / "ca.crt" if self.ca else None
            write_atomic(home / "config.toml", connection(CONNECTION, self.address, ca))
            kept = {key: os.environ[key] for key in ("HOME", "LANG", "PATH") if key in os.environ}
            command = [str(self.flwr), *arguments, "--format", "json"]
            hint = "Check with `oneflower show` that the SuperLink is ready."
            # Not in the user's folder, where Flower would take a folder with the name of the connection for an app.
            text = run_program(command, "ask Flower", hint, kept | QUIET_FLOWER | {"FLWR_HOME": folder}, apart_in=home)
        try:
            answer: dict[str, Any] = json.loads(text[text.index("{") :])
        except ValueError as error:
            raise OneflowerError(f"Flower answered: {text.strip()[:500]}", "", ExitCode.RUN_FAILED) from error
        if answer.get("success") is False:
            reason = answer.get("error-message") or answer.get("error_message") or text
            raise OneflowerError(f"Flower refused: {str(reason).strip()}", "", ExitCode.RUN_FAILED)
        return answer


@contextmanager
def control(surroundings: Surroundings, status: FederationStatus) -> Iterator[str]:
    """Yield the address of a federation's Control API, host:port, once it is verified that its SuperLink published it.

    Raises `OneflowerError`.
    """
    status.reachable()
    status.trust.check()
    with surroundings.reach(status) as address:
        yield address


@contextmanager
def reach(
    surroundings: Surroundings, status: FederationStatus, flwr: Path = Path("flwr"), notify: Notify = ignore
) -> Iterator[SuperLinkClient]:
    """Reach a federation's SuperLink. `flwr` is needed to start runs; `notify` receives what had to be restarted.

    Raises `OneflowerError`.
    """

    def revive() -> None:
        if surroundings.revive() is not None:
            notify(DAEMON_REVIVED)

    with control(surroundings, status) as address, SuperLinkClient(address, status.ca, flwr, revive) as link:
        try:
            yield link
        except httpx.HTTPStatusError as error:
            raise refusal(error.response) from error
        except httpx.HTTPError as error:
            raise link.silent(error) from error


def refusal(answer: httpx.Response) -> OneflowerError:
    """Return the error for an error answer of the API. An answer about a full disk says what to do."""
    if answer.status_code == httpx.codes.INSUFFICIENT_STORAGE:
        return OneflowerError(answer.text.strip(), "", ExitCode.ENVIRONMENT)
    return OneflowerError(
        f"The SuperLink answers with an error ({answer.status_code}).",
        "See `oneflower logs` for what went wrong there.",
        ExitCode.RUN_FAILED,
    )


def _said(answer: httpx.Response) -> OneflowerError:
    """Return the error that the SuperLink itself raised."""
    try:
        said = answer.json()
        return OneflowerError(str(said["message"]), str(said["hint"]), ExitCode(int(said["code"])))
    except (ValueError, KeyError, TypeError):
        return OneflowerError(answer.text.strip(), "", ExitCode.CONFLICT)


def connection(name: str, address: str, ca: Path | None) -> str:
    """Return the lines of config.toml with which plain `flwr` reaches a SuperLink at `address`."""
    trust = f"root-certificates = {toml_string(str(ca))}" if ca else "insecure = true"
    return f"[superlink.{toml_key(name)}]\naddress = {toml_string(address)}\n{trust}\n"
