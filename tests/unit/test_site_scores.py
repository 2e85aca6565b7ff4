"""How good a model is on the data of each site: the table, the worst site, and what a run records of both."""

from __future__ import annotations

import json
import math

import pytest
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from oneflower.cli.rounds import show_sites
from oneflower.cloud.card import Judged, model_card
from oneflower_appliance.best_round import best_of, metrics_of
from oneflower_appliance.joining import Standing
from oneflower_appliance.node_reports import EVALUATE, TRAIN, NodeReport
from oneflower_appliance.orders import FORM_VARIABLE
from oneflower_appliance.progress import RunProgress
from oneflower_appliance.runs import RunRow
from oneflower_appliance.site_scores import Measured, score_sites, scores_in
from oneflower_appliance.sites import Site, SiteNode, Sites
from tests.unit.test_supervisor import Grid, _array, record, rows  # noqa: F401 - a fixture


def report(node, name, examples, phase=EVALUATE, number=2, fault="", **metrics):
    return NodeReport(number, node, phase, fault, examples=examples, name=name, metrics=metrics)


REPORTS = [
    report("1", "north/0", 10, number=1, accuracy=0.1),
    report("1", "north/0", 30, accuracy=0.9, loss=0.2, auc=0.7),
    report("2", "north/1", 10, accuracy=0.5, loss=0.6),
    report("3", "south/0", 40, accuracy=0.6, loss=0.5),
    report("4", "lab-supernode-0", 20, accuracy=0.7, loss=0.4),
    report("5", "", 0, phase=TRAIN, accuracy=0.0),
    report("6", "west/0", 5, fault="failed", accuracy=0.0),
]


def test_nodes_of_a_site_count_together_by_their_examples_and_others_alone(capsys):
    scores = scores_in(REPORTS)
    assert [line[:3] for line in scores.table] == [
        ["site", "nodes", "examples"], ["north", "2", "40"], ["south", "1", "40"], ["lab-supernode-0", "1", "20"],
        ["all", "4", "100"],
    ]  # fmt: skip
    north = scores.scores[0].metrics
    assert north == {"accuracy": pytest.approx(0.8), "loss": pytest.approx(0.3)}, "auc is not of the whole site"
    assert scores.mean["accuracy"] == pytest.approx(0.7)
    assert [(one.metric, one.site) for one in scores.worst] == [("loss", "south"), ("accuracy", "south")]
    assert scores.worst[1].sentence == ("accuracy 0.7000 on all together; worst on south: 0.6000 (-0.1000)")
    show_sites(scores)
    assert "south" in capsys.readouterr().out
    show_sites(scores_in([one for one in REPORTS if "/" not in one.name]))
    assert capsys.readouterr().out == "", "the nodes of one service are no sites"
    show_sites(scores_in([report("1", "supernode_0", 9, accuracy=0.5, fine_tuned_accuracy=0.75)]))
    assert "0.5000    0.7500" in capsys.readouterr().out, "before and after"
    assert scores_in(REPORTS, 1).mean == {"accuracy": 0.1}


def test_the_card_has_the_table_the_worst_site_and_the_layers_that_are_not_in_the_model():
    row = RunRow.parse(json.dumps({"round": 2, "rounds": 2, "seconds": 1, "nodes": 4, "failures": 0}))
    layers = {"kind": "fedbn", "arrays": {"1.weight": [16]}, "parameters": 16, "all": 100}
    card = model_card("app", "17", [row], {"personal": layers}, {}, None, Judged(across=scores_in(REPORTS)))
    assert "## On the data of each site\n\nThe model of round 2, as each site tested it." in card
    assert "| north | 2 | 40 | 0.8000 | 0.3000 |" in card
    assert "- accuracy 0.7000 on all together; worst on south: 0.6000 (-0.1000)" in card
    assert "Each node has its own (fedbn): 16 of 100 parameters. They are not in this model." in card
    assert "| `1.weight` | 16 |" in card


