"""Stock Flower at one end, and ours at the other: real processes, which exchange the objects of messages one by one.

And one release of Flower after another on the same machines.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess

import httpx
import psutil
import pytest

from oneflower.api import Federation, local_cloud
from oneflower.cloud import upgrade
from oneflower.local.home import LocalHome
from oneflower.runtimes import runtime
from oneflower_appliance.agent import tls
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.orders import (
    EXECUTION_VARIABLE,
    LEVEL_VARIABLE,
    RUNS_VARIABLE,
    CertificateFiles,
    SuperLinkOrders,
    SuperNodeOrders,
)
from oneflower_appliance.parameters import FLOWER_MINORS, FLOWER_TESTED
from tests.flower_apps import write_app
from tests.unit.served import PROTOBUF

from .conftest import RELEASE, until

pytestmark = pytest.mark.e2e

ADDRESS = "127.66.7.1"
APP = """
import pathlib
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

server = ServerApp()
client = ClientApp()

@client.train()
def train(message, context):
    arrays = [np.asarray(array + np.float32(0.5)) for array in message.content["arrays"].to_numpy_ndarrays()]
    metrics = MetricRecord({"num-examples": 1, "train_loss": 0.5})
    return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)

@client.evaluate()
def evaluate(message, context):
    value = float(sum(array.sum(dtype=np.float64) for array in message.content["arrays"].to_numpy_ndarrays()))
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1, "value": value})}), reply_to=message)

@server.main()
def main(grid, context):
    nodes = context.run_config["nodes"]
    strategy = FedAvg(min_train_nodes=nodes, min_evaluate_nodes=nodes, min_available_nodes=nodes)
    start = ArrayRecord([np.full(size, number, dtype=np.float32) for number, size in enumerate((5, 2_000_000, 9))])
    done = strategy.start(grid, start, num_rounds=1)
    pathlib.Path(context.run_config["result"]).write_text(str(done.evaluate_metrics_clientapp[1]["value"]))
