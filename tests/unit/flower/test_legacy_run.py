"""Apps on Flower's legacy API, with Flower's own server and clients, and a grid that answers at once."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.client import ClientApp, NumPyClient
from flwr.common import FitIns, Parameters, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import LegacyContext, Server, ServerApp, ServerAppComponents, ServerConfig, SimpleClientManager
from flwr.server.strategy import FedAdam, FedAvg, FedMedian
from flwr.server.workflow import DefaultWorkflow
from flwr.supercore.task_identity import TaskIdentity

from oneflower_appliance import node_reports
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.flower import internals
from oneflower_appliance.flower.legacy.arrays import to_parameters, to_record
from oneflower_appliance.flower.legacy.hooks import supervise_legacy
from oneflower_appliance.runs import RunRow
from oneflower_appliance.training.abandoned import Abandoned
from oneflower_appliance.training.traffic import Traffic
from tests.unit import federation


class Client(NumPyClient):
    """Adds one to the model."""

    def __init__(self, node):
        self.node = node

    def get_parameters(self, config):
        return [np.zeros((2, 3))]

    def fit(self, parameters, config):
        return [array + 1 for array in parameters], 10 * (self.node % 2 + 1), {"train_loss": 0.5, "node": "text"}

    def evaluate(self, parameters, config):
        return float(parameters[0].mean()), 10, {"accuracy": np.float64(0.9)}


class Grid:
    """Two nodes with a ClientApp, behind the methods that Flower's own grid has."""

    def __init__(self, client=Client, run_id=17):
        self.run = SimpleNamespace(run_id=run_id, override_config={})
        self.nodes = [1, 2]
        self._client = client
        self._waiting = {}
        self._app = ClientApp(client_fn=lambda context: client(context.node_id).to_client())

    def get_node_ids(self):
        return list(self.nodes)

    def push_messages(self, messages):
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = message.object_id
            self._waiting[message.object_id] = message
            ids.append(message.object_id)
        return ids

    def pull_messages(self, message_ids):
        return [reply for name in list(message_ids) if (reply := self.answer(self._waiting[name])) is not None]

    def send_and_receive(self, messages, *, timeout=None):
        waiting, replies = set(self.push_messages(messages)), []
        while waiting:
            found = self.pull_messages(waiting)
            replies += found
            waiting -= {reply.metadata.reply_to_message_id for reply in found}
        return replies

    def answer(self, message):
        node = message.metadata.dst_node_id
        try:
            reply = self._app(message, Context(17, node, {}, RecordDict(), {}))
        except Exception as error:  # noqa: BLE001 - as Flower does
            reply = Message(Error(code=1, reason=f"{type(error)}:<'{error}'>"), reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = node
        return reply


@pytest.fixture
def record(tmp_path, monkeypatch):
    for name, value in (("_task_id", 1), ("_run_id", 17), ("_node_id", 0)):
        monkeypatch.setattr(TaskIdentity, name, value)
    for owner in (internals.serverapps(), internals.legacy_servers()):
        monkeypatch.setattr(owner, "start_grid", owner.start_grid)
    monkeypatch.setattr(DefaultWorkflow, "__call__", DefaultWorkflow.__call__)
    supervise_legacy(tmp_path / "runs", tmp_path / "checkpoints")
    return tmp_path / "runs" / "17"


def context():
    return Context(17, 0, {}, RecordDict(), {})


def train(grid, strategy, rounds=3, **components):
    app = ServerApp(
        server_fn=lambda _: ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=rounds, **components))
    )
    app(grid, context())


def rows(record):
    return [json.loads(line) for line in (record / "metrics.jsonl").read_text().splitlines()]


def test_a_client_manager_of_the_apps_own_is_used(record):
    asked = []

    class Manager(SimpleClientManager):
        def sample(self, num_clients, *args, **kwargs):
            asked.append(num_clients)
            return super().sample(num_clients, *args, **kwargs)

    components = ServerAppComponents(strategy=FedAvg(), config=ServerConfig(num_rounds=1), client_manager=Manager())
    ServerApp(server_fn=lambda _: components)(Grid(), context())
    assert asked == [1, 2, 2], "the initial model, training, evaluation"
    assert [row["nodes"] for row in rows(record)] == [2]


