"""The main job: a real model, trained by a real federation, saved and loaded again."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest

from oneflower.cloud import Cloud, Endpoints, Federation, training
from oneflower.cloud.following import Observer
from oneflower.cloud.tunnel import SshOptions
from oneflower.clouds import OpenNebulaSurroundings
from oneflower.local import daemon
from tests.flower_apps import write_app
from tests.unit.federation import app_module
from tests.unit.ssh import SshServer

from .conftest import RELEASE, until

pytestmark = pytest.mark.e2e

CONFIG = """\
num-server-rounds = 1
boom = false
sick = false
blind = false
hang = false
start = 3
grown = 0
slow = 0.0
slowest = 0
peak = 0
motto = "none"
"""
MINIMAL = """
import os
import pathlib
import time
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from oneflower_appliance.training.data import DataError

server = ServerApp()
client = ClientApp()

@client.train()
def train(message, context):
    if context.run_config["sick"]:
        raise ValueError("this node is unwell")
    if context.run_config["hang"] and context.node_config["partition-id"] == 0 and not os.path.exists("seen.txt"):
        open("seen.txt", "w").close()
        while True:
            pass
    with open("seen.txt", "a") as seen:
        seen.write("x")
    if context.node_config["partition-id"] == context.run_config["slowest"]:
        time.sleep(context.run_config["slow"])
    arrays = [array + 1 for array in message.content["arrays"].to_numpy_ndarrays()]
    arrays += [np.arange(float(context.run_config["grown"]))] if context.run_config["grown"] else []
    metrics = MetricRecord({"train_loss": 0.5, "num-examples": 1})
    return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)

@client.evaluate()
def evaluate(message, context):
    raise ValueError("this node is blind")

@server.main()
def main(grid, context):
    if context.run_config["boom"]:
        raise RuntimeError("the moon is in the wrong house")
    if context.run_config["motto"] == "no data":
        raise DataError("There is no data.", "Put some there.")
    strategy = FedAvg(fraction_evaluate=float(context.run_config["blind"]))
    rounds, patience = context.run_config["num-server-rounds"], 25.0 if context.run_config["hang"] else 3600.0
    peak = context.run_config["peak"]
    tested = (lambda number, arrays: MetricRecord({"loss": abs(number - peak)})) if peak else None
    start = ArrayRecord([np.zeros(context.run_config["start"])])
    result = strategy.start(grid, start, num_rounds=rounds, timeout=patience, evaluate_fn=tested)
    np.savez("final_model.npz", *result.arrays.to_numpy_ndarrays())
    pathlib.Path("notes").mkdir()
    pathlib.Path("notes/motto of today?.txt").write_text(context.run_config["motto"])
    os.symlink("/etc/passwd", "secret")
    os.symlink("/etc", "secrets")