"""
EXPECTED = sum((number + 0.5) * size for number, size in enumerate((5, 2_000_000, 9)))


class Machine:
    """Flower's processes on this machine, each with a folder of its own, until the end of the test."""

    def __init__(self, folder, stack):
        self.folder, self._stack = folder, stack
        home = LocalHome.of_user()
        self.runtime = runtime.ensure(home.runtimes, RELEASE, "sklearn")
        self.made = tls.make_certificates(folder, [("IP", ADDRESS)])
        self.client = stack.enter_context(
            httpx.Client(verify=ssl.create_default_context(cafile=self.made.ca), trust_env=False)
        )
        config = 'result = ""\nnodes = 1\n'
        write_app(folder / "app", "mixed", {"apps": APP}, server="apps:server", client="apps:client", config=config)

    def _start(self, name, *command, orders=None):
        folder = self.folder / name
        (folder / "runs").mkdir(parents=True)
        environment = {
            **os.environ, "FLWR_HOME": str(folder), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PATH": f"{self.runtime.bin}:{os.environ['PATH']}", "NO_COLOR": "1", RUNS_VARIABLE: str(folder / "runs"),
            LEVEL_VARIABLE: "DEBUG", EXECUTION_VARIABLE: "warm",
        }  # fmt: skip
        if orders:
            environment["PYTHONPATH"] = str(self.runtime.appliance)
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, env=environment, stdout=log,
                                       stderr=log, text=True)  # fmt: skip
        self._stack.callback(end, process)
        with process.stdin as stdin:
            stdin.write(f"{orders.line()}\n" if orders else "")
        return process

    def _ours(self, name, role, orders):
        command = (self.runtime.python, "-P", "-m", "oneflower_appliance.flower.main", role, "--parent", os.getpid())
        return self._start(name, *command, orders=orders)

    def our_link(self, name):
        fleet, control = port(), port()
        files = CertificateFiles(self.made.ca, self.made.certificate, self.made.key)
        folder = self.folder / name
        self._ours(name, "superlink", SuperLinkOrders((ADDRESS, fleet), (ADDRESS, control), folder / "state.db",
                                                      folder / "runs", files, authenticate=False))  # fmt: skip
        return fleet, control

    def stock_link(self, name):
        at = port()
        self._start(name, self.runtime.bin / "flower-superlink", "--host", ADDRESS, "--port", at, "--database",
                    self.folder / name / "state.db", "--disable-runtime-dependency-installation", "--ssl-ca-certfile",
                    self.made.ca, "--ssl-certfile", self.made.certificate, "--ssl-keyfile", self.made.key)  # fmt: skip
        return at, at

    def our_node(self, name, fleet):
        report = self.folder / name / "report"
        orders = SuperNodeOrders(f"{ADDRESS}:{fleet}", (ADDRESS, port()), self.made.ca, None, report)
        self._ours(name, "supernode", orders)

    def stock_node(self, name, fleet):
        self._start(name, self.runtime.bin / "flower-supernode", "--superlink", f"{ADDRESS}:{fleet}",
                    "--root-certificates", self.made.ca, "--host", ADDRESS, "--port", port())  # fmt: skip

    def online(self, control):
        with contextlib.suppress(httpx.HTTPError):
            found = self.client.post(f"https://{ADDRESS}:{control}/v1/control/list-nodes", headers=PROTOBUF)
            return found.content.count(b"online")
        return 0

    def train(self, name, control, nodes):
        """Start `flwr run`. Returns its process, and the file that will have the result."""
        home, result = self.folder / f"{name}-client", self.folder / f"{name}-result"
        home.mkdir()
        (home / "config.toml").write_text(
            f'[superlink.x]\naddress = "{ADDRESS}:{control}"\nroot-certificates = "{self.made.ca}"\n'
        )
        process = subprocess.Popen(
            [self.runtime.bin / "flwr", "run", self.folder / "app", "x", "--stream", "--run-config",
             f'nodes={nodes} result="{result}"'],
            env={**os.environ, "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0",
                 "FLWR_DISABLE_UPDATE_CHECK": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self._stack.callback(end, process)
        return process, result

    def log(self, name):
        return (self.folder / name / "log").read_text()


def port():
    with socket.socket() as free:
        free.bind((ADDRESS, 0))
        return free.getsockname()[1]


def end(process):
    family = [process]
    with contextlib.suppress(psutil.Error):
        family += psutil.Process(process.pid).children(recursive=True)
    for one in family:
        with contextlib.suppress(psutil.Error):
            one.kill()
    process.communicate() if process.stdout else process.wait()


def test_a_stock_supernode_trains_with_our_superlink_and_ours_with_a_stock_one(tmp_path):
    with contextlib.ExitStack() as stack:
        machine = Machine(tmp_path, stack)
        (fleet, control), (stock_fleet, stock_control) = machine.our_link("ours"), machine.stock_link("stock")
        until(lambda: all(answers(machine, at) for at in (control, stock_control)), 120, "both SuperLinks")
        machine.our_node("ours-at-ours", fleet)
        machine.stock_node("stock-at-ours", fleet)
        machine.our_node("ours-at-stock", stock_fleet)
        until(lambda: (machine.online(control), machine.online(stock_control)) == (2, 1), 120, "all SuperNodes")
        runs = machine.train("ours", control, 2), machine.train("stock", stock_control, 1)
        for process, result in runs:
            output, _ = process.communicate(timeout=180)
            assert process.returncode == 0, output
            assert float(result.read_text()) == EXPECTED, output
        said = machine.log("ours")
        assert '"POST /v1/fleet/pull-whole-messages HTTP/1.1" 200' in said, "our SuperNode asks for whole messages"
        assert '"POST /v1/fleet/pull-object HTTP/1.1" 200' in said, "the other does not know them"
        assert '"POST /v1/fleet/push-whole-messages HTTP/1.1" 200' in said
        assert '"POST /v1/fleet/push-object HTTP/1.1" 200' in said
        assert "Traceback" not in said + machine.log("ours-at-stock") + machine.log("ours-at-ours")


def answers(machine, control):
    with contextlib.suppress(httpx.HTTPError):
        return machine.client.get(f"https://{ADDRESS}:{control}/health").status_code == 200
    return False


def test_a_federation_gets_another_release_with_its_runs_and_nodes_and_goes_back_before_if_a_node_fails(
    newcomer, monkeypatch
):
    """The tables of the newer release, which the older one refuses, are there only with real Flower."""
    old = f"{FLOWER_MINORS[0]}.0"
    one = dict.fromkeys(("FL_MIN_FIT_CLIENTS", "FL_MIN_EVALUATE_CLIENTS", "FL_MIN_AVAILABLE_CLIENTS"), "1")
    monkeypatch.setattr(upgrade, "GRACE", 0)
    cloud = local_cloud(home=newcomer.home)
    lab = Federation.deploy(cloud, 1, {"FLOWER_VERSION": old, **one}, "lab", limits=(1, 2))
    first = lab.run("image-classification", 1, save=newcomer.folder / "first")
    before = lab.status()
    link, node = before.vms
    helpers = newcomer.machine(node.id) / "var" / "bin"

    def hinder(event):
        """Let the SuperNode fail with the newer release only."""
        if "supernode_0: Flower" in str(event) and FLOWER_TESTED in str(event):
            helpers.rename(helpers.with_name("away"))
            helpers.touch()
        elif "go back" in str(event):
            helpers.unlink()
            helpers.with_name("away").rename(helpers)

    with pytest.raises(OneflowerError, match=f"supernode_0.*It is back on Flower {old}") as failed:
        lab.upgrade(FLOWER_TESTED, notify=hinder)
    assert failed.value.code is ExitCode.DEPLOY_FAILED
    assert "again as Flower" in newcomer.home.console(link.id).read_text(), "the older one got its own tables back"
    for release in (old, FLOWER_TESTED):
        lab.upgrade(release)
        now = lab.status()
        assert (now.version, now.partitions) == (release, before.partitions)
        assert [run.id for run in lab.runs()] == [first.id]
    assert lab.fetch_model(newcomer.folder / "model.npz").rows == first.rows
    assert lab.run("image-classification", 1, save=newcomer.folder / "second").rows
    cloud.close()
