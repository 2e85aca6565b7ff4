"""Which nodes are noticeable, by the rules of docs/see-it.md, and which are not."""

from __future__ import annotations

import pytest

from oneflower_appliance.node_findings import Finding, find
from oneflower_appliance.node_reports import NodeReport


def reports(rounds, nodes=5, **special):
    """Return reports of nodes that are alike, but for `special`, which gives a node's values in a round."""
    found = []
    for number in range(1, rounds + 1):
        for node in range(nodes):
            own = special.get(f"node{node}", lambda _: {})(number)
            metrics = {"loss": 0.5 / number + node / 1000, "accuracy": 0.9 - node / 1000} | own.get("metrics", {})
            fault = {"fault": own["fault"], "reason": "why"} if "fault" in own else {}
            known = {} if fault else {"seconds": own.get("seconds", 2.0 + node / 10)}
            found.append(NodeReport(number, str(node), "train", **known, **fault))
            found.append(NodeReport(number, str(node), "evaluate", metrics={} if fault else metrics, **fault))
    return found


def kinds(found):
    return [(one.node, one.kind) for one in found]


@pytest.mark.parametrize(("rounds", "nodes"), [(0, 0), (1, 5), (3, 5), (12, 5), (12, 1), (3, 2)])
def test_nodes_that_are_alike_are_not_noticeable(rounds, nodes):
    assert find(reports(rounds, nodes)) == []


def test_a_slow_node_is_named_also_when_there_are_two():
    slow = {"node1": lambda number: {"seconds": 9.0 if number > 1 else 2.0}}
    [found] = find(reports(3, nodes=2, **slow))
    assert found.sentence == "node 1 is slow: 9.0 s for training, the median of the others is 2.0 s"
    assert kinds(find(reports(12, **slow))) == [("1", "slow")]


def test_a_node_is_not_slow_by_a_moment_or_once():
    assert find([*reports(3, node1=lambda _: {"seconds": 2.9})]) == []
    assert find([*reports(5, node1=lambda number: {"seconds": 60.0 if number == 4 else 2.0})]) == []
    quick = [report for report in reports(3) if report.phase == "evaluate"]
    quick += [
        NodeReport(number, str(node), "train", seconds=0.9 if node else 0.2) for number in (1, 2) for node in (0, 1)
    ]
    assert find(quick) == [], "less than a second longer"


def test_a_node_that_fails_more_often_than_not_is_named():
    [found] = find(reports(4, node3=lambda number: {"fault": "no answer"} if number > 1 else {}))
    assert found.sentence == "node 3 did not do its part 6 of 8 times in the last 4 rounds; last: no answer, why"
    assert find(reports(4, node3=lambda number: {"fault": "failed"} if number > 2 else {})) == [], "as often as not"


@pytest.mark.parametrize(
    ("metrics", "column", "number"), [({"loss": 3.0}, "loss", "3"), ({"accuracy": 0.6}, "accuracy", "0.6"),
                                      ({"loss": float("nan")}, "loss", "inf")],
)  # fmt: skip
def test_a_node_with_worse_metrics_is_named_once(metrics, column, number):
    [found] = find(reports(3, node2=lambda _: {"metrics": metrics}))
    assert (found.node, found.kind) == ("2", "worse")
    assert f"has a worse {column}: {number}, the median of the nodes is" in found.text
    assert found.text.endswith("in 3 of the last 3 rounds")
    assert find(reports(3, nodes=3, node2=lambda _: {"metrics": metrics})) == [], "three nodes have no usual spread"


def test_a_node_with_better_metrics_is_not_named():
    assert find(reports(3, node2=lambda _: {"metrics": {"loss": 0.001, "accuracy": 0.999}})) == []


def test_a_node_drifts_when_it_alone_becomes_worse():
    def getting_worse(number):
        return {"metrics": {"accuracy": 0.9 if number < 8 else 0.75}}

    found = find(reports(12, nodes=3, node0=getting_worse))
    assert [one.sentence for one in found] == [
        "node 0 drifts: its accuracy became worse, 0.9 before, 0.75 in the last 5 rounds"
    ]
    assert find(reports(9, nodes=3, node0=getting_worse)) == [], "too few rounds"
    together = {f"node{node}": getting_worse for node in range(3)}
    assert find(reports(12, nodes=3, **together)) == [], "all became worse"


def test_only_the_last_rounds_count():
    assert find(reports(20, node1=lambda number: {"seconds": 60.0 if number < 15 else 2.0})) == []


def test_a_finding_is_read_as_it_was_written_with_the_name_of_the_machine():
    found = Finding("7", "slow", "is slow")
    assert Finding.parse(found.entry, {"7": "supernode_1"}).sentence == "supernode_1 is slow"
    with pytest.raises(ValueError, match="not a kind"):
        Finding.parse(found.entry | {"kind": "lazy"}, {})
