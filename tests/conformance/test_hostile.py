"""Whatever is sent to the servers, a proper answer comes back, and never another tenant's data.

Requests are generated from the servers' own tables of calls, so that no call is left out.
"""

from __future__ import annotations

import json
import logging
import xmlrpc.client

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oneflower.local.oned.methods import xmlrpc_methods
from oneflower.local.oneflow.calls import oneflow_calls
from oneflower.local.oneflow.scheduling import ACTIONS
from oneflower.local.onegate.calls import OneGateCalls
from oneflower.opennebula import ServiceOptions, service_template
from tests.examples import examples

from .cloud import SECRET, LocalServers

QUICK = settings(
    max_examples=examples(150), derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip

WORDS = st.sampled_from(
    ["", "name", "roles", "action", "perform", "params", "superlink", "supernode", "READY", "YES", "-1", "0", "999999999999999999999",
     "recover", "instantiate", "clone", "update", "chmod", "rename", "add_role", "role", "force", "cardinality", "true",
     "${superlink.ID}", "$NAME", "a\nb", "a,b", "[x]", '"', "\\", "é✓\x00", "../../etc/passwd", "' OR 1=1 --", "A" * 5000, *sorted(ACTIONS)]
)  # fmt: skip
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), WORDS, st.text(max_size=20))
KEYS = st.one_of(WORDS, st.sampled_from([
    "append", "template", "merge_template", "user_inputs_values", "networks_values", "delete", "owner_id", "group_id", "octet",
    "role_name", "type", "template_id", "min_vms", "max_vms", "cooldown", "parents", "template_contents", "elasticity_policies",
    "expression", "adjust", "scheduled_policies", "recurrence", "start_time", "period", "number", "delete_type", "vm_template",
    "vm_template_contents", "custom_attrs", "template_json", "recursive", "on_hold", "networks",
]))  # fmt: skip
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
ACTION = st.builds(
    lambda perform, params: {"action": {"perform": perform, "params": params}},
    st.one_of(st.sampled_from(["recover", "instantiate", "clone", "update", "rename", "chmod", "chown", "add_role", "remove_role", "release"]), WORDS),
    JSON,
)  # fmt: skip
BODIES = st.one_of(JSON.map(json.dumps), ACTION.map(json.dumps), st.binary(max_size=60), WORDS.map(str.encode))
SEGMENTS = st.sampled_from(
    ["0", "1", "2", "3", "4", "-1", "abc", "0x10", "999999999999999999999999", "superlink", "nobody", "%2e%2e", "1;2"]
)


@pytest.fixture
def cloud(tmp_path):
    made = LocalServers(tmp_path / "cloud.db")
    for name in ("mine", "theirs"):
        made.compute.catalogue.save_template({"NAME": name, "CPU": "1", "CONTEXT": {"NETWORK": "YES", "TOKEN": "YES"}})
    body = service_template(ServiceOptions(template_ids={"superlink": 0, "supernode": 1}))
    for role in body["roles"]:
        role["template_contents"]["CONTEXT"].pop("ONEFLOWER_ROLE")
        role.pop("user_inputs")
    body.pop("user_inputs")
    made.body = json.dumps(body | {"ready_status_gate": False})
    deploy(made, "mine")
    number = deploy(made, "theirs")
    made.secret = next(vm for vm in made.compute.vms.values() if vm.service_id == number)
    made.compute.update(made.secret, 'SECRET="only theirs"', append=True)
    yield made
    made.close()


def deploy(cloud, name):
    number = cloud.documents.create_template(json.loads(cloud.body) | {"name": name}).id
    reply = cloud.lifecycle.instantiate(number, {"name": name})
    cloud.clock.advance(1)
    return int(reply["DOCUMENT"]["ID"])


def path_of(call, draw):
    path = call.path
    while "{" in path:
        head, _, rest = path.partition("{")
        path = head + draw(SEGMENTS) + rest.partition("}")[2]
    return path


def answered(answer, caplog):
    assert answer.status_code < 600
    assert "Traceback" not in answer.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], caplog.text


