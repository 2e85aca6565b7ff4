"""Apps of other kinds than those on the Message API: on the legacy API, and on the grid itself."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import sys
import tomllib
from importlib.metadata import version

import numpy as np
import pytest

from oneflower_appliance.app_packages import Declaration
from tests.flower_apps import write_app

from .conftest import RELEASE

pytestmark = pytest.mark.e2e

NEEDS = ("flwr[simulation]>=1.41", "scikit-learn", "numpy")
CONFIG = "num-server-rounds = 2\nbroken = false\n"

CLIENT = """
import numpy as np
from flwr.client import ClientApp, NumPyClient
from flwr.common import Context
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

CLASSES = np.arange(10)

def new_model():
    model = LogisticRegression(max_iter=5, warm_start=True)
    model.classes_, model.coef_, model.intercept_ = CLASSES, np.zeros((10, 64)), np.zeros(10)
    return model

def load(partition, partitions):
    x, y = load_digits(return_X_y=True)
    return x[partition::partitions] / 16, y[partition::partitions]

class DigitsClient(NumPyClient):
    def __init__(self, partition, partitions):
        x, y = load(partition, partitions)
        cut = int(len(x) * 0.8)
        self.train, self.test = (x[:cut], y[:cut]), (x[cut:], y[cut:])
        self.model = new_model()

    def fit(self, parameters, config):
        self.model.coef_, self.model.intercept_ = parameters
        self.model.fit(*self.train)
        print("the client has trained", len(self.train[0]))
        return [self.model.coef_, self.model.intercept_], len(self.train[0]), {}

    def evaluate(self, parameters, config):
        self.model.coef_, self.model.intercept_ = parameters
        x, y = self.test
        loss = log_loss(y, self.model.predict_proba(x), labels=CLASSES)
        return loss, len(x), {"accuracy": self.model.score(x, y)}

def client_fn(context: Context):
    return DigitsClient(context.node_config["partition-id"], context.node_config["num-partitions"]).to_client()

app = ClientApp(client_fn=client_fn)
"""

SERVER = """
from flwr.common import Context, ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from sklearn.metrics import log_loss
from .client_app import CLASSES, load, new_model

def evaluate(server_round, parameters, config):
    model = new_model()
    model.coef_, model.intercept_ = parameters
    x, y = load(0, 1)
    return log_loss(y, model.predict_proba(x), labels=CLASSES), {"centralized_accuracy": model.score(x, y)}

def weighted_average(metrics):
    examples = [n for n, _ in metrics]
    return {"accuracy": sum(n * m["accuracy"] for n, m in metrics) / sum(examples)}

def server_fn(context: Context):
    model = new_model()
    strategy = FedAvg(
        evaluate_fn=evaluate,
        evaluate_metrics_aggregation_fn=weighted_average,
        initial_parameters=ndarrays_to_parameters([model.coef_, model.intercept_]),
    )
    config = ServerConfig(num_rounds=int(context.run_config["num-server-rounds"]))
    return ServerAppComponents(strategy=strategy, config=config)

app = ServerApp(server_fn=server_fn)
"""

OWN_STRATEGY = """
import json
import re
import subprocess
import sys
from flwr.common import Context, FitIns, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import Strategy
from .client_app import new_model
import numpy as np

class Median(Strategy):
    def __init__(self, broken):
        self.broken, self.rounds = broken, []

    def initialize_parameters(self, client_manager):
        model = new_model()
        return ndarrays_to_parameters([model.coef_, model.intercept_])

    def configure_fit(self, server_round, parameters, client_manager):
        return [(client, FitIns(parameters, {})) for client in client_manager.sample(2, 2)]

    def aggregate_fit(self, server_round, results, failures):
        layers = zip(*[parameters_to_ndarrays(result.parameters) for _, result in results], strict=True)
        self.rounds.append(len(results))
        print(f"the median of {len(results)} models", flush=True)
        if self.broken:
            print("the last words of the app")
            raise RuntimeError("the median is broken")
        with open("rounds.json", "w") as file:
            json.dump(self.rounds, file)
        return ndarrays_to_parameters([np.median(layer, axis=0) for layer in layers]), {"spread_loss": 0.25}

    def configure_evaluate(self, server_round, parameters, client_manager):
        return []

    def aggregate_evaluate(self, server_round, results, failures):
        return None, {}

    def evaluate(self, server_round, parameters):
        return None

def server_fn(context: Context):
    config = ServerConfig(num_rounds=int(context.run_config["num-server-rounds"]))
    return ServerAppComponents(strategy=Median(context.run_config["broken"]), config=config)

app = ServerApp(server_fn=server_fn)
"""

SECURE_CLIENT = f"""
{CLIENT.rpartition("app =")[0]}
from flwr.client.mod import secaggplus_mod

app = ClientApp(client_fn=client_fn, mods=[secaggplus_mod])
"""

SECURE_SERVER = """
from flwr.common import Context, ndarrays_to_parameters
from flwr.server import Driver, LegacyContext, ServerApp, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from .client_app import new_model