def test_every_round_and_the_model_are_recorded(record):
    def evaluate(server_round, arrays, config):
        return float(arrays[0].mean()) / 10, {"centralized_accuracy": np.float32(server_round / 4)}

    train(Grid(), FedAvg(evaluate_fn=evaluate))
    found = rows(record)
    assert [(row["round"], row["rounds"], row["asked"], row["nodes"], row["failures"]) for row in found] == [
        (1, 3, 2, 2, 0), (2, 3, 2, 2, 0), (3, 3, 2, 2, 0),
    ]  # fmt: skip
    assert found[0]["train"] == {"train_loss": 0.5}, "the nodes' average, since the app has no function for it"
    assert found[2]["server"] == {"loss": 0.3, "centralized_accuracy": 0.75}
    assert found[2]["evaluate"] == {"loss": 3.0, "accuracy": 0.9}
    assert [(row.loss, row.accuracy, row.train_loss) for row in map(RunRow.parse, map(json.dumps, found))] == [
        (0.1, 0.25, 0.5), (0.2, 0.5, 0.5), (0.3, 0.75, 0.5),
    ]  # fmt: skip
    saved = np.load(record / "model.npz")
    assert saved.files == ["0"]
    assert saved["0"].tolist() == [[3.0] * 3] * 2
    summary = json.loads((record / "result.json").read_text())
    assert (summary["rounds"], summary["strategy"]) == (3, "FedAvg")
    reports = [report for line in node_reports.lines_after(record) for report in node_reports.read_line(line)]
    assert [(r.round, r.phase, r.node, r.examples, r.metrics) for r in reports[:4]] == [
        (1, "train", "1", 20, {"train_loss": 0.5}), (1, "train", "2", 10, {"train_loss": 0.5}),
        (1, "evaluate", "1", 10, {"loss": 1.0, "accuracy": 0.9}),
        (1, "evaluate", "2", 10, {"loss": 1.0, "accuracy": 0.9}),
    ]  # fmt: skip
    assert len(reports) == 12
    npy = len(ndarrays_to_parameters([np.zeros((2, 3))]).tensors[0])
    assert {(r.sent, r.received) for r in reports} == {(npy, npy), (npy, 0)}, "the bytes of the model, both ways or one"
    assert all(0 <= r.seconds < 60 for r in reports)


def test_the_apps_own_average_is_recorded_as_it_is(record):
    def weighted_average(metrics):
        return {"accuracy": sum(n * m["accuracy"] for n, m in metrics) / sum(n for n, _ in metrics) / 3}

    train(Grid(), FedAvg(evaluate_metrics_aggregation_fn=weighted_average), 1)
    assert rows(record)[0]["evaluate"] == {"accuracy": pytest.approx(0.3), "loss": 1.0}


def test_what_the_app_does_not_choose_comes_from_the_form(record, monkeypatch):
    monkeypatch.setenv("ONEFLOWER_FORM", json.dumps({"FL_NUM_ROUNDS": "2", "FL_ROUND_TIMEOUT": "77"}))
    grid, ttl = Grid(), set()
    push = grid.push_messages
    grid.push_messages = lambda messages: ttl.update(m.metadata.ttl for m in messages) or push(messages)
    internals.legacy_servers().start_grid(
        grid=grid, strategy=FedAvg(initial_parameters=ndarrays_to_parameters([np.zeros(2)]))
    )
    assert ttl == {77.0}
    assert len(rows(record)) == 2
    train(grid, FedAvg(initial_parameters=ndarrays_to_parameters([np.zeros(2)])), 1, round_timeout=5.0)
    assert ttl == {77.0, 5.0}


class Unwell(Client):
    """Node 2 fails in training, and answers badly in evaluation."""

    def fit(self, parameters, config):
        if self.node == 2:
            raise ValueError("unwell")
        return super().fit(parameters, config)

    def evaluate(self, parameters, config):
        if self.node == 2:
            return 1.0, 0, {"accuracy": [1, 2, "three"]}
        return super().evaluate(parameters, config)


