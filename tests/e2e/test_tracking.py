"""A run in a real MLflow server and in real TensorBoard files, while it trains and afterwards."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np
import pytest

from oneflower.local.home import LocalHome

from .conftest import RELEASE, until

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
PASSWORD, WRONG = "Xk3-hidden-Zq9-word", "Xk3-another-word"
LOGIN = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": PASSWORD}
NO_LOGIN = dict.fromkeys(LOGIN, "")


@pytest.fixture
def server(tmp_path):
    """The address of an MLflow server that wants a login, installed once with its pinned packages."""
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
             "--app-name", "basic-auth",
             "--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}",
             "--artifacts-destination", str(tmp_path / "artifacts")],
            stdout=log, stderr=log, cwd=tmp_path, start_new_session=True,
            env={**os.environ, "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD, "MLFLOW_FLASK_SERVER_SECRET_KEY": "x" * 32,
                 "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
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


def test_a_run_is_in_mlflow_and_tensorboard_with_its_nodes_its_files_and_its_model(
    user, fed, server, tmp_path, monkeypatch
):
    from mlflow.tracking import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    for name, value in LOGIN.items():
        monkeypatch.setenv(name, value)
    folder, places = tmp_path / "curves", {"MLFLOW_TRACKING_URI": server, "ONEFLOWER_TRACK": "mlflow", **LOGIN}
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

    def histories(run):
        return {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}

    before = histories(run)
    sent = user("track", fed, "--run", result["id"], "--register", "digits", **places).stderr
    [again] = runs()
    assert again.info.run_id == run.info.run_id, "a run that is sent again is brought up to date"
    assert histories(again) == before, "and nothing is there twice"
    assert len(client.search_model_versions("name = 'digits'")) == 1

    sent += user("track", fed, "--run", result["id"], MLFLOW_TRACKING_URI="").stderr
    assert "mlflow ui --backend-store-uri sqlite:///" in sent
    with closing(sqlite3.connect(user.folder / "oneflower-results" / "mlflow" / "mlflow.db")) as stored:
        assert [*stored.execute("select count(*) from metrics")] == [(sum(map(len, before.values())),)]

    assert_no_login_is_told(user, fed, server, done.stdout + done.stderr + sent)


def assert_no_login_is_told(user, fed, server, said):
    """Wrong logins are refused in a sentence, and no password is in one, or in a file that oneflower wrote."""
    nowhere = f"mlflow:http://me:{WRONG}@127.0.0.1:1"
    gone = user("run", "image-classification", "-f", fed, code=9, ONEFLOWER_TRACK=nowhere)
    assert "MLflow at http://127.0.0.1:1 does not answer" in gone.stderr
    inside = f"mlflow:{server.replace('//', f'//admin:{WRONG}@')}"
    outside = {**LOGIN, "MLFLOW_TRACKING_PASSWORD": WRONG}
    for place, login in ((inside, NO_LOGIN), (f"mlflow:{server}", outside)):
        refused = user("track", fed, "--to", place, code=9, **login).stderr
        assert f"MLflow at {server} refuses the login" in refused
        said += refused
    said += gone.stderr
    for secret in (PASSWORD, WRONG):
        assert secret not in said
        files = [file for file in user.home.state.rglob("*") if file.is_file() and not file.is_symlink()]
        assert not [file for file in files if secret.encode() in file.read_bytes()]
