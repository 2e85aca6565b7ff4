"""Scaling policies: as they are written, rendered, refused and shown."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from oneflower.cli.app import app
from oneflower.cli.scaling_options import limits_of
from oneflower.cloud.autoscaling import Autoscaling
from oneflower.cloud.scaling import Limits, Size
from oneflower.local.oneflow.schema import check_template
from oneflower.opennebula import COORDINATOR, NODES, Policies, ServiceKind, ServiceOptions, lint, service_template
from oneflower.opennebula.autoscale import line_of
from oneflower_appliance.attributes import NUMBERS
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.settings import Bounds

SLOW = "FL_TASK_SECONDS > 60 && FL_BUSY > 50 : +1"
NIGHT = "0 20 * * 1-5 = 8"
IDS = {COORDINATOR: 7, NODES: 8}
BOTH = Policies.read([SLOW], [NIGHT])


def nodes(template):
    return next(role for role in template["roles"] if role["name"] == NODES)


def rendered(policies=BOTH, **options):
    return service_template(
        ServiceOptions(**{"bounds": Bounds(2, 8, 2), "template_ids": IDS, "policies": policies, **options})
    )


def test_a_line_becomes_the_policy_of_oneflow_and_back():
    elastic = {"type": "CHANGE", "adjust": 1, "expression": "FL_TASK_SECONDS > 60 && FL_BUSY > 50",
               "period": 60, "period_number": 2, "cooldown": 60}  # fmt: skip
    scheduled = {"type": "CARDINALITY", "adjust": 8, "recurrence": "0 20 * * 1-5", "cooldown": 60}
    assert BOTH.entries == {"elasticity_policies": [elastic], "scheduled_policies": [scheduled]}
    assert line_of(elastic) == f"{SLOW} period=60 times=2 cooldown=60"
    assert line_of(scheduled) == NIGHT
    for line in ("FL_BUSY < 5 : -2 period=1 times=3 cooldown=0", "FL_CPU > 90 : +50% period=60 times=2 cooldown=60",
                 "!(FL_CPU > 9) : =4 period=60 times=2 cooldown=60"):  # fmt: skip
        assert line_of(Policies.read([line]).elastic[0]) == line


@pytest.mark.parametrize(
    ("when", "schedule", "why"),
    [
        ("FL_BUSY < 5", None, "is not a condition with a change"),
        ("FL_BUSY < 5 : 2", None, "is not a condition with a change"),
        ("FL_BUSY < 5 : -1 pause=3", None, "'pause=3' in .* is not known"),
        ("FL_BUSY < 5 : -1 period=x", None, "'period=x' in .* is not known"),
        ("FL_BUSY <> : -1", None, "OneFlow cannot read the expression"),
        ("FL_BUZY < 5 : -1", None, "No SuperNode publishes FL_BUZY"),
        ("FL_ENDPOINT > 5 : -1", None, "No SuperNode publishes FL_ENDPOINT"),
        ("FL_BUSY < 5 : -0", None, "changes nothing"),
        ("FL_BUSY < 5 : =9", None, "wants 9 SuperNodes, and there may be 2 to 8"),
        (None, "0 20 * * *", "is not a time with a number"),
        (None, "0 20 * * * = 9", "wants 9 SuperNodes, and there may be 2 to 8"),
        (None, "0 20 * * * = 1", "wants 1 SuperNodes, and there may be 2 to 8"),
        (None, "0 99 * * * = 4", "is not a time that OneFlow can read"),
        (None, "0 20 * * * * = 4", "is not a line of cron with five fields"),
    ],
)
def test_a_policy_that_cannot_work_is_refused_with_the_reason(when, schedule, why):
    with pytest.raises(OneflowerError, match=why):
        Policies.read([when] if when else [], [schedule] if schedule else []).check(2, 8)


@pytest.mark.parametrize("kind", [ServiceKind.FEDERATION, ServiceKind.SITE])
@pytest.mark.parametrize("compat", [6, 7])
def test_the_supernodes_get_the_policies_and_nobody_else_and_oneflow_takes_them(kind, compat):
    template = rendered(kind=kind, compat=compat)
    assert {key: nodes(template)[key] for key in BOTH.entries} == BOTH.entries
    assert [nodes(template)[key] for key in ("min_vms", "max_vms")] == [2, 8]
    assert all(not set(BOTH.entries) & set(role) for role in template["roles"] if role["name"] != NODES)
    assert lint(template, compat) == []
    if compat == 7:
        check_template(json.loads(json.dumps(template)))


def test_lint_finds_policies_that_cannot_work():
    template = rendered()
    nodes(template)["elasticity_policies"][0]["expression"] = "FL_LOAD > 5"
    nodes(template)["scheduled_policies"][0]["adjust"] = 20
    nodes(template)["scheduled_policies"].append({"type": "CHANGE", "adjust": 1})
    template["roles"][0]["elasticity_policies"] = [{"type": "CHANGE", "adjust": 1, "expression": "FL_BUSY > 5"}]
    found = lint(template)
    assert [finding.rule for finding in found] == ["superlink-policies", "policies", "policies", "policies"]
    assert "No SuperNode publishes FL_LOAD" in found[1].why
    assert all(name in found[1].fix for name in NUMBERS)
    assert "wants 20 SuperNodes" in found[2].why
    assert "has no time" in found[3].why
    template = rendered(Policies())
    nodes(template).update(min_vms=5, max_vms=3)
    assert "scaling-limits" in [finding.rule for finding in lint(template)]


def test_a_federation_is_not_deployed_with_policies_beside_those_of_its_template():
    template = rendered()
    with pytest.raises(OneflowerError, match="has scaling policies of its own"):
        Size(None, *Limits(2, 8, BOTH)).bounds(template, {})
    assert Size(None, *Limits(3, 6)).bounds(template, {}) == Bounds(3, 6, 3)
    bare = rendered(Policies())
    assert Size(None, *Limits(3, 8, BOTH)).bounds(bare, {}) == Bounds(3, 8, 3)
    with pytest.raises(OneflowerError, match="wants 8 SuperNodes"):
        Size(None, *Limits(3, 6, BOTH)).bounds(bare, {})


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("", [SLOW], None, None, None), "--when and --schedule need limits"),
        (("2", None, None, None, None), "is not MIN:MAX"),
        (("8:2", None, None, None, None), "the fewest are more than the most"),
        (("2:8", None, None, None, 9), "--autoscale gives the limits, too"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, why):
    with pytest.raises(OneflowerError, match=why):
        limits_of(*options)


def test_a_coordinator_has_nothing_to_scale():
    with pytest.raises(OneflowerError, match="A coordinator has no SuperNodes of its own"):
        CliRunner().invoke(
            app, ["render", "--kind", "coordinator", "--autoscale", "2:8"], catch_exceptions=False
        )  # fmt: skip


def test_render_writes_what_the_options_say():
    done = CliRunner().invoke(app, ["render", "--autoscale", "2:8", "--when", SLOW, "--schedule", NIGHT])
    assert done.exit_code == 0, done.output
    assert {key: nodes(json.loads(done.stdout))[key] for key in BOTH.entries} == BOTH.entries


def test_what_oneflow_saw_is_shown():
    policy = BOTH.entries["elasticity_policies"][0]
    role = {"min_vms": 2, "max_vms": "8", "cooldown": 60, "elasticity_policies": [policy], "scheduled_policies": None}
    found = Autoscaling.of(role)
    assert (found.least, found.most, found.cooldown) == (2, 8, 60)
    assert found.policies[0].sentence == "OneFlow has not looked at it yet"
    policy |= {"last_eval": 1_800_000_000, "expression_evaluated": "FL_TASK_SECONDS[70.0] > 60", "true_evals": 1}
    [seen] = Autoscaling.of(role).policies
    assert seen.sentence.endswith(": FL_TASK_SECONDS[70.0] > 60 (held 1 of 2 times)")
    assert Autoscaling.of({"min_vms": 2}) is None
    assert Autoscaling.of({"elasticity_policies": ["x", {"adjust": "\x1b", "last_eval": []}]}) is not None