def test_nodes_that_fail_are_named_with_their_reasons(record):
    train(Grid(Unwell), FedAvg(), 2)
    for row in rows(record):
        assert (row["nodes"], row["asked"], row["failures"]) == (1, 2, 1)
        assert row["faults"][0] == {
            "node": "2", "phase": "train", "kind": "failed", "reason": row["faults"][0]["reason"],
        }  # fmt: skip
        assert "unwell" in row["faults"][0]["reason"]
        assert row["faults"][1]["phase"] == "evaluate"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda arrays: [array * np.nan for array in arrays], "its 0 has values that are not finite"),
        (lambda arrays: [array[:1] for array in arrays], "its 0 has the shape 1 x 3, the global model's 2 x 3"),
        (lambda arrays: [array + 1e12 for array in arrays], "its 0 is too large"),
        (lambda arrays: [*arrays, np.zeros(2)], "its model has other arrays"),
    ],
)
@pytest.mark.parametrize("strategy", [FedAvg, FedMedian])
def test_what_would_ruin_the_model_is_left_out_and_the_node_is_named(record, spoil, reason, strategy):
    class Ruinous(Client):
        def fit(self, parameters, config):
            arrays, examples, metrics = super().fit(parameters, config)
            return (spoil(arrays) if self.node == 2 else arrays), examples, metrics

    grid = Grid(Ruinous)
    grid.nodes = [1, 2, 3]
    train(grid, strategy(), 2)
    for row in rows(record):
        [fault] = row["faults"]
        assert (fault["node"], fault["kind"], row["nodes"]) == ("2", "left out", 2)
        assert reason in fault["reason"]
    assert np.load(record / "model.npz")["0"].tolist() == [[2.0] * 3] * 2


def test_a_result_that_cannot_be_read_is_left_out(record):
    grid = Grid()
    grid.nodes = [1, 2, 3]
    answer = grid.answer

    def truncated(message):
        reply = answer(message)
        if message.metadata.message_type == "train" and message.metadata.dst_node_id == 3:
            [arrays] = reply.content.array_records.values()
            arrays["0"].data = arrays["0"].data[:-8]
        return reply

    grid.answer = truncated
    train(grid, FedAvg(), 1)
    assert rows(record)[0]["faults"][0]["reason"] == "its 0 cannot be read"


def test_a_node_that_does_not_answer_in_time_is_named_and_noted_for_the_superlink(record):
    grid, answer = Grid(), Grid.answer

    def silent(message):
        if message.metadata.dst_node_id == 2 and message.metadata.message_type == "train":
            while time.time() < message.metadata.created_at + message.metadata.ttl:
                time.sleep(0.01)
            return Message(Error(code=4, reason="Message Unavailable"), reply_to=message)
        return answer(grid, message)

    grid.answer = silent
    train(grid, FedAvg(), 1, round_timeout=0.2)
    [fault] = rows(record)[0]["faults"]
    assert (fault["node"], fault["kind"], fault["reason"]) == ("2", "no answer", "nothing came within 0 s")
    assert Abandoned.beside(record.parent).of(2)


def test_a_node_that_is_away_is_named(record):
    grid = Grid()
    grid.get_node_ids = lambda: [1] if len(rows_so_far(record)) == 1 else [1, 2]
    train(grid, FedAvg(min_fit_clients=1, min_evaluate_clients=1, min_available_clients=1), 3)
    assert [[(fault["node"], fault["kind"]) for fault in row["faults"]] for row in rows(record)][1] == [
        ("2", "away"), ("2", "away"),
    ]  # fmt: skip


def test_what_the_threads_of_a_phase_send_is_sent_together(record, monkeypatch):
    monkeypatch.setattr("oneflower_appliance.flower.legacy.together._GATHER", 10)  # it ends as soon as all are there
    grid, push, sent = Grid(), Grid.push_messages, []

    def push_messages(messages):
        sent.append(sorted(message.metadata.dst_node_id for message in messages))
        return push(grid, messages)

    grid.push_messages = push_messages
    train(grid, FedAvg(initial_parameters=ndarrays_to_parameters([np.zeros(3)])), 2)
    assert sent == [[1, 2]] * 4, "for training, and for evaluation"


def test_a_message_that_the_superlink_does_not_take_fails_for_its_node_only(record):
    grid, push = Grid(), Grid.push_messages

    def push_messages(messages):
        return [
            None if message.metadata.dst_node_id == 2 else number
            for message, number in zip(messages, push(grid, messages), strict=True)
        ]

    grid.push_messages = push_messages
    train(grid, FedAvg(initial_parameters=ndarrays_to_parameters([np.zeros(3)])), 1)
    [row] = rows(record)
    assert row["nodes"] == 1
    assert {(fault["node"], fault["reason"]) for fault in row["faults"]} == {
        ("2", "the SuperLink took no message for it")
    }


