from __future__ import annotations

import copy
import json

import pytest

from oneflower.local.oned.vmtext import parse_template
from oneflower.local.oneflow.schema import check_template
from oneflower.opennebula import (
    COORDINATOR,
    NODES,
    Rendering,
    ServiceOptions,
    VmOptions,
    gpu_of,
    lint,
    lint_vm_template,
    placeholders,
    render,
    service_template,
    vm_template,
)
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.parameter import Level
from oneflower_appliance.parameters import PARAMETERS, form_fields
from oneflower_appliance.settings import Bounds, InvalidParametersError, resolve

SEVEN = service_template(ServiceOptions(template_ids={COORDINATOR: 7, NODES: 8}))
FORM = service_template(ServiceOptions(template_ids={COORDINATOR: 7, NODES: 8}, rendering=Rendering.FORM))
SIX = service_template(ServiceOptions(compat=6, template_ids={COORDINATOR: 7, NODES: 8}))


def role(template, name):
    return next(entry for entry in template["roles"] if entry["name"] == name)


def test_the_template_is_what_the_contract_says():
    assert (SEVEN["deployment"], SEVEN["ready_status_gate"], SEVEN["shutdown_action"]) == ("straight", True, "shutdown")
    link, nodes = role(SEVEN, COORDINATOR), role(SEVEN, NODES)
    assert [link[key] for key in ("cardinality", "min_vms", "max_vms")] == [1, 1, 1]
    assert [nodes[key] for key in ("cardinality", "min_vms", "max_vms")] == [2, 2, 10]
    assert "parents" not in link
    assert nodes["parents"] == [COORDINATOR]
    for entry in (link, nodes):
        assert entry["type"] == "vm"
        assert entry["template_contents"]["CONTEXT"]["TOKEN"] == "YES"
        assert not {"elasticity_policies", "scheduled_policies"} & set(entry)


def test_each_variable_is_asked_for_on_its_own_level_only():
    for template, key in ((SEVEN, "user_inputs"), (SIX, "custom_attrs")):
        asked = {
            Level.SERVICE: template[key],
            Level.SUPERLINK: role(template, COORDINATOR)[key],
            Level.SUPERNODE: role(template, NODES)[key],
        }
        for level, inputs in asked.items():
            mine = {p.name for p in PARAMETERS.values() if p.level is level and (template is SIX or not p.secret)}
            assert set(inputs) == mine


def test_the_names_of_opennebula_6():
    text = json.dumps(SIX)
    for name in ("user_inputs", '"template_id', '"template_contents', '"type"'):
        assert name not in text
    contents = role(SIX, NODES)["vm_template_contents"]
    context = parse_template(contents)["CONTEXT"]
    assert context["FL_NODE_CONFIG"] == "$FL_NODE_CONFIG"
    assert context["FL_TLS_ENABLED"] == "$FL_TLS_ENABLED"
    assert context["TOKEN"] == "YES"
    assert "FL_NUM_ROUNDS" not in context


@pytest.mark.parametrize(("template", "release"), [(SEVEN, 7), (FORM, 7), (SIX, 6)])
def test_our_own_templates_have_no_trap_and_survive_json(template, release):
    assert lint(json.loads(json.dumps(template)), release) == []
    assert placeholders(template) == []


def test_oneflow_accepts_it_once_the_ids_are_in_and_not_before():
    assert check_template(SEVEN)["name"] == "oneflower"
    assert check_template(FORM)["user_inputs_metadata"] == FORM["user_inputs_metadata"]
    unfinished = service_template(ServiceOptions())
    assert placeholders(unfinished) == [COORDINATOR, NODES]
    with pytest.raises(Exception, match="template_id"):
        check_template(unfinished)


def test_the_form_asks_on_service_level_and_maps_into_just_the_roles_that_need_it():
    asked = {field.input: parameter for field, parameter in form_fields()}
    assert list(FORM["user_inputs"]) == list(asked), "Sunstone keeps this order"
    for entry, level in ((link(FORM), Level.SUPERLINK), (nodes(FORM), Level.SUPERNODE)):
        assert not {"user_inputs", "user_inputs_values"} & set(entry)
        mapped = {name: value for name, value in entry["template_contents"]["CONTEXT"].items() if name in PARAMETERS}
        wanted = {p.name: f"${name}" for name, p in asked.items() if p.level in (Level.SERVICE, level)}
        assert mapped == wanted
    [app, *groups] = FORM["user_inputs_metadata"]
    assert (app["type"], app["name"]) == ("APP", "FLOWER")
    assert [group["name"] for group in groups] == list(dict.fromkeys(name.split("_")[2] for name in asked))
    assert all(group["title"] and group["description"] for group in groups)


