"""Expressions of elasticity policies, and what policies ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneflower.local.oned.models import Vm
from oneflower.local.oneflow import policies
from oneflower.opennebula import expressions
from oneflower.opennebula.states import LcmState, VmState


def vm(**attributes):
    return Vm(1, "vm", {}, attributes, 0, state=VmState.ACTIVE, lcm_state=LcmState.RUNNING)


def holds(text, **values):
    return expressions.parse(text).value(values.get)


@pytest.mark.parametrize(
    ("text", "result", "shown"),
    [
        ("LOAD > 80", True, "LOAD[95.0] > 80"),
        ("load>80", True, "LOAD[95.0] > 80"),
        ("LOAD < 80.5", False, "LOAD[95.0] < 80.5"),
        ("-1 <= 0", True, "-1 <= 0"),
        ("NOTHING > 0", False, "NOTHING[--] > 0"),
        ('"LOAD" > 0', False, '"LOAD"[--] > 0'),
        ("!LOAD > 99", True, "!LOAD[95.0] > 99"),
        ("(LOAD > 99)", False, "(LOAD[95.0] > 99)"),
        ("1 = 2 && 1 = 1 || 1 = 1", False, "1 = 2 && 1 = 1 || 1 = 1"),
        ("1 <> 2 | LOAD != 3", True, "1 <> 2 | LOAD[95.0] != 3"),
    ],
)
def test_an_expression_is_read_as_oneflow_reads_it(text, result, shown):
    assert holds(text, LOAD=95.0) == (result, shown)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("FL_LOAD >", "Expected one of ' ', '-', [0-9], '\"', '\\'', [a-zA-Z] at line 1, column 10 (byte 10) after FL_LOAD >"),
        ("", "Expected one of ' ', '-', [0-9]"),
        ("LOAD", "at line 1, column 5"),
        ("a > 1 b", "column 7"),
        ("(a > 1", "column 7"),
        ("a\t> 1", "column 2"),
    ],
)  # fmt: skip
def test_what_is_no_expression_is_said_in_its_words(text, why):
    with pytest.raises(expressions.ParseError) as caught:
        expressions.parse(text)
    assert why in str(caught.value)


@given(st.text(alphabet="aB1._-!()&|<>=\"' \t", max_size=25))
def test_any_text_is_an_expression_or_is_refused(text):
    try:
        found = expressions.parse(text)
    except expressions.ParseError as error:
        assert str(error).startswith("Expected")
    else:
        assert isinstance(found.value(lambda _: None)[0], bool)


def test_the_mean_is_over_the_running_vms_that_have_the_attribute():
    down = Vm(2, "vm", {}, {"LOAD": "1000"}, 0, state=VmState.POWEROFF)
    assert policies.mean("LOAD", [vm(LOAD="90"), vm(LOAD="95.126"), vm(), down]) == 92.56
    assert policies.mean("LOAD", [vm(LOAD="high"), vm(LOAD="10")]) == 5.0
    assert policies.mean("LOAD", [vm(), down]) is None


@pytest.mark.parametrize(
    ("policy", "have", "change"),
    [
        ({"type": "CHANGE", "adjust": 1}, 3, 1),
        ({"type": "CHANGE", "adjust": 9}, 3, 3),
        ({"type": "CHANGE", "adjust": -9}, 3, -1),
        ({"type": "CARDINALITY", "adjust": 5}, 3, 2),
        ({"type": "PERCENTAGE_CHANGE", "adjust": 50}, 3, 1),
        ({"type": "PERCENTAGE_CHANGE", "adjust": 1, "min_adjust_step": 2}, 3, 2),
        ({"type": "PERCENTAGE_CHANGE", "adjust": -1}, 3, -1),
    ],
)
def test_what_a_policy_asks_for_stays_within_the_bounds(policy, have, change):
    role = {"cardinality": have, "min_vms": 2, "max_vms": 6, "elasticity_policies": [policy | {"expression": "L > 1"}]}
    assert policies.wanted(role, [vm(L="2")], 1000.0)[0] == change


def test_a_policy_waits_for_its_period_and_its_number():
    policy = {"type": "CHANGE", "adjust": 1, "expression": "L > 1", "period": 60, "period_number": 2, "cooldown": 7}
    role = {"cardinality": 1, "min_vms": 1, "max_vms": 3, "elasticity_policies": [policy]}
    asked = [policies.wanted(role, [vm(L="2")], now) for now in (1000.0, 1030.0, 1060.0)]
    assert asked == [(0, None), (0, None), (1, 7)]
    assert policies.wanted(role, [vm(L="0")], 2000.0) == (0, None)
    assert policy["true_evals"] == 0


def test_times_and_recurrences():
    assert policies.parse_time("1700000000") == 1_700_000_000
    assert policies.parse_time("2026-11-23 10:00:00") is not None
    assert policies.parse_time("tomorrow-ish") is None
    assert policies.valid_recurrence("*/5 * * * *")
    assert not policies.valid_recurrence("every day")
    role = {"cardinality": 1, "min_vms": 1, "max_vms": 5}
    role["scheduled_policies"] = [{"type": "CARDINALITY", "adjust": 4, "recurrence": "*/5 * * * *"}]
    assert policies.wanted(role, [], 1_700_000_000.0) == (0, None), "the first look only takes the time"
    assert policies.wanted(role, [], 1_700_000_400.0)[0] == 3
    assert policies.wanted(role, [], 1_700_000_410.0)[0] == 0


def test_a_role_below_min_vms_is_brought_back_without_a_pause():
    assert policies.wanted({"cardinality": 1, "min_vms": 3}, [], 1000.0) == (2, 0)
