"""Training: a run is submitted by the real `flwr run`, over TLS, to the SuperLink's Control API, and followed there.

What a run left on the SuperLink (metrics per round, model, summary) is read through the same door: the read-only
status API beside Flower's own on the SuperLink's loopback.
"""

from __future__ import annotations

import json
import os
import ssl
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import httpx

from oneflower.cloud.runconfig import toml_key, toml_string, toml_text
from oneflower.process import run as run_program
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import write_atomic
from oneflower_appliance.run_folder import FAILURE
from oneflower_appliance.runs import RunRow, shortcoming

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from oneflower.cloud.apps import App
    from oneflower.cloud.runconfig import Value
    from oneflower.cloud.status import FederationStatus
    from oneflower.cloud.surroundings import Surroundings

_PULSE = 0.4
_PATIENCE = 90.0
_NOTICE = 3.0  # seconds after which it is said that the SuperLink does not answer
_TIMEOUT = 10.0
_GRACE = 15.0  # in which the SuperLink's agent has a lost run go on, if it is to
_CONNECTION = "oneflower"


@dataclass(frozen=True)
class Observer:
    """Who is told of each round, of the app's log, and of what is being done. `names` are machines, by node id.

    `machine` is asked what the cloud knows of the SuperLink's machine when the SuperLink does not answer.
    """

    row: Callable[[RunRow], None]
    log: Callable[[str], None]
    doing: Callable[[str], None]
    names: Mapping[str, str] = field(default_factory=dict)
    machine: Callable[[], str] = lambda: "nothing is known of its machine"


class TooLongError(Exception):
    """An answer is longer than it may be."""


