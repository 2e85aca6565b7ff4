"""A federation without processes: a pre-built app's own ClientApp and ServerApp, called in turn."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import sklearn.datasets  # the app imports it when it runs; here collections of garbage do not look through it each time
import sklearn.model_selection  # noqa: F401
from flwr.app import ConfigRecord as _  # noqa: F401 - Flower fills its registries on import
from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp.strategy import Strategy
from flwr.supercore.task_identity import TaskIdentity

from oneflower.cloud.apps import load_app
from oneflower_appliance.training.traffic import Traffic
from oneflower_appliance.use_cases import USE_CASES


class Grid:
    """Delivers messages to the ClientApp at once. `spoil(node, message, reply)` may return another reply."""

    def __init__(self, app, run_config, nodes, node_configs=None, spoil=None, run_id=17):
        self.run = SimpleNamespace(run_id=run_id, override_config={})
        self.spoil = spoil or (lambda node, message, reply: reply)
        self._app = app
        configs = node_configs or [{"partition-id": n, "num-partitions": nodes} for n in range(nodes)]
        self._contexts = {
            100 + number: Context(17, 100 + number, config, RecordDict(), run_config)
            for number, config in enumerate(configs)
        }

    def get_node_ids(self):
        return list(self._contexts)

    def get_nodes(self):
        return [SimpleNamespace(node_id=node, name="") for node in self._contexts]

    def send_and_receive(self, messages, *, timeout=None):
        return [self._answer(message) for message in messages]

    def _answer(self, message):
        node = message.metadata.dst_node_id
        try:
            reply = self._app(message, self._contexts[node])
        except Exception as error:  # noqa: BLE001 - as Flower does
            reply = Message(Error(code=1, reason=f"{type(error)}:<'{error}'>"), reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = node
        return self.spoil(node, message, reply)


class Phases:
    """Stands for the live round of a grid: what a run says that it does, and the nodes that were then waited for."""

    def __init__(self, grid):
        self.seen = []
        self._missing = set()
        Traffic.of(grid).live = self

    def begin(self, phase, number, rounds, asked=()):
        self.seen.append((f"{number}/{rounds} {phase}", list(asked), sorted(self._missing)))
        self._missing = set(asked)

    def note_sent(self, sent):
        self._missing |= {metadata.dst_node_id for metadata in sent}

    def note_answer(self, sent, *, failed):
        self._missing.remove(sent.dst_node_id)


class Trained:
    """The outcome of a run: Flower's result, and the accuracy of each round on the digits' test set."""

    def __init__(self, result):
        self.result = result
        self.rounds = [dict(record) for number, record in sorted(result.evaluate_metrics_serverapp.items()) if number]
        self.accuracies = [record["accuracy"] for record in self.rounds]

    @property
    def accuracy(self):
        return self.accuracies[-1]


def app_module(use_case, module):
    """Import a module of a pre-built app, whose package is where Flower installs it and not on the path."""
    name = use_case.replace("-", "_")
    if name not in sys.modules:
        package = USE_CASES[use_case].folder / name / "__init__.py"
        spec = importlib.util.spec_from_file_location(name, package, submodule_search_locations=[str(package.parent)])
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return importlib.import_module(f"{name}.{module}")


def train(monkeypatch, use_case, nodes=2, node_configs=None, spoil=None, run_id=17, **settings):
    """Run a use case; `settings` are those of its run config, `_` for `-`."""
    config = dict(load_app(use_case, {}).config) | {key.replace("_", "-"): value for key, value in settings.items()}
    for name, value in (("_task_id", 1), ("_run_id", 17), ("_node_id", 0)):
        monkeypatch.setattr(TaskIdentity, name, value)
    results = []
    original = Strategy.start

    def start(*args, **kwargs):
        results.append(original(*args, **kwargs))
        return results[-1]

    monkeypatch.setattr(Strategy, "start", start)
    grid = Grid(app_module(use_case, "client_app").app, config, nodes, node_configs, spoil, run_id)
    context = Context(17, 0, {}, RecordDict(), config)
    try:
        app_module(use_case, "server_app").app(grid, context)
    finally:
        monkeypatch.setattr(Strategy, "start", original)
    return Trained(results[-1])