"""


@pytest.fixture
def app(tmp_path):
    folder = tmp_path / "minimal-app"
    return write_app(folder, "minimal", {"apps": MINIMAL}, server="apps:server", client="apps:client", config=CONFIG)


def test_the_demo_does_the_whole_job_and_cleans_up(newcomer):
    done = newcomer("demo", "--rounds", "3")
    assert "deploying demo-" in done.stderr
    assert "round      loss  accuracy  seconds  nodes" in done.stderr
    assert "3/3" in done.stderr
    assert "accuracy 0." in done.stdout
    [folder] = newcomer.folder.glob("oneflower-results/demo-*")
    assert (folder / "convergence.png").read_bytes().startswith(b"\x89PNG")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert [row["round"] for row in metrics["rows"]] == [1, 2, 3]
    assert all(row["nodes"] == 2 for row in metrics["rows"])
    assert f"| flwr | {RELEASE} |" in (folder / "card.md").read_text()
    assert json.loads(newcomer("ls", "-o", "json").stdout) == []
    assert newcomer.processes() == []

    images, softmax, models = (app_module("image-classification", name) for name in ("images", "softmax", "models"))
    train, test = images.digits(7)
    central, _ = softmax.train(
        softmax.initial(images.DIGITS_SHAPE, 10), train, models.TrainingOptions("softmax", 60, 32, 0.5, seed=7)
    )
    loss, accuracy = softmax.evaluate(dict(np.load(folder / "model.npz")), test)
    assert accuracy == metrics["rows"][-1]["server"]["accuracy"], "the saved model is the one that was measured"
    assert loss == pytest.approx(metrics["rows"][-1]["server"]["loss"], rel=1e-6)
    assert accuracy >= softmax.evaluate(central, test)[1] - 0.03


def test_anybodys_app_is_trained_recorded_and_saved_without_a_change(user, fed, app):
    result = json.loads(user("run", str(app), "-f", fed, "-o", "json").stdout)
    assert [(row["train_loss"], row["loss"]) for row in result["rows"]] == [(0.5, None)]
    saved = np.load(user.folder / result["model"])
    assert saved[saved.files[0]].tolist() == [1.0, 1.0, 1.0]


def test_what_each_node_did_is_recorded_and_a_slow_one_and_the_best_round_are_named(user, fed, app):
    """It costs the seconds in which a node is slow: only real processes have them, and bytes on their way."""
    nodes = {vm["partition"]: vm for vm in user.show(fed)["vms"] if vm["partition"]}
    partitions = sorted(nodes)  # not always 0 and 1: other tests scale the federation
    slow = partitions[1]
    options = [part for one in ("slow=4.0", f"slowest={slow}", "peak=2") for part in ("-c", one)]
    done = user("run", str(app), "-f", fed, "-r", "3", *options, "-o", "json")
    result = json.loads(done.stdout)
    reports = [json.loads(line) for line in (user.folder / result["reports"]).read_text().splitlines()]
    assert sorted((report["round"], report["partition"]) for report in reports) == [
        (number, partition) for number in (1, 2, 3) for partition in partitions
    ]
    for report in reports:
        assert (report["phase"], report["examples"], report["metrics"]) == ("train", 1, {"train_loss": 0.5})
        assert (report["name"], report["node"]) == tuple(nodes[report["partition"]][key] for key in ("name", "node_id"))
        assert report["sent"] == report["received"] > 24, "three numbers in NumPy's format"
        assert report["seconds"] > 4 * (report["partition"] == slow)
    [finding] = result["findings"]
    assert (finding["kind"], finding["name"]) == ("slow", nodes[slow]["name"])
    until(
        lambda: nodes[slow]["name"] in [one["name"] for one in user.show(fed)["training"]["findings"]], 20, "a finding"
    )
    assert f"{nodes[slow]['name']} is slow:" in user("show", fed).stdout

    assert result["best"] == {"metric": "loss", "round": 2, "value": 0.0}
    for options, number in (((), 3), (("--best",), 2)):
        user("model", fed, "--run", result["id"], "--save", "some.npz", *options)
        saved = np.load(user.folder / "some.npz")
        assert saved[saved.files[0]].tolist() == [number] * 3


def test_a_node_whose_clientapp_hangs_is_named_and_takes_part_again(user, fed, app):
    done = user("run", str(app), "-f", fed, "--config", "hang=true", "-r", "3", "-o", "json")
    [stuck] = [vm for vm in user.show(fed)["vms"] if vm["partition"] == "0"]
    sentence = f"{stuck['name']} (node {stuck['node_id']}) did not answer in training: nothing came within 25 s"
    assert sentence in done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [(row["nodes"], row["asked"]) for row in (rows[0], rows[-1])] == [(1, 2), (2, 2)]
    assert rows[0]["faults"][0]["kind"] == "no answer"
    assert "did not answer in the time that its round had" in (user.machine(stuck["id"]) / "console.log").read_text()
    [app_process] = [p for p in user.processes(stuck["id"]) if p.cpu_percent(0.5) > 50] or [None]
    assert app_process is None, "the ClientApp that hung is gone"
    assert user.is_ready(fed)


MOTTO = "say \"hi\" = 5\\n\nand 'bye'"


@pytest.mark.parametrize("execution", ["warm", "stock"])
def test_what_an_app_writes_into_its_working_folder_comes_with_the_results(newcomer, user, fed, app, execution):
    """And a text arrives as it was given, through Flower's command line."""
    if execution == "stock":
        user, fed = newcomer, "stock"
        user("up", fed, "--set", "FL_EXECUTION=stock")
    done = user("run", str(app), "-f", fed, "-r", "2", "-c", f"motto={MOTTO}", "-o", "json")
    result = json.loads(done.stdout)
    folder = user.folder / result["model"]
    folder = folder.parent
    assert sorted(str((user.folder / path).relative_to(folder)) for path in result["more"]) == [
        "files/final_model.npz", "files/notes/motto of today?.txt",
    ]  # fmt: skip
    assert np.load(folder / "files" / "final_model.npz")["arr_0"].tolist() == [2.0, 2.0, 2.0]
    assert (folder / "files" / "notes" / "motto of today?.txt").read_text() == MOTTO
    for vm in user.show(fed)["vms"][1:]:
        assert (user.machine(vm["id"]) / "var" / "runs" / result["id"] / "files" / "seen.txt").read_text() == "xx"


