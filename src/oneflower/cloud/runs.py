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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx

from oneflower.process import run as run_program
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import SHARED, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from oneflower.cloud.apps import App

_PULSE = 0.4
_PATIENCE = 90.0
_CONNECTION = "oneflower"


@dataclass(frozen=True)
class RunRow:
    """One round. `loss` and `accuracy` are the server's own test if there is one, else the nodes' mean, else None."""

    round: int
    rounds: int
    seconds: float
    nodes: int
    failures: int
    loss: float | None
    accuracy: float | None
    metrics: Mapping[str, Any]

    @classmethod
    def parse(cls, line: str) -> RunRow:
        """Read a line of metrics.jsonl."""
        row = json.loads(line)
        sources = [row.get(name) or {} for name in ("server", "evaluate", "train")]
        return cls(
            row["round"], row["rounds"], row["seconds"], row["nodes"], row["failures"],
            _metric(sources, "loss"), _metric(sources, "accuracy", "acc"), row,
        )  # fmt: skip


def _metric(sources: list[dict[str, Any]], *endings: str) -> float | None:
    for source in sources:
        for name, value in source.items():
            if isinstance(value, int | float) and name.lower().replace("-", "_").split("_")[-1] in endings:
                return float(value)
    return None


@dataclass(frozen=True)
class RunResult:
    """A finished run: its rounds and the files it left, None for what it did not."""

    id: str
    app: str
    rows: tuple[RunRow, ...]
    seconds: float
    folder: Path
    model: Path | None = None
    metrics: Path | None = None
    plot: Path | None = None