def test_the_form_is_not_for_opennebula_6():
    with pytest.raises(OneflowerError, match="The form is for OpenNebula 7"):
        service_template(ServiceOptions(rendering=Rendering.FORM, compat=6))


def test_the_defaults_of_the_roles_are_stored_for_sunstone():
    for entry in SEVEN["roles"]:
        assert entry["user_inputs_values"] == {name: PARAMETERS[name].default for name in entry["user_inputs"]}
        resolve(entry["user_inputs_values"], [PARAMETERS[name].level for name in entry["user_inputs"]])


def test_a_vm_template_that_asks_for_inputs_is_named():
    assert lint_vm_template(vm_template(NODES)) == []
    [finding] = lint_vm_template(vm_template(NODES) | {"USER_INPUTS": {"FL_SITE": "O|text|Site||"}})
    assert (finding.rule, finding.where) == ("vm-template-inputs", "USER_INPUTS")


@pytest.mark.parametrize("bounds", [Bounds(2, 10, 1), Bounds(5, 4, 5), Bounds(1, 10, 2)])
def test_impossible_bounds_are_not_rendered(bounds):
    with pytest.raises(InvalidParametersError):
        service_template(ServiceOptions(bounds=bounds))


def test_vm_templates_are_valid_opennebula_text():
    options = VmOptions(0.5, 512, "3", "7", "10DE:2331:0302")
    template = parse_template(render(vm_template(NODES, options)))
    assert template == vm_template(NODES, options)
    assert template["CPU_MODEL"] == {"MODEL": "host-passthrough"}
    assert template["CONTEXT"]["ONEFLOWER_ROLE"] == NODES
    assert (template["CPU"], template["VCPU"], template["MEMORY"]) == ("0.5", "1", "512")
    assert template["PCI"] == {"VENDOR": "10de", "DEVICE": "2331", "CLASS": "0302"}
    assert (template["NIC"], template["DISK"]["IMAGE_ID"]) == ({"NETWORK_ID": "3"}, "7")
    assert vm_template(NODES, VmOptions(gpu="41:00.0"))["PCI"] == {"SHORT_ADDRESS": "41:00.0"}
    assert not {"NIC", "DISK", "PCI"} & set(vm_template(COORDINATOR))


@pytest.mark.parametrize(
    "device", ["10de:2331:0302", "10de:2331", "41:00.0", "10de:2236:0302/588", "41:00.4/nvidia-588"]
)
def test_a_gpu_is_read_as_it_was_written(device):
    template = parse_template(render(vm_template(NODES, VmOptions(gpu=device))))
    assert gpu_of(template["PCI"]) == device
    assert lint_vm_template(template) == []


@pytest.mark.parametrize(
    "device", ["nvidia", "10de", "10de:23", "0x10de:0x2331", "41:00", "41:00.0,10de:2331", "/588", "10de:2331/a"]
)
def test_what_is_no_gpu_is_refused(device):
    with pytest.raises(OneflowerError, match="is not a valid (PCI device|profile of a vGPU)"):
        vm_template(NODES, VmOptions(gpu=device))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('PCI=[VENDOR="10de",DEVICE="2331",SHORT_ADDRESS="41:00.0"]', "OpenNebula ignores SHORT_ADDRESS"),
        ('PCI=[PROFILE="588"]', "names no device"),
        ('PCI=[VENDOR="nvidia"]', "'nvidia' is not hexadecimal"),
        ('PCI=[SHORT_ADDRESS="0000:41:00.0"]', "is not like 41:00.0"),
        ('PCI=[VENDOR="10de",PROFILE="A10-4Q"]', "'A10-4Q' is not the number of a profile"),
        ('PCI=[VENDOR="10de"]\nPCI=[CLASS="x"]', "'x' is not hexadecimal"),
        ('PCI=[VENDOR="10de"]\nCONTEXT=[ONEFLOWER_ROLE="superlink"]', "A superlink trains nothing"),
    ],
)
def test_the_traps_of_a_gpu_in_a_vm_template(text, why):
    [finding] = lint_vm_template(parse_template(text))
    assert (finding.rule, why in str(finding), bool(finding.fix)) == ("pci", True, True)


