"""The plot of a run: what is drawn, and axes on which a small step looks small."""

from __future__ import annotations

import json
import math
from xml.etree import ElementTree

import pytest

from oneflower.cloud.axis import limits
from oneflower.cloud.plot import draw, plot_convergence
from oneflower_appliance.node_reports import NodeReport
from oneflower_appliance.runs import RunRow


def row(number, rounds=3, train=None, **tested):
    found = {"round": number, "rounds": rounds, "seconds": 1.0, "nodes": 2, "failures": 0, "server": tested}
    return RunRow.parse(json.dumps(found | ({"train": train} if train else {})))


def report(number, node, phase="evaluate", **metrics):
    return NodeReport(number, node, phase, metrics=metrics)


DIGITS = [row(1, loss=0.2026, accuracy=0.9556), row(2, loss=0.1576, accuracy=0.9556), row(3, loss=0.1384, accuracy=0.9611)]  # fmt: skip


def lines(axes):
    return [[tuple(point) for point in line.get_xydata()] for line in axes.get_lines()]


def drawn(rows, reports=()):
    """Draw a run, and return its panels by their labels."""
    figure = draw(rows, "digits", reports)
    return {axes.get_ylabel(): axes for axes in figure.axes}


def test_a_small_step_looks_small():
    panels = drawn(DIGITS)
    assert list(panels) == ["loss", "accuracy"]
    low, high = panels["accuracy"].get_ylim()
    assert (low, high) == pytest.approx((0.8, 1.01))
    assert (0.9611 - 0.9556) / (high - low) < 0.03, "of the height"
    assert panels["loss"].get_ylim() == pytest.approx((0, 0.2026 * 1.05)), "from 0 on, so that heights compare"
    assert lines(panels["accuracy"]) == [[(1, 0.9556), (2, 0.9556), (3, 0.9611)]]
    assert [text.get_text() for text in panels["accuracy"].texts] == ["0.9611"], "its last value can be read"


@pytest.mark.parametrize(
    ("name", "values", "of_nodes", "expected"),
    [
        ("accuracy", [0.1, 0.97], [], (0.1, 0.97 + 0.05 * 0.87)),
        ("accuracy", [0.95, 0.96], [0.42], (0.4, 0.96 + 0.05 * 0.56)),
        ("accuracy", [0.0], [], (0.0, 0.21)),
        ("accuracy", [1.0], [], (0.8, 1.01)),
        ("accuracy", [95.0, 96.0], [], (95.5 - 19.2 * 0.55, 95.5 + 19.2 * 0.55)),  # in per cent
        ("loss", [2.0, 0.5], [2.5], (0.0, 2.5 * 1.05)),
        ("loss", [2.0, 0.5], [1e9], (0.0, 6.0 * 1.05)),  # one node must not flatten the others
        ("loss", [0.0], [], (0.0, 1.05)),
        ("loss", [-1.0, 3.0], [], (-1.2, 3.2)),
    ],
)
def test_the_limits_of_an_axis(name, values, of_nodes, expected):
    assert limits(name, values, of_nodes) == pytest.approx(expected)


@pytest.mark.parametrize("rounds", [1, 2, 500])
def test_every_round_has_its_place(rounds):
    panel = drawn([row(number, rounds, loss=1 / number) for number in range(1, rounds + 1)])["loss"]
    assert panel.get_xlim() == (0.5, rounds + 0.5)
    ticks = [tick for tick in panel.get_xticks() if 0.5 <= tick <= rounds + 0.5]
    assert ticks
    assert all(tick == int(tick) for tick in ticks)
    [line] = panel.get_lines()
    assert (line.get_marker() == "o") == (rounds <= 50), "one point alone is seen, and 500 are a line"


def test_the_curves_of_nodes_are_faint_and_behind_and_come_from_the_evaluation():
    reports = [report(n, node, loss=0.3, accuracy=0.9 + n / 100) for n in (1, 2, 3) for node in ("7", "8")]
    reports += [report(1, "7", "train", accuracy=0.1), NodeReport(2, "9", "evaluate", "failed")]
    panel = drawn(DIGITS, reports)["accuracy"]
    first, second, model = panel.get_lines()
    for line in (first, second):
        assert [tuple(point) for point in line.get_xydata()] == [(1, 0.91), (2, 0.92), (3, 0.93)]
        assert line.get_alpha() < 0.5
        assert line.get_zorder() < model.get_zorder()
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["each node", "the model"]


def test_a_model_that_nobody_tested_has_its_loss_in_training():
    reports = [report(1, "7", "train", train_loss=0.6), report(1, "7", accuracy=0.5)]
    panels = drawn([row(1, train={"train_loss": 0.5})], reports)
    assert list(panels) == ["loss in training"]
    assert lines(panels["loss in training"]) == [[(1, 0.6)], [(1, 0.5)]]


def test_a_loss_that_is_not_finite_leaves_a_gap():
    rows = [row(1, loss=0.5), row(2, loss=math.nan), row(3, loss=math.inf)]
    panel = drawn(rows)["loss"]
    assert [value for _, value in lines(panel)[0]] == pytest.approx([0.5, math.nan, math.nan], nan_ok=True)
    assert panel.get_ylim() == pytest.approx((0, 0.525))
    assert [text.get_text() for text in drawn(rows[1:])["loss"].texts] == ["no values"]
    assert [text.get_text() for text in drawn([row(1)])["loss"].texts] == ["no values"]


def test_text_of_others_is_only_text_in_an_svg(tmp_path):
    title = "$x <script>alert(1)</script>"
    plot_convergence(DIGITS, title, [tmp_path / "plot.svg"], [report(1, "7", accuracy=0.9)])
    drawing = ElementTree.parse(tmp_path / "plot.svg")
    texts = [found.text for found in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert {title, "loss", "accuracy", "round", "0.9611"} <= set(texts)
    assert not list(drawing.iter("{http://www.w3.org/2000/svg}script"))