app = ServerApp()

@app.main()
def main(driver: Driver, context: Context) -> None:
    model = new_model()
    strategy = FedAvg(initial_parameters=ndarrays_to_parameters([model.coef_, model.intercept_]))
    config = ServerConfig(num_rounds=int(context.run_config["num-server-rounds"]))
    legacy = LegacyContext(context=context, config=config, strategy=strategy)
    secure = SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=1.0, max_weight=2000)
    DefaultWorkflow(fit_workflow=secure)(driver, legacy)
"""

QUERY_CLIENT = """
import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from sklearn.datasets import load_digits

app = ClientApp()

@app.query()
def query(message, context):
    partition, partitions = context.node_config["partition-id"], context.node_config["num-partitions"]
    labels = load_digits().target[partition::partitions]
    counts = np.bincount(labels, minlength=10).tolist()
    return Message(RecordDict({"counts": ConfigRecord({"counts": counts})}), reply_to=message)
"""

ANALYTICS = """
import time
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp
import numpy as np

app = ServerApp()

@app.main()
def main(driver, context):
    while len(nodes := list(driver.get_node_ids())) < 2:
        time.sleep(0.2)
    messages = [Message(RecordDict(), dst_node_id=node, message_type="query") for node in nodes]
    replies = driver.send_and_receive(messages)
    counts = np.sum([reply.content["counts"]["counts"] for reply in replies], axis=0)
    for digit, count in enumerate(counts):
        print(f"digit {digit}: {count}")
    np.savetxt("histogram.csv", counts)
"""


def write(folder, name, server, client, *more):
    modules = {"server_app": server, "client_app": client}
    return str(write_app(folder / name, name, modules, needs=(*NEEDS, *more), config=CONFIG))


def test_an_app_with_numpy_clients_and_a_server_fn_is_recorded_as_any_other(user, fed, tmp_path):
    done = user("run", write(tmp_path, "digits", SERVER, CLIENT), "-f", fed, "-o", "json")
    result = json.loads(done.stdout)
    rows = result["rows"]
    assert [(row["round"], row["rounds"], row["nodes"], row["asked"]) for row in rows] == [(1, 2, 2, 2), (2, 2, 2, 2)]
    assert rows[1]["loss"] < rows[0]["loss"] < np.log(10)
    assert rows[1]["accuracy"] > 0.8
    assert rows[1]["metrics"]["evaluate"]["accuracy"] > 0.7
    assert re.search(r"2/2 .* 2/2", done.stderr)
    model = np.load(user.folder / result["model"])
    assert [model[name].shape for name in model.files] == [(10, 64), (10,)]
    assert "| Strategy | FedAvg |" in (user.folder / result["card"]).read_text()
    assert (user.folder / result["plot"]).read_bytes().startswith(b"\x89PNG")
    assert "  | " not in done.stderr, "it prints nothing"
    for vm in user.show(fed)["vms"][1:]:
        assert "the client has trained" in user("logs", fed, "--node", vm["name"]).stdout


def test_a_strategy_of_the_users_own_is_recorded_and_what_it_prints_is_shown(user, fed, tmp_path):
    app = write(tmp_path, "median", OWN_STRATEGY, CLIENT)
    done = user("run", app, "-f", fed, "-o", "json")
    result = json.loads(done.stdout)
    assert [(row["train_loss"], row["loss"], row["nodes"]) for row in result["rows"]] == [(0.25, None, 2)] * 2
    assert np.load(user.folder / result["model"]).files == ["0", "1"]
    [rounds] = result["more"]
    assert json.loads((user.folder / rounds).read_text()) == [2, 2]
    assert done.stderr.splitlines().count("  | the median of 2 models") == 2
    quiet = user("run", app, "-f", fed, "-r", "1", "--quiet")
    assert "the median of" not in quiet.stderr + quiet.stdout
    failed = user("run", app, "-f", fed, "-c", "broken=true", code=8)
    assert "the median is broken" in failed.stderr
    assert failed.stderr.count("the last words of the app") == 1
    assert failed.stderr.count("RuntimeError: the median is broken") == 1
    assert user.is_ready(fed)


def test_secure_aggregation_by_a_workflow_is_recorded(user, fed, tmp_path):
    done = user("run", write(tmp_path, "secure", SECURE_SERVER, SECURE_CLIENT), "-f", fed, "-r", "1", "-o", "json")
    result = json.loads(done.stdout)
    [row] = result["rows"]
    assert (row["nodes"], row["asked"], row["metrics"]["evaluated"]) == (2, 2, 2)
    assert row["accuracy"] > 0.7
    assert [np.load(user.folder / result["model"])[name].shape for name in "01"] == [(10, 64), (10,)]


FEDERATIONS = """
[tool.flwr.federations]
default = "simulation"
[tool.flwr.federations.simulation]
options.num-supernodes = 10
"""


def test_an_app_without_a_strategy_shows_its_messages_and_what_it_prints(user, fed, tmp_path):
    app = write(tmp_path, "analytics", ANALYTICS, QUERY_CLIENT)
    project = tmp_path / "analytics" / "pyproject.toml"
    project.write_text(project.read_text() + FEDERATIONS)
    done = user("run", app, "-f", fed)
    assert FEDERATIONS in project.read_text(), "the user's file is left as it is"
    assert "Note: the federations in the app's pyproject.toml are ignored: it trains on fed." in done.stderr
    assert "none: no round of a strategy was recorded; 2 messages sent, 2 answered" in done.stdout
    assert "\n  | digit 0: 178\n" in done.stderr
    assert "DEPRECATED" not in done.stderr
    [saved] = re.findall(r"^more +(.*histogram.csv)$", done.stdout, re.MULTILINE)
    assert np.loadtxt(user.folder / saved).sum() == 1797


def test_a_new_app_passes_its_tests_and_learns_the_digits(user, fed):
    user("new", "my-app")
    tests = [sys.executable, "-m", "pytest", "-q", "-W", "ignore", "my-app"]
    done = subprocess.run(tests, capture_output=True, text=True, check=False, cwd=user.folder)
    assert done.returncode == 0, done.stdout
    result = json.loads(user("run", "my-app", "-f", fed, "-o", "json").stdout)
    assert [row["nodes"] for row in result["rows"]] == [2, 2, 2]
    assert result["rows"][-1]["accuracy"] > 0.9


NOTEBOOK = """
import sys
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from oneflower import Federation, local_cloud
import increments

