"""What Sunstone posts when a tenant fills in the form of a service template, and what becomes of it.

sunstone/*.json is what FireEdge 7.4.1 posted for six ways to ask for the variables, and what came back:

a: inputs on the service and on the roles. b: as a, and the VM templates ask, too. c: all of them on the service.
e: names of which Sunstone makes groups, and references in the roles' CONTEXT. s: as a, and the roles have values stored.
t: as s, with some of the inputs moved to the service.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from oneflower.local.oned.vmtext import parse_template
from oneflower.opennebula import (
    COORDINATOR,
    NODES,
    Rendering,
    ServiceOptions,
    lint,
    merge_template,
    render,
    service_template,
    variables_of,
    vm_template,
)
from oneflower.opennebula.text import context_sh
from oneflower_appliance.context import parse_context
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.formats import encode_pem, read_pem
from oneflower_appliance.parameter import Level
from oneflower_appliance.parameters import PARAMETERS, form_fields, of_level
from oneflower_appliance.settings import Bounds, InvalidParametersError, resolve

from .cloud import LocalServers
from .compare import differences
from .fireedge import posted_for

RECORDED = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "sunstone").glob("*.json")}
ACCEPTED = ("c", "e", "s", "t")
KEY = "-----BEGIN PRIVATE KEY-----\nnobody else's\n-----END PRIVATE KEY-----\n"
LIST = "\n".join(f"{name}==1.0 \\\n    --hash=sha256:{'1' * 64}" for name in ("a", "b"))  # as people paste it
LEVEL_OF = {COORDINATOR: Level.SUPERLINK, NODES: Level.SUPERNODE}


def action(variant):
    return copy.deepcopy(RECORDED[variant]["what_fireedge_posts"]["action"])


def template(variant):
    """Return the service template that the recorded form was shown for, from the service that it became."""
    body = copy.deepcopy(
        RECORDED[variant if variant in ACCEPTED else "s"]["answer"]["data"]["DOCUMENT"]["TEMPLATE"]["BODY"]
    )
    for key in ("state", "start_time", "registration_time", "user_inputs_values", "networks_values"):
        body.pop(key, None)
    for role in body["roles"]:
        role.pop("state")
        if "parents" in role:
            role["parents"] = [COORDINATOR]
        if variant not in ACCEPTED:
            role.pop("user_inputs_values", None)
    return body


class Cloud:
    """The local cloud with a service template, the guests of which are played."""

    def __init__(self, path, body):
        self.servers = LocalServers(path)
        self.servers.compute.catalogue.add_network("private")
        self.ids = {
            role: self.servers.compute.catalogue.save_template(parse_template(render({"NAME": role, **empty(role)})))
            for role in (COORDINATOR, NODES)
        }
        self.template = self.servers.documents.create_template(self.here(body)).id

    def here(self, body):
        """Put in the ids of this cloud's VM templates, and take away that the machines run a guest."""
        for role in body["roles"]:
            role["template_id"] = self.ids[role["name"]]
            role["template_contents"]["CONTEXT"].pop("ONEFLOWER_ROLE", None)
        return body

    def instantiate(self, merge):
        body = {"action": {"perform": "instantiate", "params": {"merge_template": merge}}}
        return self.servers.oneflow.post(f"/service_template/{self.template}/action", json=body)

    def contexts(self, service):
        """Let the service become ready, and return the CONTEXT of one machine of each role."""
        found = {}
        for role in (COORDINATOR, NODES):
            for vm in self.nodes(service, role):
                found[role] = self.servers.compute.find(vm)
                assert self.servers.put(vm, "READY=YES").status_code == 200
            self.servers.clock.advance(1)
        assert self.body(service)["state"] == 2
        return {role: dict(vm.context) for role, vm in found.items()}

    def body(self, service):
        return self.servers.documents.service(service).body

    def nodes(self, service, name):
        for _ in range(100):
            role = next(role for role in self.body(service)["roles"] if role["name"] == name)
            vms = [node["deploy_id"] for node in role.get("nodes", ())]
            if vms and all(self.servers.compute.find(vm).running for vm in vms):
                return vms
            self.servers.clock.advance(0.5)
        raise AssertionError(f"no machines of {name}")