def test_an_error_of_data_is_told_once_and_without_a_traceback(user, fed, app):
    done = user("run", str(app), "-f", fed, "-c", "motto=no data", code=8)
    assert (done.stderr.count("There is no data."), done.stderr.count("Put some there.")) == (1, 1)
    done = user("run", str(app), "-f", fed, "-c", "motto=no data", "--log", code=8)
    assert "ServerApp raised an exception: There is no data." in done.stderr
    assert "DataError" not in done.stderr


def test_an_app_that_raises_says_so_and_leaves_the_federation_whole(user, fed, app):
    done = user("run", str(app), "-f", fed, "--config", "boom=true", code=8)
    assert "the moon is in the wrong house" in done.stderr
    assert user.is_ready(fed)


def test_a_run_in_which_every_node_fails_is_no_success(user, fed, app):
    done = user("run", str(app), "-f", fed, "--config", "sick=true", code=8)
    for vm in user.show(fed)["vms"][1:]:
        sentence = f"{vm['name']} (node {vm['node_id']}) failed in training: ValueError: this node is unwell"
        assert done.stderr.count(sentence) == 2, "below the row, and in the error"
    assert "trained nothing: every node failed in every round" in done.stderr
    assert user.is_ready(fed)


def test_a_run_that_is_never_evaluated_is_saved_names_the_nodes_and_fails(user, fed, app):
    done = user("run", str(app), "-f", fed, "--config", "blind=true", "-r", "2", code=8)
    for vm in user.show(fed)["vms"][1:]:
        sentence = f"{vm['name']} (node {vm['node_id']}) failed in evaluation: ValueError: this node is blind"
        assert done.stderr.count(sentence) == 3, "below each row, and in the error"
    assert "trained and never evaluated" in done.stderr
    head, first = (line.split() for line in done.stderr.splitlines() if "round " in line or " 1/2 " in line)
    assert dict(zip(("round", "train loss", "loss", "accuracy"), first[:4], strict=True)) == {
        "round": "1/2", "train loss": "0.5000", "loss": "-", "accuracy": "-",
    }  # fmt: skip
    assert (head[1:4], first[5]) == (["train", "loss", "loss"], "2/2")
    [run] = re.findall(rf"oneflower-results/{fed}-(\d+)\.", done.stderr)
    model = np.load(user.folder / "oneflower-results" / f"{fed}-{run}" / "model.npz")
    assert model[model.files[0]].tolist() == [2.0, 2.0, 2.0]

    def report():
        """What the SuperLink's agent published of this run: it does so at its next look, soon after the run's end."""
        published = user.show(fed)["training"]
        return published if (published["id"], published["status"]) == (run, "completed") else None

    told = until(report, 20, "the end of the run, published")
    assert (told["round"], told["fault"]["reason"]) == (2, "ValueError: this node is blind")
    assert "never evaluated" in told["error"]


def test_a_folder_that_is_no_app_and_a_missing_dependency_are_refused_before_anything_starts(user, fed, app, tmp_path):
    done = user("run", str(tmp_path), "-f", fed, code=3)
    assert "is not a Flower app" in done.stderr
    project = (app / "pyproject.toml").read_text()
    (app / "pyproject.toml").write_text(project.replace('"numpy"', '"numpy", "left-pad"'))
    done = user("run", str(app), "-f", fed, code=3)
    assert "needs left-pad, which the machines of fed do not have" in done.stderr