server_app, client_app = ServerApp(), ClientApp()

class Mine(FedAvg):
    pass

@server_app.main()
def main(grid, context):
    config = context.run_config
    arrays = ArrayRecord([increments.START])
    Mine(fraction_evaluate=0).start(grid=grid, initial_arrays=arrays, num_rounds=config["num-server-rounds"])

@client_app.train()
def train(message, context):
    [array] = message.content["arrays"].to_numpy_ndarrays()
    metrics = MetricRecord({"num-examples": 1, "train_loss": float(context.run_config["mark"])})
    arrays = ArrayRecord([increments.more(array)])
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

federation = Federation.find(local_cloud(), sys.argv[1])
result = federation.run(server_app=server_app, client_app=client_app, config={"mark": 0.5}, rounds=3)
print(result.model.resolve())
print(result)
"""


def test_objects_of_a_script_are_trained_and_its_modules_go_along(user, fed, tmp_path):
    (tmp_path / "increments.py").write_text("import numpy\nSTART = numpy.zeros(2)\ndef more(array): return array + 1\n")
    (tmp_path / "notebook.py").write_text(NOTEBOOK)
    done = subprocess.run(
        [sys.executable, "notebook.py", fed],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=user.environment,
    )  # fmt: skip
    if version("flwr") != RELEASE:  # which made the objects here, and no other release can read them
        assert f"Install flwr=={RELEASE} where the notebook runs" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    model, *shown = done.stdout.splitlines()
    assert np.load(model)["0"].tolist() == [3, 3]
    assert [line.split()[:2] for line in shown[2:5]] == [["1/3", "0.5000"], ["2/3", "0.5000"], ["3/3", "0.5000"]]


IMPORTS = """
import cowsay
import humanize
"""
LOOKS = """
    print("packages:", humanize.intcomma(1797))
"""
LACKS = """
    import importlib.util
    print("others:", importlib.util.find_spec("cowsay"), importlib.util.find_spec("humanize"))
"""


@pytest.fixture
def forgotten(user):
    """Return a function that writes an app which no test before it has installed packages for."""
    written = []

    def write_one(folder, *more):
        written.append(write(folder, f"app{secrets.token_hex(4)}", *more))
        return written[-1]

    yield write_one
    for path in written:
        with open(f"{path}/pyproject.toml", "rb") as stream:
            declared = Declaration.read(tomllib.load(stream))
        for folder in (user.home.runtimes / "apps").iterdir():
            declared.file(folder).unlink(missing_ok=True)


def test_the_packages_of_an_app_are_installed_when_asked_to_and_only_it_has_them(user, fed, tmp_path, forgotten):
    app = forgotten(tmp_path, IMPORTS + ANALYTICS + LOOKS, IMPORTS + QUERY_CLIENT, "cowsay>=6", "humanize>=4")
    refused = user("run", app, "-f", fed, code=3)
    assert "needs cowsay>=6, humanize>=4, which the machines of fed do not have" in refused.stderr
    assert "--install" in refused.stderr
    installed = user("run", app, "-f", fed, "--install")
    assert "installing cowsay>=6, humanize>=4" in installed.stderr
    again = user("run", app, "-f", fed)
    assert "installing" not in again.stderr
    for done in (installed, again):
        assert "messages sent, 2 answered" in done.stdout
        assert "| packages: 1,797" in done.stderr
    other = user("run", write(tmp_path, "analytics", ANALYTICS + LACKS, QUERY_CLIENT), "-f", fed)
    assert "| others: None None" in other.stderr, "an app on the same machines does not see them"