def empty(role):
    """A VM template that runs no guest."""
    return vm_template(role) | {"CONTEXT": {"TOKEN": "YES"}}


@pytest.fixture
def cloud(tmp_path):
    made = []

    def make(body):
        made.append(Cloud(tmp_path / "cloud.db", body))
        return made[-1]

    yield make
    for one in made:
        one.servers.close()


@pytest.mark.parametrize("variant", ["a", "b"])
def test_what_sunstone_posts_without_values_of_roles_is_refused_in_the_same_words(cloud, variant):
    made = cloud(template(variant))
    answer = made.instantiate(made.here(action(variant)["params"]["merge_template"]))
    assert answer.status_code == 400
    assert RECORDED[variant]["answer"]["data"] in answer.text


@pytest.mark.parametrize("variant", ACCEPTED)
def test_what_sunstone_posts_becomes_the_same_service(cloud, variant):
    made = cloud(template(variant))
    answer = made.instantiate(made.here(action(variant)["params"]["merge_template"]))
    assert answer.status_code == 201, answer.text
    recorded = made.here(copy.deepcopy(RECORDED[variant]["answer"]["data"]["DOCUMENT"]["TEMPLATE"]["BODY"]))
    assert list(differences(recorded, answer.json()["DOCUMENT"]["TEMPLATE"]["BODY"], {})) == []


@pytest.mark.parametrize("variant", ACCEPTED)
def test_every_value_is_in_the_context_of_just_the_right_roles(cloud, variant):
    made = cloud(template(variant))
    merge = made.here(action(variant)["params"]["merge_template"])
    contexts = made.contexts(int(made.instantiate(merge).json()["DOCUMENT"]["ID"]))
    for role in merge["roles"]:
        values = merge["user_inputs_values"] | role.get("user_inputs_values", {})
        for name, source in role["template_contents"]["CONTEXT"].items():
            if name in PARAMETERS:
                values[name] = values[source.removeprefix("$")]
        context = contexts[role["name"]]
        assert {name: context[name] for name in values} == values
        assert {name for name in context if name in PARAMETERS} == {name for name in values if name in PARAMETERS}
    assert ("FL_SSL_KEYFILE" in contexts[NODES]) == (variant == "c"), "c is what must never be registered"
    assert contexts[COORDINATOR]["FL_NUM_ROUNDS"] == {"s": "$FL_GRPC_KEEPALIVE_TIME", "t": "12"}.get(variant, "3")


@pytest.mark.parametrize("variant", ACCEPTED)
def test_the_tests_post_what_fireedge_posts(variant):
    recorded = action(variant)["params"]["merge_template"]
    filled = {"t": {"FL_NUM_ROUNDS": "12", "FL_MODEL": "resnet18", "FL_CLIENT_LR": "0.02"}}.get(variant, {})
    mine = posted_for(template(variant), "mine", **filled)
    assert mine["user_inputs_values"] == recorded["user_inputs_values"]
    values = [role.pop("user_inputs_values", {}) for role in recorded["roles"]]
    assert [set(role.pop("user_inputs_values", {})) for role in mine["roles"]] == [set(one) for one in values]
    assert mine["roles"] == recorded["roles"]


def rendered(rendering):
    return service_template(ServiceOptions(rendering=rendering, template_ids={COORDINATOR: 0, NODES: 1}))