@dataclass
class SuperLinkDoor:
    """The SuperLink's loopback door, and the `flwr` that fits its release."""

    address: str
    ca: str
    flwr: Path
    revive: Callable[[], object] = lambda: None
    _http: httpx.Client = field(init=False, repr=False)

    def __post_init__(self) -> None:
        context = ssl.create_default_context(cadata=self.ca) if self.ca else False
        scheme = "https" if self.ca else "http"
        url = f"{scheme}://{self.address}"
        self._http = httpx.Client(base_url=url, verify=context, timeout=_TIMEOUT, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    def wait_at_most(self, seconds: float) -> None:
        """Give up on an answer after as long."""
        self._http.timeout = httpx.Timeout(seconds)

    def get(self, path: str) -> httpx.Response | None:
        """Return an answer of the status API, None for 404. Raises `httpx.HTTPError`."""
        try:
            answer = self._http.get(f"/oneflower{path}")
        except httpx.TransportError:
            self.revive()  # what keeps the SuperLink's machine, if that has ended, too
            raise
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        return answer.raise_for_status()

    def json(self, path: str) -> Any:
        """Return what an answer of the status API says, None for 404. Raises `httpx.HTTPError`."""
        answer = self.get(path)
        return None if answer is None else answer.json()

    def text(self, path: str) -> str:
        """Return an answer of the status API as it is, empty for 404. Raises `httpx.HTTPError`."""
        answer = self.get(path)
        return "" if answer is None else answer.text

    def download(self, path: str, stream: BinaryIO, most: int | None = None) -> int:
        """Write an answer of the status API into `stream`, piece by piece, and return its bytes.

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

    def resume(self, number: str) -> str:
        """Ask for a run that goes on from another, and return its id. Raises `OneflowerError`."""
        try:
            answer = self._http.post("/oneflower/runs", json={"resumes": number}, timeout=60)
        except httpx.HTTPError as error:
            raise self.silent(error) from error
        if answer.is_error:
            raise OneflowerError(f"Run {number} cannot go on: {answer.text.strip()}", "", ExitCode.RUN_FAILED)
        return str(answer.json()["id"])

    def stop(self, number: str) -> None:
        """Have a run stopped. Raises `OneflowerError`."""
        try:
            answer = self._http.post(f"/oneflower/runs/{number}/stop", timeout=60)
        except httpx.HTTPError as error:
            raise self.silent(error) from error
        if answer.is_error:
            reason = " ".join(answer.text.split())[:300]
            raise OneflowerError(f"Run {number} cannot be stopped: {reason}", "", ExitCode.RUN_FAILED)

    def silent(self, error: httpx.HTTPError) -> OneflowerError:
        """Return what it means that there is no answer."""
        return OneflowerError(
            f"The SuperLink at {self.address} does not answer: {error}.",
            "Check with `oneflower show` that it is ready.",
            ExitCode.CONFLICT,
        )

    def nodes_online(self) -> int:
        """Return how many SuperNodes the SuperLink lists as online. Raises `OneflowerError` when it does not answer."""
        try:
            answer = self.get("/nodes")
        except httpx.HTTPError as error:
            raise self.silent(error) from error
        return sum(node["status"] == "online" for node in answer.json()) if answer is not None else 0

    def flower(self, *arguments: str) -> dict[str, Any]:
        """Run a `flwr` command against this SuperLink and return its JSON answer. Raises `OneflowerError`."""
        with tempfile.TemporaryDirectory(prefix="oneflower-") as folder:
            home = Path(folder)
            if self.ca:
                write_atomic(home / "ca.crt", self.ca)
            ca = home / "ca.crt" if self.ca else None
            write_atomic(home / "config.toml", connection(_CONNECTION, self.address, ca))
            kept = {key: os.environ[key] for key in ("HOME", "LANG", "PATH") if key in os.environ}
            quiet = {
                "FLWR_HOME": folder,
                "FLWR_TELEMETRY_ENABLED": "0",
                "FLWR_DISABLE_UPDATE_CHECK": "1",
                "NO_COLOR": "1",
            }
            command = [str(self.flwr), *arguments, "--format", "json"]
            hint = "Check with `oneflower show` that the SuperLink is ready."
            # Away from the user's folder, where Flower would take a folder that is called as the connection for an app.
            text = run_program(command, "ask Flower", hint, kept | quiet, apart_in=home)
        try:
            answer: dict[str, Any] = json.loads(text[text.index("{") :])
        except ValueError as error:
            raise OneflowerError(f"Flower answered: {text.strip()[:500]}", "", ExitCode.RUN_FAILED) from error
        if answer.get("success") is False:
            reason = answer.get("error-message") or answer.get("error_message") or text
            raise OneflowerError(f"Flower refused: {str(reason).strip()}", "", ExitCode.RUN_FAILED)
        return answer


@contextmanager
def open_door(
    surroundings: Surroundings,
    status: FederationStatus,
    flwr: Path = Path("flwr"),
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[SuperLinkDoor]:
    """Reach a federation's SuperLink; `flwr` is needed to start runs. `tell` hears of what had to be started again.

    Raises `OneflowerError`.
    """

    def revive() -> None:
        if surroundings.revive() is not None:
            tell("Note: the local cloud had ended, and was started again.")

    status.reachable()
    status.trust.follow()
    with surroundings.reach(status) as address, SuperLinkDoor(address, status.ca, flwr, revive) as door:
        try:
            yield door
        except httpx.HTTPStatusError as error:
            raise refusal(error.response) from error
        except httpx.HTTPError as error:
            raise door.silent(error) from error


def refusal(answer: httpx.Response) -> OneflowerError:
    """Return what an answer of the status API means that is an error. One about a full disk says itself what to do."""
    if answer.status_code == httpx.codes.INSUFFICIENT_STORAGE:
        return OneflowerError(answer.text.strip(), "", ExitCode.ENVIRONMENT)
    return OneflowerError(
        f"The SuperLink answers with an error ({answer.status_code}).",
        "See `oneflower logs` for what went wrong there.",
        ExitCode.RUN_FAILED,
    )


def connection(name: str, address: str, ca: Path | None) -> str:
    """Return what plain `flwr` needs in its config.toml to speak with a SuperLink at `address`."""
    trust = f"root-certificates = {toml_string(str(ca))}" if ca else "insecure = true"
    return f"[superlink.{toml_key(name)}]\naddress = {toml_string(address)}\n{trust}\n"


def submit(door: SuperLinkDoor, app: App, config: Mapping[str, Value]) -> str:
    """Start a run and return its id. Raises `OneflowerError`."""
    if not config:
        return str(door.flower("run", str(app.folder), _CONNECTION)["run-id"])
    # In a file, which Flower reads as TOML. What it reads from its command line goes through a pattern of its own, in
    # which a quote inside a text ends the text, and everybody on this machine could read it there.
    with tempfile.TemporaryDirectory(prefix="oneflower-") as folder:
        overrides = Path(folder) / "run-config.toml"
        write_atomic(overrides, toml_text(config))
        return str(door.flower("run", str(app.folder), _CONNECTION, "--run-config", str(overrides))["run-id"])


def resume(door: SuperLinkDoor, before: Mapping[str, str]) -> str:
    """Have a run go on from its last checkpoint; return the id of the run that does. Raises `OneflowerError`."""
    number = before["id"]
    if before["status"] != "finished":
        raise OneflowerError(
            f"Run {number} has not ended: it is {before['status']}.",
            "Look with `oneflower show`, or stop it first.",
            ExitCode.CONFLICT,
        )
    if before["sub_status"] == "completed":
        raise OneflowerError(f"Run {number} is completed.", "Start another with `oneflower run`.", ExitCode.CONFLICT)
    return door.resume(number)


def last_of(door: SuperLinkDoor, number: str) -> str:
    """Return the id of the run that took the place of `number`, however often it was lost, or `number` itself."""
    while successor := (door.json(f"/runs/{number}") or {}).get("resumed_as"):
        number = successor
    return number


def follow(door: SuperLinkDoor, number: str, observer: Observer) -> str:
    """Follow a run to its end, and the one that takes its place if it is lost. Returns the id of the last.

    Raises `OneflowerError` with the app's own reason when it fails.
    """
    following, silence = _Following(door, number, observer), _Silence(observer)
    try:
        while True:
            door.wait_at_most(_TIMEOUT if silence.told else _NOTICE)
            try:
                if following.look(silence.ends):
                    return following.number
            except httpx.HTTPError as error:
                silence.goes_on(error)
            time.sleep(_PULSE)
    finally:
        door.wait_at_most(_TIMEOUT)


class _Silence:
    """That the SuperLink does not answer, or with errors only: it is said soon, and borne for a while."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.told = False
        self._answered = time.monotonic()

    def ends(self) -> None:
        """Note that there was an answer."""
        if self.told:
            self._observer.doing(f"Note: the SuperLink answers again, after {time.monotonic() - self._answered:.0f} s.")
        self.told = False
        self._answered = time.monotonic()

    def goes_on(self, error: httpx.HTTPError) -> None:
        """Say what is known, once; raise `OneflowerError` when that has gone on for too long."""
        seconds = time.monotonic() - self._answered
        refused = error.response if isinstance(error, httpx.HTTPStatusError) else None
        if refused is not None and refused.status_code == httpx.codes.INSUFFICIENT_STORAGE:
            what = refused.text.strip()
        elif refused is not None:
            what = f"The SuperLink has answered with an error ({refused.status_code}) for {seconds:.0f} s."
        else:
            what = f"The SuperLink has not answered for {seconds:.0f} s."
        if seconds > _PATIENCE:
            hint = f"Look with `oneflower show`: {self._observer.machine()}. The run may still be going on."
            raise OneflowerError(what, hint, ExitCode.RUN_FAILED) from error
        if not self.told and (seconds > _NOTICE or refused is not None):
            self.told = True
            self._observer.doing(f"Note: {what} {_sentence(self._observer.machine())} Waiting up to {_PATIENCE:.0f} s.")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


class _Following:
    """What of a run has been told so far."""

    def __init__(self, door: SuperLinkDoor, number: str, observer: Observer) -> None:
        self._door = door
        self._observer = observer
        self._told = 0  # a run that goes on from another has its rounds, too
        self._trouble = ""
        self._begin(number)

    def _begin(self, number: str) -> None:
        self.number = number
        self._latest = 0.0
        self._tail = ""
        self._ended = 0.0

    def look(self, heard: Callable[[], None]) -> bool:
        """Tell what is new; call `heard` as soon as the SuperLink has answered. Returns whether the run has ended well.

        Raises `OneflowerError` or `httpx.HTTPError`.
        """
        state = self._door.json(f"/runs/{self.number}") or {}
        log = self._door.json(f"/runs/{self.number}/log?after={self._latest}")
        lines = self._door.text(f"/runs/{self.number}/files/metrics.jsonl").splitlines()
        heard()
        if log and log["text"]:
            self._latest = log["latest"]
            self._tail = (self._tail + log["text"])[-8000:]
            self._observer.log(log["text"])
        for line in lines[self._told :]:
            self._observer.row(self._parse(line))
        self._told = max(self._told, len(lines))
        if (trouble := state.get("trouble", "")) and not self._trouble:
            self._observer.doing(f"Note: {trouble}")
        self._trouble = trouble
        if successor := state.get("resumed_as"):
            self._observer.doing(f"Note: run {self.number} was lost; run {successor} goes on from its last checkpoint.")
            self._begin(successor)
            return False
        return state.get("status") == "finished" and self._is_over(state, lines)

    def _is_over(self, state: dict[str, str], lines: list[str]) -> bool:
        self._ended = self._ended or time.monotonic()
        if state.get("lost") == "YES":
            if not state.get("given_up") and time.monotonic() - self._ended < _GRACE:
                return False
            raise _lost(self.number, state, lines)
        if state["sub_status"] != "completed":
            raise self._failed(state)
        rows = [self._parse(line) for line in lines]
        if rows and not any(row.nodes for row in rows):
            raise OneflowerError(
                f"Run {self.number} has failed. {shortcoming(rows)}",
                "Fix the ClientApp or the nodes' configuration; `oneflower logs` shows what the nodes said.",
                ExitCode.RUN_FAILED,
            )
        return True

    def _failed(self, state: dict[str, str]) -> OneflowerError:
        if said := self._door.json(f"/runs/{self.number}/files/{FAILURE}"):
            # An error of oneflower's own in the ServerApp: it says what is wrong and how to fix it, once.
            return OneflowerError(f"Run {self.number} failed: {said['message']}", said["hint"], ExitCode.RUN_FAILED)
        return _failed(self.number, state, self._tail)

    def _parse(self, line: str) -> RunRow:
        return RunRow.parse(line).named(self._observer.names)


def _lost(run_id: str, state: Mapping[str, str], lines: Sequence[str]) -> OneflowerError:
    """Return what to say of a run that was lost and that nothing took the place of."""
    last = RunRow.parse(lines[-1]) if lines else None
    when = f"after round {last.round} of {last.rounds}" if last else "before its first round had ended"
    return OneflowerError(
        f"Run {run_id} was lost {when}. {state.get('why_lost') or state['details'] or state['sub_status']}",
        state.get("given_up") or "Nobody has it go on. See `oneflower logs`.",
        ExitCode.RUN_FAILED,
    )


def _failed(run_id: str, status: dict[str, str], tail: str) -> OneflowerError:
    reason = status["details"] or status["sub_status"]
    lines = [line for line in tail.splitlines() if line.strip()]
    shown = "".join(f"\n  {line}" for line in lines[-12:])
    return OneflowerError(
        f"Run {run_id} {status['sub_status']}: {reason}" + (f"\nThe end of its log:{shown}" if shown else ""),
        "",
        ExitCode.RUN_FAILED,
    )
