"""What a strategy remembers is saved and restored whole, or its run is not resumed: strategies of Flower and of users."""

from __future__ import annotations

import json
import random
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg, Strategy
from flwr.supercore.task_identity import TaskIdentity

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.orders import FORM_VARIABLE
from oneflower_appliance.training import supervisor
from oneflower_appliance.training.memory import Watched
from oneflower_appliance.training.packing import Packer, UnpackableError

ROUNDS = 5


class Killed(BaseException):
    """What kill -9 is in one process."""


class Grid:
    """Two nodes that halve the model and add their number; the ServerApp may be killed as it waits for them."""

    def __init__(self, run_id, killed=None):
        self.run = SimpleNamespace(run_id=run_id, override_config={})
        self._killed = killed

    def get_node_ids(self):
        return [1, 2]

    def send_and_receive(self, messages, *, timeout=None):
        return [self._answer(message) for message in messages]

    def _answer(self, message):
        if self._killed == (message.content["config"]["server-round"], message.metadata.message_type):
            raise Killed
        node = message.metadata.dst_node_id
        arrays = {name: array.numpy() / 2 + node for name, array in message.content["arrays"].items()}
        loss = float(arrays["weights"].sum())
        content = {"metrics": MetricRecord({"loss": loss, "accuracy": loss / 100, "num-examples": node})}
        if message.metadata.message_type == "train":
            content["arrays"] = ArrayRecord({name: Array(array) for name, array in arrays.items()})
        return Message(RecordDict(content), reply_to=message)


class SuperLink:
    def __init__(self, folder, monkeypatch):
        self.runs, self.checkpoints = folder / "runs", folder / "checkpoints"
        self._monkeypatch = monkeypatch
        self.form(enabled="YES", interval=1)
        monkeypatch.setattr(Strategy, "start", Strategy.start)
        for name in ("_task_id", "_run_id", "_node_id"):
            monkeypatch.setattr(TaskIdentity, name, 1)
        supervisor.supervise(self.runs, self.checkpoints)

    def form(self, enabled, interval):
        form = {"FL_CHECKPOINT_ENABLED": enabled, "FL_CHECKPOINT_INTERVAL": str(interval)}
        self._monkeypatch.setenv(FORM_VARIABLE, json.dumps(form))

    def train(self, run_id, strategy, resumes=None, killed=None, **more):
        if resumes:
            (self.runs / str(run_id)).mkdir(parents=True)
            origin = {"resumes": str(resumes), "first": "1"}
            (self.runs / str(run_id) / "origin.json").write_text(json.dumps(origin))
        arrays = ArrayRecord({"weights": Array(np.arange(6.0).reshape(2, 3))})
        return strategy.start(Grid(run_id, killed), arrays, num_rounds=ROUNDS, **more)

    def rows(self, run_id):
        rows = [json.loads(line) for line in (self.runs / str(run_id) / "metrics.jsonl").read_text().splitlines()]
        return [{key: row[key] for key in row if key not in ("seconds", "ended", "evaluate_again")} for row in rows]

    def checkpoint(self, number):
        return json.loads((self.checkpoints / "1" / f"round-{number:05d}.json").read_text())


@pytest.fixture
def link(tmp_path, monkeypatch):
    return SuperLink(tmp_path, monkeypatch)


class Drift(FedAvg):
    """Keeps a dict of arrays, which it changes in place, and more of what is plain data."""

    seen = [0]  # a list of the class itself

    def __init__(self):
        super().__init__()
        self.control = {}
        self.rounds = 0
        self.last = None
        self.history = [("start", {1: np.float32(0.5)})]

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        self.rounds += 1
        self.last = metrics
        self.history.append((f"round {server_round}", {2: np.float32(self.rounds)}))
        self.seen = [*self.seen, server_round]
        moved = {}
        for name, array in arrays.items():
            self.control.setdefault(name, np.zeros_like(array.numpy()))
            self.control[name] += 0.1 * array.numpy()
            moved[name] = Array(array.numpy() - self.control[name] + len(self.history) + sum(self.seen))
        return ArrayRecord(moved), metrics


class Best(FedAvg):
    """Remembers the best evaluation, and slows down once it is beaten."""

    best = None

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        return ArrayRecord({name: Array(a.numpy() + (self.best or 0)) for name, a in arrays.items()}), metrics

    def aggregate_evaluate(self, server_round, replies):
        metrics = super().aggregate_evaluate(server_round, replies)
        self.best = metrics["accuracy"] + (self.best or 0)
        return metrics