def test_if_the_superlink_cannot_be_asked_every_node_has_failed(record):
    grid = Grid()

    def pull_messages(message_ids):
        raise RuntimeError("the run was stopped")

    grid.pull_messages = pull_messages
    train(grid, FedAvg(initial_parameters=ndarrays_to_parameters([np.zeros(3)])), 1)
    [row] = rows(record)
    assert (row["nodes"], {fault["node"] for fault in row["faults"]}) == (0, {"1", "2"})


def test_nodes_are_asked_for_once_in_each_phase(record):
    grid, asked = Grid(), []

    def get_node_ids():
        asked.append(len(rows_so_far(record)))
        return [1, 2]

    grid.get_node_ids = get_node_ids
    train(grid, FedAvg(), 4)
    assert [asked.count(done) for done in (1, 2)] == [2, 2], "for training, and for evaluation"


def rows_so_far(record):
    return rows(record) if (record / "metrics.jsonl").exists() else []


class Own:
    """A strategy of the user's own, of no class of Flower's."""

    def __init__(self):
        self.best = 0.0
        self.notes = {}
        self.model = None

    def initialize_parameters(self, client_manager):
        return ndarrays_to_parameters([np.zeros((2, 3))])

    def configure_fit(self, server_round, parameters, client_manager):
        return [(proxy, FitIns(parameters, {})) for proxy in client_manager.sample(2, 2)]

    def aggregate_fit(self, server_round, results, failures):
        arrays = [parameters_to_ndarrays(result.parameters) for _, result in results]
        self.model = ndarrays_to_parameters([np.mean(layer, axis=0) for layer in zip(*arrays, strict=True)])
        self.notes[server_round] = len(results)
        self.best += 1.5
        return self.model, {"best": self.best, "odd": object()}

    def configure_evaluate(self, server_round, parameters, client_manager):
        return []

    def aggregate_evaluate(self, server_round, results, failures):
        raise AssertionError

    def evaluate(self, server_round, parameters):
        return None


def test_a_strategy_of_the_users_own_is_recorded(record):
    train(Grid(), Own(), 2)
    assert [row["train"] for row in rows(record)] == [{"best": 1.5}, {"best": 3.0}]
    assert [row["nodes"] for row in rows(record)] == [2, 2]
    assert json.loads((record / "result.json").read_text())["strategy"] == "Own"
    assert np.load(record / "model.npz")["0"].tolist() == [[2.0] * 3] * 2


def test_a_server_of_the_users_own_gets_a_stand_in_that_looks_like_its_strategy(record):
    class OwnServer(Server):
        def fit_round(self, server_round, timeout):
            assert isinstance(self.strategy, FedAvg)
            self.strategy.fraction_fit = 1.0
            assert repr(self.strategy) == "FedAvg(accept_failures=True)"
            return super().fit_round(server_round, timeout)

    strategy = FedAvg(fraction_fit=0.1)
    server = OwnServer(client_manager=SimpleClientManager(), strategy=strategy)
    components = ServerAppComponents(server=server, config=ServerConfig(num_rounds=1))
    ServerApp(server_fn=lambda _: components)(Grid(), context())
    assert rows(record)[0]["nodes"] == 2
    assert (strategy.fraction_fit, server.strategy) == (1.0, strategy)


def test_a_workflow_is_recorded(record):
    grid = Grid(Unwell)
    legacy_context = LegacyContext(context(), config=ServerConfig(num_rounds=2), strategy=FedAvg())
    DefaultWorkflow()(grid, legacy_context)
    assert [(row["nodes"], [fault["node"] for fault in row["faults"]]) for row in rows(record)] == [
        (1, ["2", "2"]), (1, ["2", "2"]),
    ]  # fmt: skip
    assert np.load(record / "model.npz")["0"].tolist() == [[2.0] * 3] * 2
    found = [report for line in node_reports.lines_after(record, 1) for report in node_reports.read_line(line)]
    assert [(report.node, report.fault) for report in found] == [("1", ""), ("2", "failed")] * 2


def test_trees_are_kept_as_bytes():
    trees = Parameters(tensor_type="", tensors=[b'{"trees": 1}', b""])
    assert to_parameters({name: array.numpy() for name, array in to_record(trees).items()}) == trees


# ---- resuming ------------------------------------------------------------------------------------------------------


class StopError(Exception):
    """Ends a run in the middle."""