def broken(change):
    template = copy.deepcopy(SEVEN)
    change(template)
    return template


def broken6(change):
    template = copy.deepcopy(SIX)
    change(template)
    return template


def broken_form(change):
    template = copy.deepcopy(FORM)
    change(template)
    return template


def link(template):
    return role(template, COORDINATOR)


def nodes(template):
    return role(template, NODES)


TRAPS = {
    "gate off": ("gate-off", broken(lambda t: t.pop("ready_status_gate"))),
    "gate as a text": ("gate-off", broken(lambda t: t.update(ready_status_gate="YES"))),
    "superlink may be scaled": ("superlink-not-singleton", broken(lambda t: link(t).update(max_vms=3))),
    "superlink without bounds": ("superlink-not-singleton", broken(lambda t: link(t).pop("max_vms"))),
    "policies on the superlink": (
        "superlink-policies",
        broken(lambda t: link(t).update(elasticity_policies=[{"type": "CHANGE", "adjust": 1}])),
    ),
    "key on two levels": (
        "key-on-two-levels",
        broken(lambda t: nodes(t)["user_inputs"].update(FL_TLS_ENABLED="O|boolean|TLS||YES")),
    ),
    "key on the wrong level": (
        "wrong-level",
        broken(lambda t: t["user_inputs"].update(FL_NUM_ROUNDS=link(t)["user_inputs"].pop("FL_NUM_ROUNDS"))),
    ),
    "token missing": ("token-missing", broken(lambda t: nodes(t)["template_contents"]["CONTEXT"].pop("TOKEN"))),
    "token missing, release 6": (
        "token-missing",
        broken6(lambda t: nodes(t).update(vm_template_contents='CONTEXT=[NETWORK="YES"]')),
    ),
    "infrastructure as user input": (
        "infrastructure-as-input",
        broken(lambda t: t["user_inputs"].update(REPORT_READY="O|boolean|Report||YES")),
    ),
    "static superlink address": (
        "static-superlink-address",
        broken(lambda t: nodes(t)["template_contents"]["CONTEXT"].update(FL_SUPERLINK_ADDRESS="10.0.0.5:9092")),
    ),
    "static superlink address as default": (
        "static-superlink-address",
        broken(lambda t: nodes(t)["user_inputs"].update(FL_SUPERLINK_ADDRESS="O|text|SuperLink||10.0.0.5:9092")),
    ),
    "deployment none": ("deployment-none", broken(lambda t: t.update(deployment="none"))),
    "deployment left out": ("deployment-none", broken(lambda t: t.pop("deployment"))),
    "unknown parent": ("parents", broken(lambda t: nodes(t).update(parents=["superlink", "db"]))),
    "cyclic parents": ("parents", broken(lambda t: link(t).update(parents=["supernode"]))),
    "no parents": ("parents", broken(lambda t: nodes(t).pop("parents"))),
    "hyphen in a role name": (
        "role-name",
        broken(lambda t: t["roles"].append({"name": "data-node", "type": "vm", "template_id": 1})),
    ),
    "dollar brace in START_SCRIPT": (
        "dollar-brace",
        broken(lambda t: nodes(t)["template_contents"]["CONTEXT"].update(START_SCRIPT="echo ${HOME}")),
    ),
    "min_vms below the client minimum": (
        "min-clients",
        broken(lambda t: link(t)["user_inputs"].update(FL_MIN_AVAILABLE_CLIENTS="O|number|Nodes||5")),
    ),
    "type missing": ("release-names", broken(lambda t: nodes(t).pop("type"))),
    "names of both releases": ("release-names", broken(lambda t: nodes(t).update(vm_template=3))),
    "contents as text": ("release-names", broken(lambda t: nodes(t).update(template_contents='CONTEXT=[TOKEN="YES"]'))),
    "no roles": ("structure", broken(lambda t: t.update(roles=[]))),
    "a role twice": ("structure", broken(lambda t: t["roles"].append(copy.deepcopy(nodes(t))))),
    "no bounds": ("cardinality", broken(lambda t: nodes(t).pop("max_vms"))),
    "cardinality out of bounds": ("cardinality", broken(lambda t: nodes(t).update(cardinality=20))),
    "user input with four parts": ("user-input", broken(lambda t: t["user_inputs"].update(X="O|text|a|b"))),
    "default not among the options": ("user-input", broken(lambda t: t["user_inputs"].update(X="O|list|a|b,c|d"))),
    "optional written as a zero": ("user-input", broken(lambda t: t["user_inputs"].update(X="0|text|a||b"))),
    "list-multiple": ("user-input", broken(lambda t: t["user_inputs"].update(X="O|list-multiple|a|b,c|b"))),
    "role inputs that Sunstone cannot fill in": (
        "role-input-without-value",
        broken(lambda t: link(t).pop("user_inputs_values")),
    ),
    "one role input without a stored value": (
        "role-input-without-value",
        broken(lambda t: nodes(t)["user_inputs"].update(FL_SITE="O|text|Site||")),
    ),
    "inputs in what is laid over a VM template": (
        "vm-template-inputs",
        broken(lambda t: nodes(t)["template_contents"].update(USER_INPUTS={"FL_SITE": "O|text|Site||"})),
    ),
    "a GPU in a role": (
        "pci-in-role",
        broken(lambda t: nodes(t)["template_contents"].update(PCI={"VENDOR": "10de"})),
    ),
    "a GPU in a role, release 6": (
        "pci-in-role",
        broken6(
            lambda t: nodes(t).update(vm_template_contents=nodes(t)["vm_template_contents"] + '\nPCI=[CLASS="0302"]')
        ),
    ),
    "a secret on service level": (
        "secret-on-service",
        broken(lambda t: t["user_inputs"].update(FL_SSL_KEYFILE="O|text|Key||")),
    ),
    "a secret that a role asks for": (
        "secret-input",
        broken(
            lambda t: (
                link(t)["user_inputs"].update(FL_SSL_KEYFILE="O|text|Key||"),
                link(t)["user_inputs_values"].update(FL_SSL_KEYFILE=""),
            )
        ),
    ),
    "a password on service level": (
        "secret-on-service",
        broken(lambda t: t["user_inputs"].update(FL_WORD="O|password|Password||")),
    ),
    "a secret by a reference": (
        "secret-on-service",
        broken_form(
            lambda t: (
                t["user_inputs"].update(ONEAPP_FLOWER_EXPERT_KEY="O|text|Key||"),
                link(t)["template_contents"]["CONTEXT"].update(FL_SSL_KEYFILE="$ONEAPP_FLOWER_EXPERT_KEY"),
            )
        ),
    ),
    "text64": ("text64", broken(lambda t: link(t)["user_inputs"].update(FL_SSL_CERTFILE="O|text64|Certificate||"))),
    "a reference to an input that is not there": (
        "reference-to-nothing",
        broken_form(lambda t: t["user_inputs"].pop("ONEAPP_FLOWER_TRAINING_ROUNDS")),
    ),
    "min_vms below the client minimum of the form": (
        "min-clients",
        broken_form(lambda t: t["user_inputs"].update(ONEAPP_FLOWER_NODES_NEEDED="O|number|Nodes||5")),
    ),
    "empty user inputs": ("user-input", broken(lambda t: nodes(t).update(user_inputs={}))),
}


