"""A run in a real MLflow server and in real TensorBoard files, while it trains and afterwards."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import httpx
import numpy as np
import pytest

from oneflower.local.home import LocalHome

from .conftest import RELEASE, until

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server(tmp_path):
    """The address of an MLflow server, installed once with its pinned packages."""
    home = LocalHome.of_user().cache / "mlflow-server"
    subprocess.run(
        [ROOT / "scripts" / "uv", "sync", "--quiet", "--frozen", "--only-group", "mlflow-server"],
        check=True, cwd=ROOT, env={**os.environ, "UV_PROJECT_ENVIRONMENT": str(home)},
    )  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            [home / "bin" / "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
             "--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}",
             "--artifacts-destination", str(tmp_path / "artifacts")],
            stdout=log, stderr=log, cwd=tmp_path, start_new_session=True,
        )  # fmt: skip
    try:
        until(lambda: _answers(f"http://127.0.0.1:{port}/health"), 120, "an answer of MLflow")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def _answers(url):
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_run_is_in_mlflow_and_tensorboard_with_its_nodes_its_files_and_its_model(user, fed, server, tmp_path):
    from mlflow.tracking import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    folder, places = tmp_path / "curves", {"MLFLOW_TRACKING_URI": server, "ONEFLOWER_TRACK": "mlflow"}
    done = user("run", "image-classification", "-f", fed, "--save", str(tmp_path / "results"), "--track", "mlflow",
                "--track", f"tensorboard:{folder}", "--register", "digits", "-o", "json", **places)  # fmt: skip
    result = json.loads(done.stdout)
    client = MlflowClient(tracking_uri=server)

    def runs():
        experiment = client.get_experiment_by_name(fed).experiment_id
        return client.search_runs([experiment], f"tags.`oneflower.run` = '{result['id']}'")

    [run] = runs()
    assert run.info.status == "FINISHED", done.stderr
    assert f"/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}" in done.stderr
    assert run.info.run_name == f"image-classification {result['id']}"
    assert run.data.params["strategy"] == "FedAvg"
    assert run.data.params["versions/flwr"] == RELEASE
    wanted = [row["accuracy"] for row in result["rows"]]
    assert [one.value for one in client.get_metric_history(run.info.run_id, "accuracy")] == wanted
    nodes = {vm["name"] for vm in user.show(fed)["vms"] if vm["role"] == "supernode"}
    for node in nodes:
        history = client.get_metric_history(run.info.run_id, f"node/{node}/train/seconds")
        assert [one.step for one in history] == [row["round"] for row in result["rows"]]
    files = {file.path for file in client.list_artifacts(run.info.run_id, "results")}
    assert files == {f"results/{name}" for name in ("metrics.json", "reports.jsonl", "convergence.png", "card.md")}
    [version] = client.search_model_versions("name = 'digits'")
    assert version.run_id == run.info.run_id
    fetched = client.download_artifacts(run.info.run_id, "model/model.npz", str(tmp_path))
    with np.load(fetched) as theirs, np.load(result["model"]) as ours:
        assert all((theirs[name] == ours[name]).all() for name in ours.files)

    [curves] = folder.iterdir()
    assert {each.name for each in curves.iterdir()} == {"all", *nodes}
    events = EventAccumulator(str(curves / "all")).Reload().Tensors("accuracy")
    assert [float(make_ndarray(one.tensor_proto)) for one in events] == pytest.approx(wanted)
    assert EventAccumulator(str(curves / min(nodes))).Reload().Tensors("train/seconds")

    user("model", fed, "--save", str(tmp_path / "again.npz"), **places)
    [again] = runs()
    assert again.info.run_id != run.info.run_id, "a run that is sent again replaces what was there"
    assert again.data.metrics.keys() == run.data.metrics.keys()

    local = {"MLFLOW_TRACKING_URI": "", "ONEFLOWER_TRACK": "mlflow"}
    assert "mlflow ui --backend-store-uri sqlite:///" in user("model", fed, **local).stderr
    assert (user.folder / "oneflower-results" / "mlflow" / "mlflow.db").exists()

    gone = user("run", "image-classification", "-f", fed, code=9, ONEFLOWER_TRACK="mlflow:http://127.0.0.1:1")
    assert "MLflow at http://127.0.0.1:1 does not answer" in gone.stderr