@dataclass
class SuperLinkDoor:
    """The SuperLink's loopback door, and the `flwr` that fits its release."""

    address: str
    ca: str
    flwr: Path
    _http: httpx.Client = field(init=False, repr=False)

    def __post_init__(self) -> None:
        context = ssl.create_default_context(cadata=self.ca) if self.ca else False
        scheme = "https" if self.ca else "http"
        self._http = httpx.Client(base_url=f"{scheme}://{self.address}", verify=context, timeout=10, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    def get(self, path: str) -> httpx.Response | None:
        """Return an answer of the status API, None for 404. Raises `httpx.HTTPError`."""
        answer = self._http.get(f"/oneflower{path}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        return answer.raise_for_status()

    def nodes_online(self) -> int:
        """Return how many SuperNodes the SuperLink lists as online. Raises `OneflowerError` when it does not answer."""
        try:
            answer = self.get("/nodes")
        except httpx.HTTPError as error:
            raise OneflowerError(
                f"The SuperLink at {self.address} does not answer: {error}.",
                "Check with `oneflower show` that it is ready.",
                ExitCode.CONFLICT,
            ) from error
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
            text = run_program(command, "ask Flower", hint, kept | quiet)
        try:
            answer: dict[str, Any] = json.loads(text[text.index("{") :])
        except ValueError as error:
            raise OneflowerError(f"Flower answered: {text.strip()[:500]}", "", ExitCode.RUN_FAILED) from error
        if answer.get("success") is False:
            reason = answer.get("error-message") or answer.get("error_message") or text
            raise OneflowerError(f"Flower refused: {str(reason).strip()}", "", ExitCode.RUN_FAILED)
        return answer


def connection(name: str, address: str, ca: Path | None) -> str:
    """Return what plain `flwr` needs in its config.toml to speak with a SuperLink at `address`."""
    trust = f'root-certificates = "{ca}"' if ca else "insecure = true"
    return f'[superlink.{name}]\naddress = "{address}"\n{trust}\n'


def submit(door: SuperLinkDoor, app: App, config: Mapping[str, str]) -> str:
    """Start a run and return its id. Raises `OneflowerError`."""
    overrides = ["--run-config", " ".join(f"{key}={value}" for key, value in config.items())] if config else []
    return str(door.flower("run", str(app.folder), _CONNECTION, *overrides)["run-id"])


def stop(door: SuperLinkDoor, run_id: str) -> None:
    """Stop a run."""
    door.flower("stop", run_id, _CONNECTION)


def follow(door: SuperLinkDoor, run_id: str, on_row: Callable[[RunRow], None], on_log: Callable[[str], None]) -> None:
    """Follow a run to its end. Raises `OneflowerError` with the app's own reason when it fails."""
    seen, after, last_answer, tail = 0, 0.0, time.monotonic(), ""
    while True:
        try:
            state = door.get(f"/runs/{run_id}")
            log = door.get(f"/runs/{run_id}/log?after={after}")
            rows = door.get(f"/runs/{run_id}/files/metrics.jsonl")
            last_answer = time.monotonic()
        except httpx.HTTPError as error:
            if time.monotonic() - last_answer > _PATIENCE:
                raise OneflowerError(
                    f"The SuperLink has not answered for {_PATIENCE:.0f} s: {error}.",
                    "Look with `oneflower show`; the run may still be going on.",
                    ExitCode.RUN_FAILED,
                ) from error
            time.sleep(_PULSE)
            continue
        if log is not None and (entry := log.json())["text"]:
            after = entry["latest"]
            tail = (tail + entry["text"])[-8000:]
            on_log(entry["text"])
        lines = rows.text.splitlines() if rows is not None else []
        for line in lines[seen:]:
            on_row(RunRow.parse(line))
        seen = max(seen, len(lines))
        if state is not None and (status := state.json())["status"] == "finished":
            if status["sub_status"] != "completed":
                raise _failed(run_id, status, tail)
            if lines and not any(RunRow.parse(line).nodes for line in lines):
                raise _untrained(run_id, RunRow.parse(lines[-1]))
            return
        time.sleep(_PULSE)


def _failed(run_id: str, status: dict[str, str], tail: str) -> OneflowerError:
    reason = status["details"] or status["sub_status"]
    lines = [line for line in tail.splitlines() if line.strip()]
    shown = "".join(f"\n  {line}" for line in lines[-12:])
    return OneflowerError(
        f"Run {run_id} {status['sub_status']}: {reason}" + (f"\nThe end of its log:{shown}" if shown else ""),
        "",
        ExitCode.RUN_FAILED,
    )


def _untrained(run_id: str, last: RunRow) -> OneflowerError:
    """Return what to say of a run that Flower calls completed although no node ever trained."""
    reasons = last.metrics.get("reasons") or ["no node answered"]
    return OneflowerError(
        f"Run {run_id} trained nothing: every node failed in every round.\n  "
        + "\n  ".join(reason.splitlines()[-1] for reason in reasons if reason),
        "Mend the ClientApp or the nodes' configuration; `oneflower logs` shows what the nodes said.",
        ExitCode.RUN_FAILED,
    )


def collect(door: SuperLinkDoor, run_id: str, app: App, folder: Path) -> RunResult:
    """Fetch what a finished run left and save it in `folder`: model.npz, metrics.json and convergence.png."""
    recorded = door.get(f"/runs/{run_id}/files/metrics.jsonl")
    rows = tuple(RunRow.parse(line) for line in recorded.text.splitlines()) if recorded is not None else ()
    answer = door.get(f"/runs/{run_id}/files/result.json")
    summary = answer.json() if answer is not None else {}
    model = door.get(f"/runs/{run_id}/files/model.npz")
    saved: dict[str, Path] = {}
    if model is not None:
        saved["model"] = folder / "model.npz"
        write_atomic(saved["model"], model.content, SHARED)
    if rows:
        from oneflower.cloud.plot import plot_convergence  # noqa: PLC0415 - matplotlib takes its time

        saved["metrics"] = folder / "metrics.json"
        content = {"run": run_id, "app": app.name, **summary, "rows": [row.metrics for row in rows]}
        write_atomic(saved["metrics"], json.dumps(content, indent=1) + "\n", SHARED)
        saved["plot"] = folder / "convergence.png"
        plot_convergence(rows, app.name, saved["plot"])
    return RunResult(run_id, app.name, rows, float(summary.get("seconds", 0)), folder, **saved)