@pytest.mark.parametrize("name", TRAPS)
def test_each_trap_is_found_with_where_why_and_how_to_mend(name):
    rule, template = TRAPS[name]
    findings = [finding for finding in lint(template) if finding.rule == rule]
    assert findings, [str(finding) for finding in lint(template)]
    for finding in findings:
        assert finding.where
        assert finding.why.endswith(".")
        assert finding.fix.endswith(".")
        assert "\n" not in str(finding)


@pytest.mark.parametrize("template", [None, 3, [], "x", {}, {"roles": 3}, {"roles": [None, 1]}, {"roles": [{"name": 3}]},
                                      {"user_inputs": [1], "roles": [{"user_inputs": "x", "parents": 3}]}])  # fmt: skip
def test_nonsense_is_linted_without_a_traceback(template):
    assert lint(template)


@pytest.mark.parametrize(("template", "release"), [(SIX, 7), (SEVEN, 6)])
def test_a_template_for_the_other_release_is_named(template, release):
    [finding] = lint(copy.deepcopy(template), release)
    assert finding.rule == "other-release"


def test_what_oneflow_shows_of_a_stored_template_can_be_linted():
    assert lint({"DOCUMENT": {"ID": "3", "TEMPLATE": {"BODY": SEVEN}}}) == []