def lose(record, grid, strategy, when, rounds=4):
    """Train until `when`, a phase and a round, and then lose the run."""
    phase, number = when
    name = {"train": "aggregate_fit", "evaluate": "aggregate_evaluate"}[phase]
    original = getattr(strategy, name)

    def dying(server_round, *args):
        if server_round == number:
            raise StopError
        return original(server_round, *args)

    setattr(strategy, name, dying)
    with pytest.raises(StopError):
        train(grid, strategy, rounds)


def resumed(record, strategy, rounds=4, number=18):
    folder = record.parent / str(number)
    folder.mkdir()
    (folder / "origin.json").write_text(json.dumps({"resumes": "17", "first": "17", "attempt": 1}))
    grid = Grid(run_id=number)
    train(grid, strategy, rounds)
    return folder


@pytest.fixture
def checkpoints(monkeypatch):
    monkeypatch.setenv("ONEFLOWER_FORM", json.dumps({"FL_CHECKPOINT_ENABLED": "YES", "FL_CHECKPOINT_INTERVAL": "1"}))


def adam():
    return FedAdam(initial_parameters=ndarrays_to_parameters([np.zeros((2, 3))]))


@pytest.mark.parametrize(
    ("make", "when"),
    [
        (FedAvg, ("train", 3)),
        (FedAvg, ("evaluate", 2)),
        (adam, ("train", 3)),
        (adam, ("evaluate", 4)),
        (Own, ("train", 3)),
    ],
)
def test_a_lost_run_resumes_and_ends_where_it_would_have_ended(record, checkpoints, make, when):
    train(Grid(run_id=1), make(), 4)
    whole = np.load(record.parent / "1" / "model.npz")["0"]
    lose(record, Grid(), make(), when)
    folder = resumed(record, make())
    assert np.array_equal(np.load(folder / "model.npz")["0"], whole)
    found, unbroken = rows(folder), rows(record.parent / "1")
    assert [row["round"] for row in found] == [1, 2, 3, 4]
    for name in ("train", "evaluate", "server"):
        assert [row.get(name) for row in found] == [row.get(name) for row in unbroken]


def test_a_strategy_that_cannot_be_saved_is_refused_with_a_sentence(record, checkpoints):
    class Unsaveable(FedAvg):
        def __init__(self):
            super().__init__()
            self.rounds = []

        def aggregate_fit(self, server_round, results, failures):
            self.rounds.append(lambda: server_round)
            return super().aggregate_fit(server_round, results, failures)

    lose(record, Grid(), Unsaveable(), ("train", 3))
    with pytest.raises(OneflowerError, match="its attribute rounds"):
        resumed(record, Unsaveable())


def test_a_run_is_not_resumed_with_another_model(record, checkpoints):
    lose(record, Grid(), FedAvg(), ("train", 3))
    other = FedAvg(initial_parameters=ndarrays_to_parameters([np.zeros(5)]))
    with pytest.raises(OneflowerError, match="another model"):
        resumed(record, other)


# ---- messages ------------------------------------------------------------------------------------------------------


def test_messages_are_counted_until_a_strategy_starts(record):
    grid = Grid(Unwell)
    traffic = Traffic.of(grid)
    traffic.write_to(record)
    content = RecordDict()
    grid.send_and_receive([Message(content, dst_node_id=node, message_type="query") for node in (1, 2)])
    traffic.close()
    assert json.loads((record / "messages.json").read_text()) == {"sent": 2, "answered": 0, "failed": 2}
    (record / "messages.json").unlink()
    train(grid, FedAvg(), 1)
    traffic.close()
    assert not (record / "messages.json").exists()


def test_people_can_see_each_phase_with_the_nodes_that_it_asks(record):
    grid = Grid()
    phases = federation.Phases(grid)
    train(grid, FedAvg(evaluate_fn=lambda server_round, arrays, config: (0.5, {})), rounds=2)
    phases.seen = [(phase, sorted(asked), missing) for phase, asked, missing in phases.seen]
    assert phases.seen == [
        ("0/2 evaluating", [], []),
        *[(f"{number}/2 {phase}", nodes, []) for number in (1, 2) for phase, nodes in (
            ("choosing nodes", []), ("training", [1, 2]), ("aggregating", []), ("evaluating", []),
            ("choosing nodes", []), ("evaluating", [1, 2]), ("aggregating", []),
        )],
    ]  # fmt: skip
