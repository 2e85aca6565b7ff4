"""The recorder around Flower's own strategies, with a grid that answers at once."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp.strategy import FedAvg, Strategy, strategy_utils
from flwr.supercore.task_identity import TaskIdentity

from oneflower_appliance import node_reports
from oneflower_appliance.runs import RunRow, shortcoming
from oneflower_appliance.training import supervised_run, supervisor, waiting
from oneflower_appliance.training.abandoned import Abandoned
from oneflower_appliance.training.departed import Departed
from oneflower_appliance.training.strategies import make_strategy
from oneflower_appliance.training.waiting import needed_by
from tests.unit import federation


class Grid:
    """Two nodes that add one to the model; one of them may be unwell."""

    def __init__(self, unwell=False):
        self.run = SimpleNamespace(run_id=17, override_config={})
        self.unwell = unwell

    def get_node_ids(self):
        return [1, 2]

    def send_and_receive(self, messages, *, timeout=None):
        return [self.answer(message) for message in messages]

    def answer(self, message):
        if self.unwell and message.metadata.dst_node_id == 2:
            return Message(Error(code=1, reason="<class 'ValueError'>:<'unwell'>"), reply_to=message)
        arrays = [array + 1 for array in message.content.array_records["arrays"].to_numpy_ndarrays()]
        metrics = MetricRecord({"loss": 0.5, "accuracy": 0.9, "num-examples": 1})
        content = {"metrics": metrics}
        if message.metadata.message_type == "train":
            content["arrays"] = ArrayRecord(arrays)
        return Message(RecordDict(content), reply_to=message)


@pytest.fixture
def record(tmp_path, monkeypatch):
    monkeypatch.setattr(Strategy, "start", Strategy.start)
    for name, value in (("_task_id", 1), ("_run_id", 17), ("_node_id", 0)):
        monkeypatch.setattr(TaskIdentity, name, value)
    supervisor.supervise(tmp_path / "runs", tmp_path / "checkpoints")
    return tmp_path / "runs" / "17"


def start(grid, **options):
    strategy = FedAvg(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
    return strategy.start(grid, ArrayRecord({"weights": _array()}), **options)


def _array():
    from flwr.app import Array

    return Array(np.zeros((2, 3)))


def rows(record):
    return [json.loads(line) for line in (record / "metrics.jsonl").read_text().splitlines()]


def test_every_round_and_the_model_are_recorded(record):
    result = start(Grid(), num_rounds=3, evaluate_fn=lambda n, arrays: MetricRecord({"accuracy": n / 10}))
    found = rows(record)
    assert [(row["round"], row["rounds"], row["nodes"], row["failures"]) for row in found] == [
        (1, 3, 2, 0), (2, 3, 2, 0), (3, 3, 2, 0),
    ]  # fmt: skip
    assert [row["server"] for row in found] == [{"accuracy": 0.1}, {"accuracy": 0.2}, {"accuracy": 0.3}]
    assert found[0]["evaluate"] == {"loss": 0.5, "accuracy": 0.9}
    assert all(row["seconds"] >= 0 for row in found)
    assert [row["ended"] for row in found] == sorted(row["ended"] for row in found)
    [name] = np.load(record / "model.npz").files
    assert np.array_equal(np.load(record / "model.npz")[name], result.arrays.to_numpy_ndarrays()[0])
    summary = json.loads((record / "result.json").read_text())
    assert summary["rounds"] == 3
    assert summary["model"]["arrays"] == {name: [2, 3]}
    assert len(summary["model"]["sha256"]) == 64


def test_the_model_of_the_best_round_is_kept_besides_the_last(record):
    start(Grid(), num_rounds=4, evaluate_fn=lambda n, arrays: MetricRecord({"loss": abs(n - 2.0)}))
    kept = {name: np.load(record / name) for name in ("best-00002.npz", "model.npz")}
    assert [found[found.files[0]].max() for found in kept.values()] == [2, 4]
    assert len(list(record.glob("best-*"))) == 1, "the accuracy, which all rounds share, is that of the last"


def test_nodes_that_fail_are_counted_with_their_reasons(record):
    start(Grid(unwell=True), num_rounds=1)
    [row] = rows(record)
    assert (row["nodes"], row["asked"], row["failures"], row["evaluated"], row["evaluate_asked"]) == (1, 2, 1, 1, 2)
    told = {"node": "2", "kind": "failed", "reason": "ValueError: unwell"}
    assert row["faults"] == [told | {"phase": "train"}, told | {"phase": "evaluate"}]
    [line] = node_reports.lines_after(record)
    found = node_reports.read_line(line)
    assert [(r.node, r.phase, r.examples, r.metrics) for r in found if not r.fault] == [
        ("1", phase, 1, {"loss": 0.5, "accuracy": 0.9}) for phase in ("train", "evaluate")
    ]
    assert [(r.node, r.phase, r.fault, r.reason) for r in found if r.fault] == [
        ("2", phase, "failed", "ValueError: unwell") for phase in ("train", "evaluate")
    ]


def test_an_evaluation_that_fails_everywhere_leaves_no_loss_and_every_node_with_its_reason(record):
    """The loss of training used to be in the column then."""
    grid = Grid()
    healthy = grid.answer

    def answer(message):
        if message.metadata.message_type == "evaluate":
            return Message(Error(code=1, reason="<class 'KeyError'>:<''labels''>"), reply_to=message)
        return healthy(message)

    grid.answer = answer
    start(grid, num_rounds=2)
    found = [RunRow.parse(json.dumps(row)) for row in rows(record)]
    assert [(row.loss, row.accuracy, row.train_loss) for row in found] == [(None, None, 0.5)] * 2
    assert [fault.sentence for fault in found[1].faults] == [
        f"node {node} failed in evaluation: KeyError: 'labels'" for node in (1, 2)
    ]
    assert "never evaluated" in shortcoming(found)


def test_a_column_keeps_the_source_that_it_began_with(record):
    """A server that tests every other round only does not give the column to the nodes in between."""
    start(Grid(), num_rounds=3, evaluate_fn=lambda n, arrays: None if n % 2 else MetricRecord({"accuracy": n / 10}))
    found = [RunRow.parse(json.dumps(row)) for row in rows(record)]
    assert [row.accuracy for row in found] == [None, 0.2, None]
    assert [row.loss for row in found] == [0.5, 0.5, 0.5], "which the server does not have, and the nodes do"
    (record / "metrics.jsonl").unlink()  # another run
    start(Grid(), num_rounds=2, evaluate_fn=lambda n, arrays: MetricRecord({"accuracy": 0.1}) if n > 1 else None)
    assert [RunRow.parse(json.dumps(row)).accuracy for row in rows(record)] == [0.9, 0.9]


def test_a_node_that_does_not_answer_is_named(record):
    grid = Grid()
    grid.send_and_receive = lambda messages, *, timeout=None: [
        grid.answer(message) for message in messages if message.metadata.dst_node_id == 1
    ]
    start(grid, num_rounds=1, timeout=7.0)
    [row] = rows(record)
    assert [fault["phase"] for fault in row["faults"]] == ["train", "evaluate"]
    silent = {"node": "2", "phase": "train", "kind": "no answer", "reason": "nothing came within 7 s"}
    assert row["faults"][0] == silent
    assert (row["nodes"], row["asked"]) == (1, 2)


def test_a_message_that_is_not_waited_for_any_more_is_noted_for_the_superlink(record):
    grid = Grid()

    def one_of_two(messages, *, timeout=None):
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"{message.metadata.message_type} {message.metadata.dst_node_id}"
        return [grid.answer(message) for message in messages if message.metadata.dst_node_id == 1]

    grid.send_and_receive = one_of_two
    start(grid, num_rounds=1)
    notes = Abandoned.beside(record.parent)
    assert (notes.of(1), sorted(notes.of(2))) == ([], ["evaluate 2", "train 2"])


@pytest.mark.parametrize("phase", ["train", "evaluate"])
def test_a_strategy_that_waits_for_nodes_says_so_with_what_to_do_until_they_are_there(record, monkeypatch, phase):
    monkeypatch.setattr(waiting, "_PATIENCE", 0.01)
    monkeypatch.setattr(strategy_utils, "sleep", lambda _: time.sleep(0.01))
    grid, said = Grid(), []

    def one_until_it_is_said():
        with suppress(FileNotFoundError):
            said.append((record / "waiting").read_text())
        return [1, 2] if said else [1]

    grid.get_node_ids = one_until_it_is_said
    needed = {f"min_{phase}_nodes": 2, "min_available_nodes": 1}
    strategy = FedAvg(**{"min_train_nodes": 1, "min_evaluate_nodes": 1, **needed})
    strategy.start(grid, ArrayRecord({"weights": _array()}), num_rounds=1)
    assert said[0].startswith("The strategy waits for nodes: 1 of the 2 that it needs is online.")
    assert "`oneflower scale`" in said[0]
    assert "Ctrl-C" in said[0]
    assert not (record / "waiting").exists()


def test_how_many_nodes_a_strategy_needs_is_read_from_it_in_either_api():
    legacy = LegacyFedAvg(min_fit_clients=4, min_evaluate_clients=1, min_available_clients=3)
    wrapped = SimpleNamespace(strategy=FedAvg(min_train_nodes=5, min_evaluate_nodes=2, min_available_nodes=3))
    found = [(needed_by(one, "train"), needed_by(one, "evaluate")) for one in (legacy, wrapped, object())]
    assert found == [(4, 3), (5, 3), (0, 0)]


def test_an_error_that_the_superlink_answers_is_the_nodes_that_was_asked(record):
    grid = Grid()

    def lost(message):
        message.metadata.__dict__["_message_id"] = f"message {message.metadata.dst_node_id}"
        reply = grid.answer(message)
        if message.metadata.dst_node_id == 2:
            reply = Message(Error(code=3, reason="Node unavailable"), reply_to=message)
            reply.metadata.__dict__["_src_node_id"] = 1
        return reply

    grid.send_and_receive = lambda messages, *, timeout=None: list(map(lost, messages))
    start(grid, num_rounds=1)
    [fault] = [fault for fault in rows(record)[0]["faults"] if fault["phase"] == "train"]
    assert (fault["node"], fault["reason"]) == ("2", "it started again, or left, before it had replied")


def test_positional_arguments_are_understood(record):
    FedAvg(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1).start(
        Grid(), ArrayRecord({"w": _array()}), 2, 60.0, ConfigRecord()
    )
    assert [row["rounds"] for row in rows(record)] == [2, 2]


def test_a_round_ends_when_the_form_says_so_unless_the_app_says_otherwise(record, monkeypatch):
    monkeypatch.setenv("ONEFLOWER_FORM", json.dumps({"FL_ROUND_TIMEOUT": "77"}))
    grid, given = Grid(), []
    grid.send_and_receive = lambda messages, *, timeout=None: given.append(timeout) or list(map(grid.answer, messages))
    start(grid, num_rounds=1)
    start(grid, num_rounds=1, timeout=5.0)
    assert given == [77.0, 77.0, 5.0, 5.0]


@pytest.mark.parametrize(
    ("form", "config", "said"),
    [
        ({}, {}, ""),
        ({"FL_NUM_ROUNDS": "3"}, {}, ""),
        ({"FL_NUM_ROUNDS": "10"}, {}, "Of the form, FL_NUM_ROUNDS=10 does not count in this run"),
        ({"FL_STRATEGY": "FedAdam", "FL_MODEL": "cnn"}, {}, "Of the form, FL_STRATEGY=FedAdam, FL_MODEL=cnn do not"),
        ({"FL_NUM_ROUNDS": "10", "FL_MODEL": "cnn"}, {"num-server-rounds": 1, "model": "cnn"}, ""),
        ({"FL_ROUND_TIMEOUT": "77"}, {}, ""),
    ],
)
def test_what_of_the_form_does_not_count_is_said_when_a_run_begins(record, monkeypatch, form, config, said):
    monkeypatch.setenv("ONEFLOWER_FORM", json.dumps(form))
    lines = []
    monkeypatch.setattr(supervised_run.log, "warning", lambda text, *values: lines.append(text % values))
    grid = Grid()
    grid.run.override_config = config
    start(grid, num_rounds=1 if config else 3)
    assert len([line for line in lines if "Of the form" in line]) == bool(said)
    assert said in "".join(lines)


def test_a_strategy_that_was_made_by_the_form_counts_it(record, monkeypatch):
    form = {"FL_STRATEGY": "FedProx", "FL_PROXIMAL_MU": "0.5", "FL_MODEL": "cnn"}
    monkeypatch.setenv("ONEFLOWER_FORM", json.dumps(form))
    lines = []
    monkeypatch.setattr(supervised_run.log, "warning", lambda text, *values: lines.append(text % values))
    for config, said in (
        ({}, "FL_MODEL=cnn does not"),
        ({"proximal-mu": 0.1}, "FL_PROXIMAL_MU=0.5, FL_MODEL=cnn do not"),
    ):
        lines.clear()
        made = make_strategy(config)
        made.start(Grid(), ArrayRecord({"weights": _array()}), num_rounds=1)
        assert said in "".join(lines).replace("FL_MODEL=cnn, FL_PROXIMAL_MU=0.5", "FL_PROXIMAL_MU=0.5, FL_MODEL=cnn")


def test_nodes_are_asked_for_once_in_each_phase(record):
    grid, asked = Grid(), []
    grid.get_node_ids = lambda: asked.append(1) or [1, 2]
    start(grid, num_rounds=3)
    assert len(asked) == 2 * 3, "for training, and for evaluation"


def test_a_node_that_joins_later_takes_part_from_the_next_round(record):
    grid = Grid()
    grid.get_node_ids = lambda: [1, 2] if len(rows_so_far(record)) < 1 else [1, 2, 3]
    start(grid, num_rounds=3)
    assert [row["nodes"] for row in rows(record)] == [2, 3, 3]


def test_a_node_that_is_away_when_the_nodes_are_asked_is_named_for_what_it_missed(record):
    grid, rounds = Grid(), []
    grid.get_node_ids = lambda: [1, 2] if len(rounds) < 2 or len(rounds) > 4 else [1]

    def answer(messages, *, timeout=None):
        rounds.append(1)
        return [grid.answer(message) for message in messages]

    grid.send_and_receive = answer
    start(grid, num_rounds=4)  # away in the whole second round, and in the training of the third
    found = [[(fault["node"], fault["phase"], fault["kind"]) for fault in row["faults"]] for row in rows(record)]
    assert found == [[], [("2", "train", "away"), ("2", "evaluate", "away")], [("2", "train", "away")], []]
    assert [(row["asked"], row["nodes"], row["evaluate_asked"]) for row in rows(record)] == [
        (2, 2, 2), (1, 1, 1), (1, 1, 2), (2, 2, 2),
    ]  # fmt: skip
    sentence = RunRow.parse(json.dumps(rows(record)[1])).faults[0].sentence
    assert sentence == "node 2 missed training: it was offline when the nodes were asked"


def faults_of(record):
    return [[(fault["node"], fault["phase"], fault["kind"]) for fault in row["faults"]] for row in rows(record)]


def test_a_node_that_left_on_purpose_is_not_missed(record):
    grid, rounds = Grid(), []
    grid.get_node_ids = lambda: [1, 2] if len(rounds) < 2 else [1]

    def answer(messages, *, timeout=None):
        rounds.append(1)
        return [grid.answer(message) for message in messages]

    grid.send_and_receive = answer
    Departed.beside(record.parent).keep({2})
    start(grid, num_rounds=3)
    assert faults_of(record) == [[], [], []]


def test_a_node_that_is_back_right_after_the_strategy_has_chosen_is_named(record):
    grid, phase, looks = Grid(), [], []

    def answer(messages, *, timeout=None):
        phase.append(1)
        looks.clear()
        return [grid.answer(message) for message in messages]

    def online():
        looks.append(1)
        # In the training of the second round: ours before, and the two of the strategy.
        return [1] if len(phase) == 2 and len(looks) <= 3 else [1, 2]

    grid.send_and_receive, grid.get_node_ids = answer, online
    start(grid, num_rounds=2)
    assert faults_of(record) == [[], [("2", "train", "away")]]


def test_a_resumed_run_knows_which_nodes_took_part_before(record):
    start(Grid(), num_rounds=1)
    for name in ("model.npz", "result.json", "metrics.jsonl"):
        (record / name).unlink()  # it was lost before it had trained anything
    resumed = record.parent / "18"
    resumed.mkdir()
    (resumed / "origin.json").write_text(json.dumps({"resumes": "17", "first": "17", "attempt": 1}))
    grid = Grid()
    grid.run.run_id = 18
    grid.get_node_ids = lambda: [1]
    start(grid, num_rounds=1)
    assert faults_of(resumed) == [[("2", "train", "away"), ("2", "evaluate", "away")]]


def test_a_node_that_a_strategy_does_not_choose_is_no_fault(record):
    strategy = FedAvg(fraction_train=0.5, min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
    strategy.start(Grid(), ArrayRecord({"weights": _array()}), num_rounds=4)
    assert [row["faults"] for row in rows(record)] == [[], [], [], []]


def rows_so_far(record):
    return rows(record) if (record / "metrics.jsonl").exists() else []


def test_a_disk_that_is_full_does_not_end_the_run(record, caplog):
    record.parent.mkdir()
    record.write_text("in the way")
    result = start(Grid(), num_rounds=1)
    assert result.arrays.to_numpy_ndarrays()[0].sum() == 6
    assert "The run continues; metrics.jsonl is lost" in caplog.text


def test_people_can_see_each_phase_with_the_nodes_that_it_asks(record):
    class Sending(Grid):
        """Its messages go through the two methods that Flower's own grid has."""

        def push_messages(self, messages):
            self.sent = list(messages)
            for message in self.sent:
                message.metadata.__dict__["_message_id"] = message.object_id
            return [message.object_id for message in self.sent]

        def pull_messages(self, message_ids):
            return [self.answer(message) for message in self.sent]

        def send_and_receive(self, messages, *, timeout=None):
            return self.pull_messages(self.push_messages(messages))

    grid = Sending()
    phases = federation.Phases(grid)
    start(grid, num_rounds=2, evaluate_fn=lambda n, arrays: MetricRecord({"accuracy": 0.5}))
    assert phases.seen == [
        ("0/2 evaluating", [], []),
        *[(f"{number}/2 {phase}", nodes, []) for number in (1, 2) for phase, nodes in (
            ("choosing nodes", []), ("training", [1, 2]), ("aggregating", []),
            ("choosing nodes", []), ("evaluating", [1, 2]), ("aggregating", []), ("evaluating", []),
        )],
    ]  # fmt: skip