def test_the_fleet_door_lists_and_starts_nothing(user, fed, app):
    """From the network nobody reaches the Control or Runtime API, with or without Flower's own client."""
    import subprocess

    from oneflower.runtimes import runtime

    status = user.show(fed)
    ca = user.machine(status["vms"][0]["id"]) / "var" / "tls" / "ca.crt"
    fleet = f"https://{status['endpoint']}"
    with user.client(status) as client:
        for path in (
            "/v1/control/list-runs",
            "/v1/control/start-run",
            "/v1/runtime/pull-task-input",
            "/oneflower/nodes",
            "/oneflower/runs",
            "/docs",
        ):
            assert client.post(fleet + path, content=b"").status_code == 403
        assert client.get(fleet + "/health").status_code == 200
        assert client.post(f"https://{status['control']}/v1/control/list-runs", content=b"").status_code != 403
    home = user.folder / "intruder"
    home.mkdir()
    (home / "config.toml").write_text(f'[superlink.x]\naddress = "{status["endpoint"]}"\nroot-certificates = "{ca}"\n')
    flwr = runtime.find(user.home.runtimes, RELEASE, "sklearn").bin / "flwr"
    environment = {
        **user.environment,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    before = len(list(user.machine(status["vms"][0]["id"]).glob("var/runs/*")))
    for arguments in (["list", "x"], ["run", str(app), "x"], ["supernode", "list", "x"]):
        done = subprocess.run(
            [flwr, *arguments, "--format", "json"], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode != 0 or json.loads(done.stdout).get("success") is False
    assert len(list(user.machine(status["vms"][0]["id"]).glob("var/runs/*"))) == before


def test_no_secret_is_in_a_log_and_keys_are_private(user, fed):
    status = user.show(fed)
    for vm in status["vms"]:
        folder = user.machine(vm["id"])
        token = (folder / "context" / "token.txt").read_text()
        assert token not in (folder / "console.log").read_text()
        assert token not in user.home.log.read_text()
        for key in (*folder.glob("var/tls/*.key"), *folder.glob("var/tls/server.pem")):
            assert key.stat().st_mode & 0o077 == 0
    text = user("logs", fed).stdout
    assert "PRIVATE KEY" not in text
    assert "superlink_0 | " in text


def test_ctrl_c_stops_the_run(user, fed, app):
    import signal

    from .conftest import until

    process = user.start("run", str(app), "-f", fed, "--rounds", "50")
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("  run "):
            break
    run_id = lines[-1].split()[1]
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "stopping run" in output
    assert run_id in user("run", "-f", fed, "--resume", "5", code=4).stderr
    status = user.show(fed)
    with user.client(status) as client:
        url = f"https://{status['control']}/oneflower/runs/{run_id}"
        until(lambda: client.get(url).json()["status"] == "finished", 30, "the end of the run")
        assert client.get(url).json()["sub_status"] == "stopped"


def test_a_run_goes_through_an_ssh_tunnel_to_a_machine_that_proves_who_it_is(user, fed, tmp_path):
    """As on OpenNebula: the SuperLink's Control API is reached through SSH, with TLS inside, from app to model."""
    found = daemon.connect(user.home)
    cloud = Cloud(Endpoints(found.oneflow, found.xmlrpc, found.auth, direct=True), None)
    server = SshServer(tmp_path)
    try:
        cloud.surroundings = OpenNebulaSurroundings("oneflower", SshOptions("root", server.port, server.key))
        status = Federation.find(cloud, fed).status()
        link = dataclasses.replace(status.superlink, ip="127.0.0.1")
        status = dataclasses.replace(status, vms=(link,), host_keys=(server.public,))
        rows = []
        wanted = training.Request("image-classification", 1, {}, tmp_path)
        result = training.train(cloud.surroundings, status, wanted, Observer(rows.append, print, print))
    finally:
        server.close()
        cloud.close()
    assert len(rows) == 1
    assert np.load(result.model)
    assert {f"{host}:{port}" for host, port in server.forwarded} == {status.control}
