"""The three kinds of service templates: each has what its machines need, asks for nothing else, and is linted as such."""

from __future__ import annotations

import copy
import json

import pytest

from oneflower.local.oneflow.schema import check_template
from oneflower.opennebula import (
    COORDINATOR,
    NODES,
    Rendering,
    ServiceKind,
    ServiceOptions,
    defaults_of,
    lint,
    merge_template,
    service_template,
    variables_of,
)
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.parameter import Level
from oneflower_appliance.parameters import PARAMETERS
from oneflower_appliance.settings import Bounds, InvalidParametersError, resolve

IDS = {COORDINATOR: 7, NODES: 8}
PARTS = {ServiceKind.COORDINATOR: (COORDINATOR, Level.SUPERLINK), ServiceKind.SITE: (NODES, Level.SUPERNODE)}


def template(kind, compat=7, rendering=Rendering.LEVELS):
    return service_template(ServiceOptions(kind=kind, compat=compat, rendering=rendering, template_ids=IDS))


@pytest.mark.parametrize("kind", ServiceKind)
def test_each_kind_is_rendered_without_a_trap_and_known_by_its_roles(kind):
    for compat, rendering in ((7, Rendering.LEVELS), (6, Rendering.LEVELS), (7, Rendering.FORM)):
        made = json.loads(json.dumps(template(kind, compat, rendering)))
        assert lint(made, compat, kind) == []
        assert ServiceKind.of(made) is kind
        assert [role["name"] for role in made["roles"]] == list(kind.roles)
        if compat == 7:
            check_template(made)


@pytest.mark.parametrize("kind", PARTS)
def test_half_a_federation_asks_for_the_variables_of_its_own_role(kind):
    role, level = PARTS[kind]
    [own] = template(kind)["roles"]
    asked = {PARAMETERS[name].level for name in own["user_inputs"]} - {PARAMETERS[name].level for name in kind.also}
    assert asked == {level}
    assert own["user_inputs_values"] == {name: PARAMETERS[name].default for name in own["user_inputs"]}
    assert "parents" not in own
    settings = resolve(defaults_of(template(kind)), kind.levels, kind.bounds(), kind.also)
    merge = merge_template(template(kind), "x", settings, kind.bounds())
    assert [entry["name"] for entry in merge["roles"]] == [role]
    assert ("cardinality" in merge["roles"][0]) is (kind is ServiceKind.SITE)


def test_a_coordinator_is_asked_for_the_framework_and_a_site_for_its_superlink_but_not_for_what_to_train():
    [link], [nodes] = (template(kind)["roles"] for kind in PARTS)
    assert "ML_FRAMEWORK" in link["user_inputs"]
    assert "FL_USE_CASE" not in {**link["user_inputs"], **nodes["user_inputs"]}
    assert [nodes[key] for key in ("cardinality", "min_vms", "max_vms")] == [1, 1, 10]
    asked = {kind: [p.name for _, p in kind.form_fields()] for kind in ServiceKind}
    assert asked[ServiceKind.SITE][:3] == ["FL_INVITATION", "FL_SUPERLINK_ADDRESS", "FL_SSL_CA_CERTFILE"]
    for kind in (ServiceKind.FEDERATION, ServiceKind.COORDINATOR):
        assert not [p for _, p in kind.form_fields() if p.secret]
    assert not {"FL_NUM_ROUNDS", "FL_USE_CASE"} & set(asked[ServiceKind.SITE])
    assert not {"FL_SUPERLINK_ADDRESS", "FL_DATA_PATH"} & set(asked[ServiceKind.COORDINATOR])
    assert "FL_SUPERLINK_ADDRESS" not in asked[ServiceKind.FEDERATION]


def test_what_a_form_was_given_is_read_under_the_names_of_the_variables_of_its_kind():
    service = template(ServiceKind.SITE, rendering=Rendering.FORM)
    service["user_inputs_values"] = {"ONEAPP_FLOWER_JOIN_ADDRESS": "10.0.0.5:9092"}
    found = variables_of(service)
    assert found["FL_SUPERLINK_ADDRESS"] == "10.0.0.5:9092"
    assert "FL_NUM_ROUNDS" not in found


def test_a_coordinator_has_no_supernodes_to_count_and_a_site_at_least_one():
    with pytest.raises(OneflowerError, match="has no SuperNodes of its own"):
        ServiceKind.COORDINATOR.bounds(supernodes=3)
    with pytest.raises(InvalidParametersError, match="min_vms"):
        service_template(ServiceOptions(kind=ServiceKind.SITE, bounds=Bounds(0, 5, 0)))


TRAPS = {
    "the other role, misspelled": ("structure", ServiceKind.COORDINATOR, lambda t: t["roles"].append(
        {"name": "super_node", "type": "vm", "template_id": 1})),
    "a superlink that is scaled": ("superlink-not-singleton", ServiceKind.COORDINATOR,
                                   lambda t: t["roles"][0].update(max_vms=2)),
    "a site that waits for a role that is not there": ("parents", ServiceKind.SITE,
                                                       lambda t: t["roles"][0].update(parents=[COORDINATOR])),
    "a site that is asked for rounds": ("wrong-level", ServiceKind.SITE,
                                        lambda t: t["roles"][0]["user_inputs"].update(FL_NUM_ROUNDS="O|number|R||3")),
    "no role": ("structure", ServiceKind.SITE, lambda t: t.update(roles=[])),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAPS)
def test_the_traps_of_half_a_federation(name):
    rule, kind, change = TRAPS[name]
    broken = copy.deepcopy(template(kind))
    change(broken)
    assert rule in {finding.rule for finding in lint(broken)}


def test_a_site_may_have_the_address_of_its_superlink_fixed_and_another_kind_is_named_if_it_was_asked_for():
    site = template(ServiceKind.SITE)
    site["roles"][0]["template_contents"]["CONTEXT"]["FL_SUPERLINK_ADDRESS"] = "10.0.0.5:9092"
    assert lint(site) == []
    [finding] = lint(site, kind=ServiceKind.COORDINATOR)
    assert str(finding) == "service: It is a site, not a coordinator. A coordinator has just superlink. [kind]"


def test_a_secret_is_asked_for_on_service_level_only_where_every_machine_needs_it():
    invitation, key = PARAMETERS["FL_INVITATION"], PARAMETERS["FL_SSL_KEYFILE"]
    assert ServiceKind.SITE.may_ask(invitation)
    assert not ServiceKind.FEDERATION.may_ask(invitation)
    assert not ServiceKind.FEDERATION.may_ask(key)
    body = template(ServiceKind.FEDERATION, rendering=Rendering.FORM)
    body["user_inputs"]["ONEAPP_FLOWER_JOIN_INVITATION"] = "O|text|Invitation||"
    body["roles"][1]["template_contents"]["CONTEXT"]["FL_INVITATION"] = "$ONEAPP_FLOWER_JOIN_INVITATION"
    assert "secret-on-service" in {finding.rule for finding in lint(body)}
    values = dict(resolve({})) | {"FL_INVITATION": "oneflower-invitation-1.e30"}
    with pytest.raises(OneflowerError, match="FL_INVITATION on service level"):
        merge_template(body, "x", values, Bounds())
    site = template(ServiceKind.SITE, rendering=Rendering.FORM)
    merge = merge_template(site, "x", values, Bounds(1, 4, 1))
    assert merge["user_inputs_values"]["ONEAPP_FLOWER_JOIN_INVITATION"] == "oneflower-invitation-1.e30"