class Dice(FedAvg):
    """Draws from a generator of its own."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(7)

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        self.draw()
        return arrays, metrics

    def draw(self):
        self.rng.random()


class Helper:
    def __init__(self):
        self.count = 0


class Helped(Dice):
    def __init__(self):
        super().__init__()
        self.rng = Helper()

    def draw(self):
        self.rng.count += 1


class Locked(Dice):
    def __init__(self):
        super().__init__()
        self.rng = threading.Lock()

    def draw(self):
        pass


class Python(Dice):
    def __init__(self):
        super().__init__()
        self.rng = random.Random(7)


def momentum():
    return flower.FedAvgM(server_learning_rate=0.5, server_momentum=0.9)


def wrapped(inner):
    return lambda: flower.DifferentialPrivacyServerSideFixedClipping(inner(), 0.0, 1000.0, 2)


def adaptive():
    return flower.DifferentialPrivacyServerSideAdaptiveClipping(Drift(), 0.0, 2, 1.0, clipped_count_stddev=0.0)


STRATEGIES = [
    flower.FedAdam, flower.FedYogi, flower.FedAdagrad, momentum, wrapped(flower.FedAdam), wrapped(momentum), adaptive,
    Drift, Best, wrapped(Best),
]  # fmt: skip


def equal(one, two):
    return all(np.array_equal(array.numpy(), two.arrays[name].numpy()) for name, array in one.arrays.items())


@pytest.mark.parametrize("make", STRATEGIES)
@pytest.mark.parametrize("killed", [(2, "train"), (2, "evaluate"), (4, "train"), (5, "evaluate")])
def test_resumed_a_strategy_ends_where_it_would_have_ended_unbroken(link, make, killed):
    unbroken = link.train(9, make())
    with pytest.raises(Killed):
        link.train(1, make(), killed=killed)
    assert equal(link.train(2, make(), resumes=1), unbroken)
    assert link.rows(2) == link.rows(9)


@pytest.mark.parametrize("make", [Best, Drift, momentum])
def test_a_strategy_may_be_resumed_again_and_again(link, make):
    unbroken = link.train(9, make())
    for number, killed in ((1, (2, "train")), (2, (2, "train")), (3, (3, "evaluate")), (4, (4, "train"))):
        with pytest.raises(Killed):
            link.train(number, make(), resumes=number - 1 or None, killed=killed)
    assert equal(link.train(5, make(), resumes=4), unbroken)
    assert link.rows(5) == link.rows(9)


@pytest.mark.parametrize("make", [flower.FedAdam, Drift, Best])
def test_without_checkpoints_the_last_round_is_saved_with_what_was_remembered(link, make):
    link.form("NO", 1)
    unbroken = make()
    link.train(9, unbroken)
    with pytest.raises(Killed):
        link.train(1, make(), killed=(ROUNDS, "evaluate"))
    again = make()
    link.train(2, again, resumes=1)
    assert link.rows(2) == link.rows(9)
    assert getattr(again, "best", None) == getattr(unbroken, "best", None)
    assert str(getattr(again, "history", None)) == str(getattr(unbroken, "history", None))


def test_what_was_remembered_and_not_saved_is_not_made_up(link):
    link.form("NO", 1)
    link.checkpoints.mkdir(parents=True)
    (link.checkpoints / "1").write_text("in the way")
    with pytest.raises(Killed):
        link.train(1, Best(), killed=(ROUNDS, "evaluate"))
    with pytest.raises(OneflowerError, match=r"What its strategy remembers \(best\) was not saved"):
        link.train(2, Best(), resumes=1)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (Dice, r"its attribute rng \(numpy.random._generator.Generator\) changes"),
        (Python, r"its attribute rng \(random.Random\) changes"),
        (Helped, r"its attribute rng \(.*Helper\) changes"),
        (Locked, r"its attribute rng \(_thread.lock\) cannot be compared"),
        (wrapped(Dice), r"its attribute strategy.rng \(numpy.random._generator.Generator\) changes"),
    ],
)
def test_what_cannot_be_saved_is_named_and_its_run_is_not_resumed(link, make, named, caplog):
    with pytest.raises(Killed):
        link.train(1, make(), killed=(3, "train"))
    assert "A run that is lost after round 2 cannot be resumed. The strategy" in caplog.text
    assert "its attribute" in link.checkpoint(2)["unfit"]
    with pytest.raises(OneflowerError, match=named) as refused:
        link.train(2, make(), resumes=1)
    assert "cannot be resumed from round 2" in refused.value.sentence


def test_an_object_that_does_not_change_is_no_memory(link):
    def make():
        made = Drift()
        made.helper, made.metric, made.unused = Helper(), lambda records: records, np.random.default_rng(7)
        return made

    with pytest.raises(Killed):
        link.train(1, make(), killed=(3, "train"))
    assert sorted(link.checkpoint(2)["memory"]) == ["control", "history", "last", "rounds", "seen"]
    link.train(2, make(), resumes=1)


def test_a_generator_that_only_evaluation_uses_is_where_it_was(link):
    class Sampled(Dice):
        def aggregate_train(self, server_round, replies):
            return FedAvg.aggregate_train(self, server_round, replies)

        def aggregate_evaluate(self, server_round, replies):
            return MetricRecord({"accuracy": self.rng.random()})

    link.train(9, Sampled())
    with pytest.raises(Killed):
        link.train(1, Sampled(), killed=(2, "train"))
    link.train(2, Sampled(), resumes=1)
    assert link.rows(2) == link.rows(9)


def test_what_the_evaluation_of_the_server_app_leaves_with_a_strategy_is_memory(link):
    def remembering(strategy):
        strategy.log = []

        def evaluate(number, arrays):
            strategy.log.append((number, float(arrays["weights"].numpy().sum())))
            return MetricRecord({"accuracy": float(len(strategy.log))})

        return evaluate

    unbroken, killed, resumed = FedAvg(), FedAvg(), FedAvg()
    link.train(9, unbroken, evaluate_fn=remembering(unbroken))
    with pytest.raises(Killed):
        link.train(1, killed, killed=(2, "train"), evaluate_fn=remembering(killed))
    link.train(2, resumed, resumes=1, evaluate_fn=remembering(resumed))
    assert resumed.log == unbroken.log
    assert link.rows(2) == link.rows(9)


def test_a_run_that_ended_leaves_its_strategy_with_what_it_remembered(link):
    ended, again = Best(), Best()
    link.train(1, ended)
    link.train(2, again, resumes=1)
    assert again.best == ended.best


def test_a_copy_of_the_memory_does_not_change_with_the_strategy():
    """Checkpoints are written while the next round already trains."""
    strategy, again = Drift(), Drift()
    watched = Watched(strategy, Strategy)
    strategy.control["weights"] = np.ones(3)
    kept = watched.look().copy
    strategy.control["weights"] += 1
    kept.restore(again)
    assert again.control["weights"].tolist() == [1, 1, 1]
    again.control["weights"] += 1
    assert not kept.same(watched.look())


def test_an_array_with_nan_is_the_same_as_long_as_it_does_not_change():
    array = np.array([1.0, np.nan])
    before = Packer().pack("name", array).copy
    assert Packer().pack("name", array).same(before)
    array[0] = 2
    assert not Packer().pack("name", array).same(before)
    assert not Packer().pack("name", array.astype(np.float32)).same(Packer().pack("name", array))


SHARED = [1.0]


@pytest.mark.parametrize(
    "value",
    [
        None, True, 3, 1 << 70, 0.1, float("inf"), -0.0, "text", b"", b"bytes", np.float32(0.1), np.int64(7), [], (), {},
        {"a/b": np.ones(2), "a": {"b": np.zeros(3)}, 3: "x", None: [1]}, {1, 2}, (1, [2, ("x", b"y")]),
        np.arange(6, dtype=np.int8).reshape(2, 3), np.asfortranarray(np.eye(3)), np.array(["x", "yz"]), np.array(5.0),
        ArrayRecord({"w": Array(np.eye(2, dtype=np.float16))}), MetricRecord({"loss": 0.5, "many": [1, 2]}),
        ConfigRecord({"name": "x", "flag": True, "raw": b"z"}),
    ],
)  # fmt: skip
def test_what_is_packed_comes_back_equal_and_of_the_same_type(value):
    packed = Packer().pack("name", value)
    again = packed.copy.unpack()
    assert type(again) is type(value)
    assert repr(again) == repr(value)
    assert Packer().pack("name", again).same(packed)


@pytest.mark.parametrize(
    "value",
    [
        object(), [lambda: 0], {"x": Helper()}, {(1, 2): 3}, np.array([object()]), [SHARED, SHARED], 1 << 2000,
        type("Odd", (dict,), {})(), np.zeros(2, dtype=[("a", "i4")]), np.ma.masked_array([1.0], [True]),
    ],
)  # fmt: skip
def test_what_would_come_back_otherwise_is_not_packed(value):
    with pytest.raises(UnpackableError):
        Packer().pack("name", value)