def test_without_examples_all_count_the_same_and_what_is_not_finite_is_worst():
    scores = score_sites([Measured("a", "1", None, {"loss": 1.0}), Measured("b", "2", 9, {"loss": 3.0})])
    assert scores.mean == {"loss": 2.0}
    bad = score_sites([Measured("a", "1", 1, {"accuracy": math.nan}), Measured("b", "2", 1, {"accuracy": 0.0})])
    assert [one.site for one in bad.worst] == ["a"]
    assert score_sites([]).scores == scores_in([]).scores == ()


class Uneven(Grid):
    """Four nodes; node N evaluates with accuracy N / 10, and the strategy asks two of them."""

    def __init__(self):
        super().__init__()
        self.evaluated = []

    def get_node_ids(self):
        return [1, 2, 3, 4]

    def answer(self, message):
        if message.metadata.message_type != "evaluate":
            return super().answer(message)
        node = message.metadata.dst_node_id
        number = message.content.config_records["config"]["server-round"]
        self.evaluated.append((number, node))
        worse = 0.01 * number if node == 1 else 0.0
        metrics = MetricRecord({"accuracy": node / 10 - worse, "num-examples": 1})
        reply = Message(RecordDict({"metrics": metrics}), reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = node
        return reply


def join(home, **nodes):
    """Let Flower's nodes be nodes of sites."""
    home.mkdir(exist_ok=True)
    of = {
        name: Site(name, index, 4, "", "", 0.0, nodes=tuple(
            SiteNode(k, f"{name}{k}", "", Standing.APPROVED, node=str(node)) for k, node in enumerate(ids)))
        for index, (name, ids) in enumerate(nodes.items(), 1)
    }  # fmt: skip
    Sites(of).save(home)


@pytest.mark.parametrize(("when", "asked"), [("end", {1: 2, 2: 4}), ("round", {1: 4, 2: 4}), ("no", {1: 2, 2: 2})])
def test_nodes_that_the_strategy_left_out_evaluate_too_and_nobody_twice(record, monkeypatch, when, asked):  # noqa: F811
    monkeypatch.setenv(FORM_VARIABLE, json.dumps({"FL_SITE_EVALUATION": when}))
    join(record.parents[1], north=[1, 2], south=[3])
    grid = Uneven()
    strategy = FedAvg(fraction_evaluate=0.5, min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
    strategy.start(grid, _record(), num_rounds=2)
    assert len(set(grid.evaluated)) == len(grid.evaluated)
    assert {number: [n for n, _ in grid.evaluated].count(number) for number in asked} == asked
    found = rows(record)
    assert [row["evaluated"] for row in found] == [2, 2], "what the strategy aggregates is as before"
    if when == "round":
        assert [row["across"]["worst_site_accuracy"] for row in found] == pytest.approx([0.145, 0.14])
        parsed = [RunRow.parse(json.dumps(row)) for row in found]
        assert "worst_site_accuracy" in metrics_of(parsed)
        assert best_of(parsed, "worst_site_accuracy").round == 1
        told = RunProgress("17", "app", "running").after(parsed)
        [worst] = RunProgress.read(told.published, {}).worst
        assert (worst.site, worst.metric) == ("north", "accuracy")


def test_an_app_whose_nodes_do_not_evaluate_is_asked_once_and_has_no_faults(record, monkeypatch):  # noqa: F811
    grid = Uneven()
    monkeypatch.setattr(grid, "answer", lambda message: _failing(grid, message))
    FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1).start(grid, _record(), num_rounds=2)
    assert [row["faults"] for row in rows(record)] == [[], []]
    assert "across" not in rows(record)[-1]


def _failing(grid, message):
    from flwr.app import Error

    if message.metadata.message_type == "evaluate":
        return Message(Error(code=1, reason="no evaluate function"), reply_to=message)
    return Grid.answer(grid, message)


def _record():
    from flwr.app import ArrayRecord

    return ArrayRecord({"weights": _array()})