@pytest.mark.parametrize("rendering", Rendering)
def test_both_of_our_renderings_instantiate_from_sunstone_and_give_each_role_its_variables(cloud, rendering):
    made = cloud(rendered(rendering))
    filled = {
        Rendering.LEVELS: {"FL_LOG_LEVEL": "DEBUG"},
        Rendering.FORM: {"ONEAPP_FLOWER_EXPERT_MALICIOUS": "1", "ONEAPP_FLOWER_TRAINING_ROUNDS": "7",
                         "ONEAPP_FLOWER_DATA_PATH": "/data/it's \"mine\"",
                         "ONEAPP_FLOWER_PACKAGES_LIST": LIST, "ONEAPP_FLOWER_PACKAGES_INDEX": "https://index.org/simple"},
    }[rendering]  # fmt: skip
    merge = made.here(posted_for(made.servers.documents.get(made.template, 101).body, "from-sunstone", **filled))
    answer = made.instantiate(merge)
    assert answer.status_code == 201, answer.text
    service = int(answer.json()["DOCUMENT"]["ID"])
    contexts = made.contexts(service)
    wanted = {field.input: parameter.name for field, parameter in form_fields()}
    expected = {wanted.get(name, name): value for name, value in filled.items()}
    asked = (
        set(wanted.values()) if rendering is Rendering.FORM else {p.name for p in PARAMETERS.values() if not p.secret}
    )
    for role, context in contexts.items():
        mine = {p.name: p.default for p in of_level(Level.SERVICE, LEVEL_OF[role]) if p.name in asked}
        given = {name: value for name, value in context.items() if name in PARAMETERS}
        assert set(given) == set(mine), "a role has its own variables and no other's"
        for name, value in (mine | {name: expected[name] for name in expected.keys() & mine.keys()}).items():
            assert PARAMETERS[name].kind == "number-float" or given[name] == value
        settings = {name: value for name, value in given.items() if name != "FL_DATA_PATH"}
        resolve(settings, (Level.SERVICE, LEVEL_OF[role]))
    assert variables_of(made.body(service)) | expected == variables_of(made.body(service))


UNASKED = ("levels", "form", "e")  # the variants that ask for no secret


@pytest.mark.parametrize("variant", [*UNASKED, "s", "t"])
def test_up_gives_its_own_values_to_any_of_them(cloud, variant):
    body = rendered(Rendering(variant)) if variant in ("levels", "form") else template(variant)
    made = cloud(body)
    stored = made.servers.documents.get(made.template, 101).body
    pem = "-----BEGIN CERTIFICATE-----\nmine\n-----END CERTIFICATE-----\n"
    given = {
        "FL_NUM_ROUNDS": "9", "ML_FRAMEWORK": "pytorch", "FL_LOG_FORMAT": "json", "FL_TRIM_BETA": "0.3",
        "FL_MAX_RETRIES": "4", "FL_SSL_CA_CERTFILE": pem, "FL_SSL_CERTFILE": pem, "FL_SSL_KEYFILE": KEY,
    }  # fmt: skip
    answer = made.instantiate(merge_template(stored, "by-up", resolve(given, bounds=Bounds(2, 5, 3)), Bounds(2, 5, 3)))
    assert answer.status_code == 201, answer.text
    service = int(answer.json()["DOCUMENT"]["ID"])
    contexts = made.contexts(service)
    assert len(made.nodes(service, NODES)) == 3
    for role, context in contexts.items():
        for name, value in given.items():
            needs = PARAMETERS[name].level in (Level.SERVICE, LEVEL_OF[role])
            secret = PARAMETERS[name].secret and variant in UNASKED
            assert not needs or context[name] == (encode_pem(value) if secret else value.strip())
    [node, *_] = made.nodes(service, NODES)
    assert read_pem(contexts[COORDINATOR]["FL_SSL_KEYFILE"]).strip() == KEY.strip().encode()
    assert "FL_SSL_KEYFILE" not in contexts[NODES]
    assert "nobody else" not in str(vars(made.servers.compute.find(node)))
    found = variables_of(made.body(service))
    if variant in UNASKED:
        assert "nobody else" not in str(found), "a secret is in no value"
        [link] = made.nodes(service, COORDINATOR)
        assert "FL_SSL_KEYFILE" not in made.servers.compute.find(link).user_template
        del given["FL_SSL_KEYFILE"]
    assert {name: found[name].strip() for name in given} == {name: value.strip() for name, value in given.items()}


