"""MLflow: an experiment for each federation, a run for each run, with its files as artifacts."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oneflower.tracking.values import (
    Moments,
    batched,
    first_line,
    node_name,
    of_node,
    of_round,
    path,
    settings_of,
    without_login,
)
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import private_directory
from oneflower_appliance.run_state import COMPLETED, FAILED, STOPPED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oneflower.cloud import RunResult
    from oneflower_appliance.runs import RunRow

LOCAL = Path("oneflower-results") / "mlflow"
_RUN, _APP = "oneflower.run", "oneflower.app"
_MODEL, _FILES = "model", "results"
_METRICS, _PARAMS = 1000, 100  # which MLflow takes at once
_LONGEST = 6000  # characters of a parameter
_STATUS = {COMPLETED: "FINISHED", FAILED: "FAILED", STOPPED: "KILLED"}
_REFUSED = (401, 403)
_WAYS = {  # of its library: it does not wait for minutes, and does not print among the results
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_LOGIN = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"


class MlflowTracker:
    """A run in MLflow at `uri`; empty stands for MLFLOW_TRACKING_URI, or else for a database in `LOCAL`.

    The model is registered as `register`, unless that is empty. A run that is there already is continued: what it has
    is not sent twice. Raises `OneflowerError` when MLflow's client library is missing, and when the server does not
    answer or refuses the login.
    """

    def __init__(self, uri: str, register: str) -> None:
        uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        if uri.startswith((".", "/", "file:")):
            raise OneflowerError(
                f"MLflow cannot be a folder of files ({uri}): it would have twice what is sent twice.",
                f"Give a server, or a database: mlflow:sqlite:///{Path(uri.removeprefix('file://')) / 'mlflow.db'}",
                ExitCode.USAGE,
            )
        for name, value in _WAYS.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow.entities import Metric, Param  # noqa: PLC0415 - an extra
            from mlflow.tracking import MlflowClient  # noqa: PLC0415
        except ImportError as error:
            raise OneflowerError(
                f"MLflow's client library is not installed here: {error}.",
                "Install it: pip install 'oneflower[mlflow]'. In a checkout: scripts/uv sync --inexact --extra mlflow",
                ExitCode.ENVIRONMENT,
            ) from error
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._metric, self._param = Metric, Param
        self._artifacts: str | None = None  # as the server wants
        if not uri:
            folder = private_directory(LOCAL.absolute())
            uri, self._artifacts = f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri()
        self._uri, self._register = uri, register
        self._run = self._experiment = ""
        self._moments = Moments(0)
        try:
            self._client = MlflowClient(tracking_uri=uri)
            self._client.search_experiments(max_results=1)
        except Exception as error:
            raise _unusable(uri, error) from error

    def begin(self, federation: str, run: str) -> None:
        """Begin a run, or continue the one that MLflow has of the same run already."""
        client = self._client
        found = client.get_experiment_by_name(federation)
        self._experiment = found.experiment_id if found else client.create_experiment(federation, self._artifacts)
        there = client.search_runs([self._experiment], f"tags.`{_RUN}` = '{run}'", max_results=1)
        begun = there[0] if there else client.create_run(self._experiment, tags={_RUN: run}, run_name=f"run {run}")
        self._run = begun.info.run_id
        self._moments = Moments(begun.info.start_time)

    def add(self, row: RunRow) -> None:
        """Send a round."""
        self._moments.end_round(row)
        self._send((name, value, row.round) for name, value in of_round(row).items())

    def finish(self, result: RunResult, outcome: str) -> str:
        """Send what the nodes did, the settings and the files, and register the model if that is wanted."""
        client, run = self._client, self._run
        client.update_run(run, name=f"{result.app} {result.id}")
        client.set_tag(run, _RUN, result.id)
        client.set_tag(run, _APP, result.app)
        self._send(
            (path("node", *node_name(report).split("/"), *name.split("/")), value, report.round)
            for report in result.node_reports
            for name, value in of_node(report).items()
        )
        for some in batched(settings_of(result), _PARAMS):
            client.log_batch(run, params=[self._param(name, value[:_LONGEST]) for name, value in some])
        for file in (result.metrics, result.reports, result.plot, result.card):
            if file is not None:
                client.log_artifact(run, str(file), _FILES)
        if result.model is not None:
            client.log_artifact(run, str(result.model), _MODEL)
            if self._register:
                self._register_model()
        if status := _STATUS.get(outcome):
            client.set_terminated(run, status)
        else:
            client.update_run(run, status="RUNNING")
        return self._where()

    def fail(self) -> None:
        """Note that the run failed."""
        if self._run:
            self._client.set_terminated(self._run, _STATUS[FAILED])

    def _register_model(self) -> None:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        with suppress(MlflowException):  # it exists; if not, the next call says why
            self._client.create_registered_model(self._register)
        registered = self._client.search_model_versions(f"run_id = '{self._run}'")
        if all(version.name != self._register for version in registered):
            self._client.create_model_version(self._register, f"runs:/{self._run}/{_MODEL}", self._run)

    def _send(self, points: Iterable[tuple[str, float, int]]) -> None:
        """Send values. MLflow takes the same value of the same moment once, however often it comes."""
        for some in batched(points, _METRICS):
            metrics: list[Any] = [self._metric(name, value, self._moments.of(step), step) for name, value, step in some]
            self._client.log_batch(self._run, metrics=metrics)

    def _where(self) -> str:
        if self._uri.startswith("http"):
            return f"{without_login(self._uri).rstrip('/')}/#/experiments/{self._experiment}/runs/{self._run}"
        return f"mlflow ui --backend-store-uri {without_login(self._uri)}"


def _unusable(uri: str, error: Exception) -> OneflowerError:
    """Return why MLflow cannot be used, without the login."""
    status = getattr(error, "get_http_status_code", lambda: 0)()
    if status in _REFUSED:
        return OneflowerError(
            f"MLflow at {without_login(uri)} refuses the login.", f"Set MLflow's own variables: {_LOGIN}.",
            ExitCode.ENVIRONMENT,
        )  # fmt: skip
    return OneflowerError(
        f"MLflow at {without_login(uri)} does not answer: {first_line(error)}",
        f"Check the address, and MLflow's own variables if it needs a login ({_LOGIN}).",
        ExitCode.ENVIRONMENT,
    )
