"""MLflow: an experiment for each federation, a run for each run, with its files as artifacts."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from oneflower.tracking.values import batched, first_line, node_name, of_node, of_round, path, settings_of
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import private_directory

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oneflower.cloud import RunResult
    from oneflower_appliance.runs import RunRow

LOCAL = Path("oneflower-results") / "mlflow"
_RUN, _APP = "oneflower.run", "oneflower.app"
_MODEL, _FILES = "model", "results"
_METRICS, _PARAMS = 1000, 100  # which MLflow takes at once
_LONGEST = 6000  # characters of a parameter
_WAYS = {  # of its library: it does not wait for minutes, and does not print among the results
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class MlflowTracker:
    """A run in MLflow at `uri`; empty stands for MLFLOW_TRACKING_URI, or else for a database in `LOCAL`.

    The model is registered as `register`, unless that is empty. Raises `OneflowerError` when MLflow's client library is
    missing, and when the server does not answer.
    """

    def __init__(self, uri: str, register: str) -> None:
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
        uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        if not uri:
            folder = private_directory(LOCAL.absolute())
            uri, self._artifacts = f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri()
        self._uri, self._register = uri, register
        self._client = MlflowClient(tracking_uri=uri)
        self._run = self._experiment = ""
        try:
            self._client.search_experiments(max_results=1)
        except Exception as error:
            raise OneflowerError(
                f"MLflow at {shown(uri)} does not answer: {first_line(error)}",
                "Check the address, and the variables of MLflow if it needs a login (MLFLOW_TRACKING_TOKEN, or "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD).",
                ExitCode.ENVIRONMENT,
            ) from error

    def begin(self, federation: str, run: str) -> None:
        """Begin a run; what MLflow has of the same run already is deleted."""
        client = self._client
        found = client.get_experiment_by_name(federation)
        self._experiment = found.experiment_id if found else client.create_experiment(federation, self._artifacts)
        for earlier in client.search_runs([self._experiment], f"tags.`{_RUN}` = '{run}'"):
            client.delete_run(earlier.info.run_id)
        self._run = client.create_run(self._experiment, tags={_RUN: run}, run_name=f"run {run}").info.run_id

    def add(self, row: RunRow) -> None:
        """Send a round."""
        self._send((name, value, row.round) for name, value in of_round(row).items())

    def finish(self, result: RunResult) -> str:
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
        client.set_terminated(run, "FINISHED")
        return self._where()

    def fail(self) -> None:
        """Note that the run failed."""
        if self._run:
            self._client.set_terminated(self._run, "FAILED")

    def _register_model(self) -> None:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        with suppress(MlflowException):  # it exists; if not, the next call says why
            self._client.create_registered_model(self._register)
        self._client.create_model_version(self._register, f"runs:/{self._run}/{_MODEL}", self._run)

    def _send(self, points: Iterable[tuple[str, float, int]]) -> None:
        now = int(time.time() * 1000)
        for some in batched(points, _METRICS):
            metrics: list[Any] = [self._metric(name, value, now, step) for name, value, step in some]
            self._client.log_batch(self._run, metrics=metrics)

    def _where(self) -> str:
        if self._uri.startswith("http"):
            return f"{shown(self._uri).rstrip('/')}/#/experiments/{self._experiment}/runs/{self._run}"
        return f"mlflow ui --backend-store-uri {self._uri}"


def shown(uri: str) -> str:
    """Return an address without the name and the password in it."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if parts.password or parts.username else uri