def test_up_gives_no_secret_to_a_template_that_would_spread_it():
    body = template("c")
    given = resolve({"FL_SSL_KEYFILE": KEY, "FL_SSL_CERTFILE": KEY, "FL_SSL_CA_CERTFILE": KEY})
    with pytest.raises(OneflowerError, match="FL_SSL_KEYFILE on service level, from where it would reach every"):
        merge_template(body, "by-up", given, Bounds())
    assert merge_template(body, "by-up", resolve({}), Bounds())["user_inputs_values"]["FL_SSL_KEYFILE"] == ""


def test_no_secret_is_ever_asked_for_on_service_level():
    secrets = {name for name, parameter in PARAMETERS.items() if parameter.secret}
    assert "FL_SSL_KEYFILE" in secrets
    assert not {parameter.name for _, parameter in form_fields()} & secrets
    for rendering in Rendering:
        body = rendered(rendering)
        asked = [body.get("user_inputs", {}), *(role.get("user_inputs", {}) for role in body["roles"])]
        assert not {name for inputs in asked for name in inputs} & secrets, "on no level"
    body["roles"][0]["user_inputs"] = {"FL_SSL_KEYFILE": "O|text|Key||"}
    assert "secret-input" in {finding.rule for finding in lint(body)}


HOSTILE = {
    "quotes": '/it\'s "mine" and `id`',
    "commands": "/$(reboot); reboot & | cat > /etc/passwd",
    "names of variables": "/$HOME $USER[SSH_PUBLIC_KEY] $NIC[IP] $TEMPLATE $",
    "lines": '/a\nFL_GPU_ENABLED="YES"\n\n# no comment\nCONTEXT=[TOKEN="NO"]',
    "backslashes": '/\\n \\" \\\\" \\x',
    "the syntax of templates": '/a,b=[C="D"],] = "',
    "markup": "/]]> <![CDATA[ &amp; &#10; <x>",
    "other alphabets": "/\u00e9 \u5b57 \U0001f600 \u202e \u00a0x",
    "blanks": "/  a\t b",
    "the longest": "/" + "x" * 65_535,
}


@pytest.mark.parametrize("rendering", list(Rendering))
@pytest.mark.parametrize("kind", HOSTILE)
def test_what_a_tenant_types_arrives_as_it_is_and_is_never_read_as_something_else(cloud, rendering, kind):
    """FL_DATA_PATH is checked later, by the machine; here anything may be in it."""
    made = cloud(rendered(rendering))
    stored = made.servers.documents.get(made.template, 101).body
    given = dict(resolve({})) | {"FL_DATA_PATH": HOSTILE[kind]}
    answer = made.instantiate(merge_template(stored, "hostile", given, Bounds()))
    assert answer.status_code == 201, answer.text
    contexts = made.contexts(int(answer.json()["DOCUMENT"]["ID"]))
    assert contexts[NODES]["FL_DATA_PATH"] == HOSTILE[kind]
    assert parse_context(context_sh(contexts[NODES]))["FL_DATA_PATH"] == HOSTILE[kind], "and in the machine"
    plain = cloud(rendered(rendering))
    usual = plain.instantiate(merge_template(stored, "usual", resolve({}), Bounds()))
    others = plain.contexts(int(usual.json()["DOCUMENT"]["ID"]))[NODES]
    same = {
        key: value for key, value in contexts[NODES].items() if "DATA_PATH" not in key and not key.startswith("ETH")
    }
    assert same.items() <= others.items() | {("VMID", contexts[NODES]["VMID"])}, "nothing else is changed by it"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("/data/${HOME}", "OneFlow replaces with nothing"),
        ("/data/${superlink.template.context.fl_ssl_keyfile}", "OneFlow replaces with nothing"),
        ("/data\\", "ends with a backslash"),
        ("/data\0", "control character"),
        ("/data\x1b[2J", "control character"),
        ("/data\ud800", "control character"),
        ("/" + "x" * 65_536, "at most 65536"),
    ],
)
def test_what_opennebula_would_change_on_its_way_is_refused(value, why):
    body = rendered(Rendering.FORM)
    with pytest.raises(InvalidParametersError, match=why) as caught:
        merge_template(body, "hostile", dict(resolve({})) | {"FL_DATA_PATH": value}, Bounds())
    assert len(str(caught.value)) < 1000
