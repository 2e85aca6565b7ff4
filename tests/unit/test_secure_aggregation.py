"""Secure aggregation: the sum is right if nodes drop out, in any exchange, and no single update can be seen."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.supercore.task_identity import TaskIdentity

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.gaussian_privacy import cost_of
from oneflower_appliance.node_reports import lines_after, read_line
from oneflower_appliance.parameter import Level
from oneflower_appliance.settings import resolve
from oneflower_appliance.training.accounting import Accounting
from oneflower_appliance.training.memory import Watched
from oneflower_appliance.training.secure import secrets
from oneflower_appliance.training.secure.aggregation import Choices
from oneflower_appliance.training.secure.encoding import Update, decode
from oneflower_appliance.training.secure.masks import add_mask
from oneflower_appliance.training.secure.node import secure_aggregation_mod
from oneflower_appliance.training.secure.strategy import SecAgg, guard_of
from oneflower_appliance.training.secure.wire import MASKED, RECORD, VECTOR, threshold_of
from oneflower_appliance.training.strategies import make_strategy

from . import federation
from .test_supervisor import record, rows  # noqa: F401 - a fixture

BEFORE = {"weights": np.linspace(-1, 1, 20_000, dtype=np.float32).reshape(100, 200), "steps": np.array([3], np.int64)}


class Nodes:
    """A grid of nodes with the mod. `away` maps a stage to the nodes that do not answer in it; all is recorded."""

    def __init__(self, count=4, **away):
        self.run = SimpleNamespace(run_id=17, override_config={})
        self.away = away
        self.contexts = {
            node: Context(17, node, {"partition-id": node}, RecordDict(), {"secure-aggregation": "YES"})
            for node in range(1, count + 1)
        }
        self.sent = {node: [] for node in self.contexts}
        self.change = {node: np.sin(np.arange(20_000) * node).astype(np.float32) for node in self.contexts}
        self.alter = lambda node, stage, message: message

    def get_node_ids(self):
        return list(self.contexts)

    def send_and_receive(self, messages, *, timeout=None):
        found = []
        for message in messages:
            node = message.metadata.dst_node_id
            stage = message.content.config_records[RECORD]["stage"]
            if node in self.away.get(stage, ()):
                continue
            try:
                reply = secure_aggregation_mod(self.alter(node, stage, message), self.contexts[node], self.train)
            except OneflowerError as error:
                reply = Message(Error(code=1, reason=f"{type(error)}:<'{error}'>"), reply_to=message)
            reply.metadata.__dict__["_src_node_id"] = node
            self.sent[node].append(reply)
            found.append(reply)
        return found

    def train(self, message, context):
        node = context.node_id
        assert list(message.content) == ["arrays", "config"], "the app sees what it always sees"
        given = message.content.array_records["arrays"]
        arrays = {
            "weights": Array(given["weights"].numpy() + self.change[node].reshape(100, 200)),
            "steps": Array(given["steps"].numpy() + node),
        }
        metrics = MetricRecord({"train_loss": node / 10, "num-examples": 100 * node})
        return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)

    def mean(self, *nodes):
        """What the sum must give: the mean of what these nodes trained, weighted by their examples."""
        return sum(self.change[node].astype(np.float64) * node for node in nodes).reshape(100, 200) / sum(nodes)


@pytest.fixture(autouse=True)
def task(monkeypatch):
    for name, value in (("_task_id", 1), ("_run_id", 17), ("_node_id", 0)):
        monkeypatch.setattr(TaskIdentity, name, value)


def arrays():
    return ArrayRecord({name: Array(array) for name, array in BEFORE.items()})


def train(grid, strategy=None, **choices):
    """Train one round; return the strategy, its result and its metrics."""
    made = SecAgg(strategy or flower.FedAvg(min_train_nodes=3, min_available_nodes=3), Choices(**choices))
    messages = list(made.configure_train(1, arrays(), ConfigRecord({}), grid))
    return made, *made.aggregate_train(1, grid.send_and_receive(messages))


@pytest.mark.parametrize(
    ("away", "summed"),
    [
        ({}, (1, 2, 3, 4)),
        ({"setup": [2]}, (1, 3, 4)),
        ({"share": [1]}, (2, 3, 4)),
        ({"collect": [4]}, (1, 2, 3)),
        ({"unmask": [3]}, (1, 2, 3, 4)),
    ],
)
def test_the_mean_is_right_whoever_drops_out_in_one_stage(away, summed):
    grid = Nodes(4, **away)
    made, result, metrics = train(grid)
    change = result["weights"].numpy() - BEFORE["weights"]
    assert np.abs(change - grid.mean(*summed)).max() < 1e-6, "the error of the encoding"
    weights = sum(summed)
    assert result["steps"].numpy().tolist() == [3 + round(sum(node**2 for node in summed) / weights)]
    assert result["weights"].numpy().dtype == np.float32
    assert metrics["train_loss"] == pytest.approx(sum(node**2 / 10 for node in summed) / weights, abs=1e-6)
    assert made.take_faults() == [], "what happened while the nodes trained is the run's to say"


@pytest.mark.parametrize(
    ("away", "sentence"),
    [
        ({"setup": [1, 2]}, "2 of the 3 nodes that secure aggregation needs (FL_SECURE_THRESHOLD) sent keys"),
        ({"share": [1, 2]}, "shared keys"),
        ({"collect": [1, 2]}, "2 of the 3 nodes that secure aggregation needs (FL_SECURE_THRESHOLD) sent an update"),
        ({"unmask": [1, 2]}, "2 of the 3 nodes that secure aggregation needs (FL_SECURE_THRESHOLD) sent shares"),
    ],
)
def test_with_fewer_nodes_than_the_threshold_a_round_changes_nothing_and_says_why(away, sentence, caplog):
    grid = Nodes(4, **away)
    made, result, metrics = train(grid)
    assert (result, metrics) == (None, None)
    reasons = {fault.node: fault.reason for fault in made.take_faults()}
    gone = {str(node) for nodes in away.values() for node in nodes}
    for node in {"1", "2", "3", "4"} - gone:
        assert reasons[node].startswith("its round changes nothing: ")
        assert sentence in reasons[node]
    assert sentence in caplog.text


def test_the_server_sees_random_numbers_of_every_node_and_no_metric():
    """All that passes: the masked values look uniform, are another time they train, and fit no update."""
    for _ in range(2):
        grid = Nodes(3)
        train(grid)
        seen = {node: [reply for reply in replies if MASKED in reply.content] for node, replies in grid.sent.items()}
        for node, [reply] in seen.items():
            assert list(reply.content) == [RECORD, MASKED]
            assert dict(reply.content.config_records[RECORD]) == {"metrics": ["train_loss"]}
            values = reply.content.array_records[MASKED][VECTOR].numpy()
            counts = np.bincount(values >> np.uint64(56), minlength=256)
            expected = len(values) / 256
            # Chi-squared with 255 degrees of freedom: 6 standard deviations.
            assert ((counts - expected) ** 2 / expected).sum() < 255 + 6 * np.sqrt(2 * 255)
            signal = grid.change[node].astype(np.float64)
            correlation = np.corrcoef(values[-len(signal) :].view(np.int64).astype(np.float64), signal)[0, 1]
            assert abs(correlation) < 6 / np.sqrt(len(signal))
    others = [reply for node in grid.sent for reply in grid.sent[node] if MASKED not in reply.content]
    assert {tuple(reply.content) for reply in others} == {(RECORD,)}


def test_what_a_server_learns_of_a_node_that_drops_out_does_not_unmask_its_update():
    """Its update arrives too late: the server has the secret of the masks that it shares, and not that of its own."""
    grid = Nodes(4)
    made = SecAgg(flower.FedAvg(min_train_nodes=3, min_available_nodes=3))
    messages = list(made.configure_train(1, arrays(), ConfigRecord({}), grid))
    made.aggregate_train(1, [reply for reply in grid.send_and_receive(messages) if reply.metadata.src_node_id != 4])
    shares = [reply.content.config_records[RECORD]["shares"] for n in (1, 2, 3) for reply in grid.sent[n][-1:]]
    place = 3  # of node 4
    own = grid.contexts[1].state.config_records[RECORD]
    assert dict(own) == {"session": own["session"], "stage": "unmask"}, "what a node kept is gone"
    seed = secrets.combine({holder: given[place] for holder, given in enumerate(shares)})
    state = grid.contexts[4].state.config_records[RECORD]
    assert seed == state["mask-seed"] != state["own-seed"]


@pytest.mark.parametrize(
    ("stage", "change", "sentence"),
    [
        ("setup", {"count": 2}, "2 nodes are too few"),
        ("setup", {"threshold": 2}, "the threshold 2 is not between half and all of 4 nodes"),
        ("share", {"nodes": ["1", "2", "3", "5"]}, "its own keys are not among those"),
        ("share", {"nodes": ["1", "1", "3", "4"]}, "nodes or keys occur twice"),
        ("share", {"session": b"x" * 16}, "it is asked to share without setup before"),
        ("collect", {"nodes": ["1", "2", "3", "4", "5"]}, "the server names nodes that shared no keys"),
        ("collect", {"nodes": ["3", "4"]}, "2 nodes are too few"),
        ("unmask", {"active": ["3", "4"]}, "2 nodes are fewer than the threshold"),
        ("unmask", {"active": ["1", "2", "3"]}, "the server names nodes that sent no update"),
        ("unmask", {"stage": "share"}, "it is asked to share without setup before, or a second time"),
    ],
)
def test_a_node_does_nothing_that_a_server_could_use_to_see_its_update(stage, change, sentence):
    """All are told to node 4 alone."""
    grid = Nodes(4)

    def lie(node, at, message):
        if (node, at) == (4, stage):
            told = {**message.content.config_records[RECORD], **change}
            message.content = RecordDict({**message.content, RECORD: ConfigRecord(told)})
        return message

    grid.alter = lie
    train(grid)
    [reply] = [reply for reply in grid.sent[4] if reply.has_error()]
    assert sentence in reply.error.reason
    assert reply is grid.sent[4][-1]


def test_a_node_sends_no_update_that_is_not_masked():
    grid = Nodes(3)
    content = RecordDict({"arrays": arrays(), "config": ConfigRecord({})})
    with pytest.raises(OneflowerError, match="asks for an update that is not masked"):
        secure_aggregation_mod(Message(content, 1, "train"), grid.contexts[1], grid.train)


def test_shares_are_asked_for_once():
    grid = Nodes(3)
    kept = []
    grid.alter = lambda node, stage, message: kept.append((node, stage, dict(message.content))) or message
    train(grid)
    [again] = [RecordDict(content) for node, stage, content in kept if (node, stage) == (2, "unmask")]
    with pytest.raises(OneflowerError, match="without collect before, or a second time"):
        secure_aggregation_mod(Message(again, 2, "train"), grid.contexts[2], grid.train)


def test_a_wrong_share_is_noticed_and_changes_nothing():
    grid = Nodes(3)

    class Lying(Nodes):
        def send_and_receive(self, messages, *, timeout=None):
            found = super().send_and_receive(messages)
            for reply in found:
                said = reply.content.config_records.get(RECORD, {}) if not reply.has_error() else {}
                if "shares" in said and reply.metadata.src_node_id == 1:
                    said["shares"] = [bytes(16) for _ in said["shares"]]
            return found

    made, result, _ = train(Lying(3))
    assert result is None
    assert {fault.reason for fault in made.take_faults()} == {
        "its round changes nothing: a share that a node gave of the secret of node 1 is wrong"
    }
    assert train(grid)[1] is not None


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda grid: grid.change.update({4: np.full(20_000, 1e12, np.float32)}), "changed by too much"),
        (lambda grid: grid.change.update({4: np.full(20_000, np.nan, np.float32)}), "values that are not finite, or"),
    ],
)
def test_an_update_that_would_overflow_is_left_out_by_its_node(spoil, sentence):
    grid = Nodes(4)
    spoil(grid)
    _, result, _ = train(grid)
    assert sentence in grid.sent[4][-1].error.reason
    assert np.abs(result["weights"].numpy() - BEFORE["weights"] - grid.mean(1, 2, 3)).max() < 1e-6


def test_a_masked_update_of_another_size_is_a_node_that_dropped_out():
    grid = Nodes(4)
    made = SecAgg(flower.FedAvg(min_train_nodes=3, min_available_nodes=3))
    messages = list(made.configure_train(1, arrays(), ConfigRecord({}), grid))
    replies = sorted(grid.send_and_receive(messages), key=lambda reply: reply.metadata.src_node_id)
    masked = replies[1].content.array_records[MASKED]
    masked[VECTOR] = Array(masked[VECTOR].numpy()[:-3])
    guard = guard_of(made, arrays())
    assert guard(list(masked.items())) == "its masked update has another size than the model"
    assert guard(list(replies[0].content.array_records[MASKED].items())) == ""
    assert guard(list(arrays().items())) == "its update is not masked"
    result, _ = made.aggregate_train(1, replies)
    assert np.abs(result["weights"].numpy() - BEFORE["weights"] - grid.mean(1, 3, 4)).max() < 1e-6


def test_large_updates_of_many_nodes_do_not_overflow_and_what_would_is_refused():
    before, after = {"a": np.zeros(2, np.float32)}, {"a": np.array([1000, -1000], np.float32)}
    one = Update(before, after, 100_000, [("loss", 2.5)]).encode(1000)
    mean = decode(one * np.uint64(1000), 1, before)
    assert (mean.examples, mean.metrics, mean.arrays["a"].tolist()) == (100_000_000, [2.5], [1000, -1000])
    for update, sentence in (
        (Update(before, {"a": after["a"] * 1000}, 100_000, []), "its a has values that are not finite, or changed by"),
        (Update(before, before, 1, [("loss", float("inf"))]), "its metric loss is inf"),
        (Update(before, before, 1 << 62, []), "examples, which secure aggregation cannot add up"),
        (Update(before, {"b": before["a"]}, 1, []), "returns other arrays than it got"),
    ):
        with pytest.raises(OneflowerError, match=sentence):
            update.encode(1000)
    assert decode(Update(before, after, 0, []).encode(3), 0, before) is None


def test_masks_of_one_seed_are_alike_whatever_the_size_and_those_of_another_are_not():
    def mask(seed, size):
        made = np.zeros(size, np.uint64)
        add_mask(made, seed)
        return made

    seed = secrets.new_seed()
    large = mask(seed, 100_001)
    assert np.array_equal(large[:7], mask(seed, 7))
    assert not np.any(large == mask(secrets.new_seed(), 100_001))
    add_mask(large, seed, negative=True)
    assert not large.any()


def test_the_threshold_is_always_more_than_half():
    assert [threshold_of(0.6, nodes) for nodes in (3, 4, 5, 10, 50)] == [2, 3, 3, 6, 30]
    assert [threshold_of(0.1, nodes) for nodes in (3, 4, 10)] == [2, 3, 6]
    assert threshold_of(1.0, 7) == 7


def test_a_pre_built_app_learns_the_same_and_its_record_names_who_dropped_out(record, monkeypatch):  # noqa: F811
    """In round 2 one node sends no keys, and one no update although the others share masks with it."""
    seen = []

    def spoil(node, message, reply):
        kind = tuple(reply.content if MASKED in reply.content else reply.content.config_records.get(RECORD, ()))
        seen.append((node, kind))
        gone = seen.count((node, kind)) == 2 and (node, kind[:1]) in ((103, ("mask-key",)), (102, (RECORD,)))
        return Message(Error(code=1, reason="<class 'OSError'>:<'gone'>"), reply_to=message) if gone else reply

    given = {
        "framework": "sklearn",
        "min_train_nodes": 3,
        "min_available_nodes": 5,
        "num_server_rounds": 2,
        "local_epochs": 1,
    }
    plain = federation.train(monkeypatch, "image-classification", 5, **given)
    [first, _] = rows(record)
    secure = federation.train(monkeypatch, "image-classification", 5, spoil=spoil, secure_aggregation="YES", **given)
    assert secure.accuracies == pytest.approx(plain.accuracies, abs=0.05)
    [one, two] = rows(record)[-2:]
    assert one["train"] == pytest.approx(first["train"], abs=1e-5)
    assert [(row["nodes"], row["asked"]) for row in (one, two)] == [(5, 5), (3, 5)]
    assert [(fault["node"], fault["kind"], fault["reason"]) for fault in two["faults"] if fault["phase"] == "train"] == [
        ("102", "failed", "OSError: gone"), ("103", "failed", "OSError: gone"),
    ]  # fmt: skip
    reports = [report for line in lines_after(record) for report in read_line(line)]
    assert {report.phase for report in reports} == {"train", "evaluate"}


def test_with_central_noise_the_nodes_clip_and_the_noise_is_that_of_the_form(monkeypatch):
    given = {"framework": "sklearn", "min_train_nodes": 3, "min_available_nodes": 3, "num_server_rounds": 1,
             "local_epochs": 1, "secure_aggregation": "YES"}  # fmt: skip
    plain = federation.train(monkeypatch, "image-classification", 3, **given)
    noisy = {"privacy": "dp-central", "dp_clip": 0.02, "dp_noise": 0.3}
    private = federation.train(monkeypatch, "image-classification", 3, **given, **noisy)
    config = {name.replace("_", "-"): value for name, value in (given | noisy).items()}
    norms = [
        float(np.sqrt(sum((array.numpy() ** 2).sum() for array in trained.result.arrays.values())))
        for trained in (plain, private)
    ]
    noise = 0.3 * 0.02 / 3 * np.sqrt(650)  # the norm of the noise on 650 values
    spent = Accounting(make_strategy(config), resolve({"FL_PRIVACY": "dp-central"}, (Level.SUPERLINK,)), [])
    assert spent.charge(2, 3).cost == pytest.approx(cost_of(0.3 * 2 / 3)), "of two nodes each moves the mean more"
    assert norms[0] > 0.2
    assert norms[1] == pytest.approx(np.hypot(noise, 0.02), rel=0.15)


def test_a_form_that_secure_aggregation_does_not_fit_is_refused():
    for config, sentence in (
        ({"strategy": "Krum"}, "Krum needs the update of each node, so use one of FedAvg, "),
        (
            {"privacy": "dp-central", "dp-clipping": "adaptive"},
            "the SuperLink clips each node's update, so use 'fixed'",
        ),
        ({"min-train-nodes": 2}, "is 'YES', which needs FL_MIN_FIT_CLIENTS of at least 3, and it is 2"),
    ):
        given = {"secure-aggregation": "YES", "min-train-nodes": 3, "min-available-nodes": 5}
        with pytest.raises(OneflowerError, match=sentence):
            make_strategy(given | config)


@pytest.mark.parametrize("name", ["FedMedian", "FedTrimmedAvg", "Krum", "MultiKrum", "Bulyan", "QFedAvg"])
def test_a_strategy_that_needs_each_update_is_refused(name):
    with pytest.raises(OneflowerError, match=f"{name} needs the update of each node, which secure aggregation hides"):
        SecAgg(make_strategy({"strategy": name, "min-available-nodes": 3}))


def test_a_strategy_of_the_mean_gets_it_and_what_it_remembers_can_be_saved():
    grid = Nodes(3)
    made = SecAgg(flower.FedAdam(min_train_nodes=3, min_available_nodes=3, eta=0.1))
    watched = Watched(made, flower.Strategy)
    messages = list(made.configure_train(1, arrays(), ConfigRecord({}), grid))
    result, _ = made.aggregate_train(1, grid.send_and_receive(messages))
    step = result["weights"].numpy() - BEFORE["weights"]
    assert np.all(np.sign(step[np.abs(step) > 1e-2]) == np.sign(grid.mean(1, 2, 3)[np.abs(step) > 1e-2]))
    assert (sorted(watched.look().attributes), watched.look().unfit) == (["strategy.m_t", "strategy.v_t"], "")