@given(data=st.data())
@QUICK
def test_oneflow_answers_whatever_comes(cloud, caplog, data):
    caplog.clear()
    calls = oneflow_calls(cloud.documents, cloud.lifecycle, cloud.compute)
    call = data.draw(st.sampled_from(calls))
    path = path_of(call, data.draw)
    if "{id}" in call.path and call.path.startswith("/service/") and data.draw(st.booleans()):
        running = [d.id for d in cloud.documents.pool(100) if d.state.name == "RUNNING"] or [deploy(cloud, "again")]
        path = path.replace(path.split("/")[2], str(running[0]), 1)
    answer = cloud.oneflow.request(call.method, path, content=data.draw(BODIES))
    answered(answer, caplog)
    cloud.clock.advance(1)
    answered(cloud.oneflow.get("/service"), caplog)
    answered(cloud.oneflow.get("/service_template"), caplog)


@given(merge=JSON)
@QUICK
def test_any_merge_template_is_taken_or_refused(cloud, caplog, merge):
    caplog.clear()
    action = {"action": {"perform": "instantiate", "params": {"merge_template": merge}}}
    templates = [document.id for document in cloud.documents.pool(101)]
    if templates:
        answer = cloud.oneflow.post(f"/service_template/{templates[-1]}/action", content=json.dumps(action))
        answered(answer, caplog)
    cloud.clock.advance(1)


@given(data=st.data())
@QUICK
def test_onegate_never_hands_out_what_is_another_tenants(cloud, caplog, data):
    caplog.clear()
    mine = next(iter(cloud.compute.vms))
    calls = OneGateCalls(cloud.documents, cloud.lifecycle, cloud.compute).table()
    call = data.draw(st.sampled_from([call for call in calls if "action" not in call.path and "role" not in call.path]))
    headers = cloud.headers(mine)
    forged = data.draw(st.sampled_from([None, "X-ONEGATE-TOKEN", "X-ONEGATE-VMID"]))
    if forged:
        headers[forged] = data.draw(
            st.sampled_from(["", "0", "1", "2", "AAAA", "x" * 9000, "1' or '1'='1", "%00", "-1"])
        )
    request = {"headers": headers, "content": data.draw(BODIES)}
    answer = cloud.onegate.request(call.method, path_of(call, data.draw), **request)
    answered(answer, caplog)
    assert "only theirs" not in answer.text
    assert answer.status_code in (200, 400, 401, 403, 404, 500)
    if forged and headers[forged] not in ("0", str(mine)):
        assert (answer.status_code, answer.text) == (401, "Not authorized")
    assert cloud.compute.find(cloud.secret.id).user_template.get("SECRET") == "only theirs"


@given(data=st.data())
@QUICK
def test_the_core_answers_whatever_comes(cloud, caplog, data):
    caplog.clear()
    values = st.one_of(st.integers(-5, 5), st.booleans(), WORDS.filter(str.isprintable), st.just('A="1"\nB=[C="2"]'))
    method = data.draw(st.sampled_from([*xmlrpc_methods(cloud.compute), "one.host.allocate", "system.listMethods", ""]))
    if method in ("one.vm.action", "one.vm.recover", "one.template.instantiate"):
        return
    session = data.draw(st.sampled_from([SECRET, "oneadmin:wrong", ""]))
    content = xmlrpc.client.dumps((session, *data.draw(st.lists(values, max_size=4))), method)
    answer = cloud.xmlrpc.post("/RPC2", content=content.encode())
    answered(answer, caplog)
    [[success, _, code]] = xmlrpc.client.loads(answer.text)[0]
    assert success or code
    assert not success or session == SECRET


@given(content=st.binary(max_size=200))
@QUICK
def test_what_is_no_xmlrpc_is_a_fault(cloud, caplog, content):
    caplog.clear()
    answer = cloud.xmlrpc.post("/RPC2", content=content)
    answered(answer, caplog)
    assert "methodResponse" in answer.text
