"""Behaviour seen on a real OpenNebula 7.4 beyond the recorded exchanges, or read in its source and its gems."""

from __future__ import annotations

import copy
import datetime
import json
import re
import xmlrpc.client

import pytest

from oneflower.local.oned.models import Vm
from oneflower.local.oneflow import policies
from oneflower.opennebula.cron import Cron, CronError
from oneflower.opennebula.states import LcmState, VmState
from oneflower.opennebula.states import ServiceState as S

from .cloud import SECRET, LocalServers

TEMPLATE = {
    "name": "t",
    "roles": [
        {"name": "a", "type": "vm", "template_id": 0, "cardinality": 2, "cooldown": 5, "min_vms": 1, "max_vms": 4}
    ],
}


@pytest.fixture
def cloud(tmp_path):
    made = LocalServers(tmp_path / "cloud.db", 1_700_000_000.0)
    made.compute.catalogue.save_template({"NAME": "worker", "CPU": "1", "CONTEXT": {"NETWORK": "YES", "TOKEN": "YES"}})
    yield made
    made.close()


def create(cloud, **changes):
    return cloud.oneflow.post("/service_template", content=json.dumps(copy.deepcopy(TEMPLATE) | changes))


def running(cloud):
    number = int(create(cloud).json()["DOCUMENT"]["ID"])
    body = {"action": {"perform": "instantiate", "params": {}}}
    service = int(cloud.oneflow.post(f"/service_template/{number}/action", json=body).json()["DOCUMENT"]["ID"])
    cloud.clock.advance(15)
    assert cloud.documents.service(service).state is S.RUNNING
    return service


def call(cloud, method, *parameters, session=SECRET):
    answer = cloud.xmlrpc.post("/RPC2", content=xmlrpc.client.dumps((session, *parameters), method))
    return xmlrpc.client.loads(answer.text)[0][0]


# -- numbers and text ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_of_json_is_refused(cloud, value):
    text = json.dumps(TEMPLATE).replace('"name": "t"', f'"name": "t", "x": {value}')
    answer = cloud.oneflow.post("/service_template", content=text)
    assert answer.status_code == 400
    assert answer.text.startswith("unexpected token at '" + value)
    assert cloud.oneflow.get("/service_template").text == '{\n  "DOCUMENT_POOL": {}\n}'


@pytest.mark.parametrize("value", ["1e999", "-1e999"])
def test_a_number_that_cannot_be_written_again_is_an_internal_error(cloud, value):
    text = json.dumps(TEMPLATE).replace('"name": "t"', f'"name": "t", "x": {value}')
    answer = cloud.oneflow.post("/service_template", content=text)
    assert answer.status_code == 500
    assert answer.json()["reason"].endswith("Infinity not allowed in JSON")
    json.loads(cloud.oneflow.get("/service_template").text, parse_constant=pytest.fail)


def test_json_is_as_ruby_writes_it(cloud):
    answer = create(cloud, x=1e-05, big=1e16, plain=2.5, text='é "\x07/', empty={}, none=None, nested=[[], {"a": True}])
    lines = answer.text.splitlines()
    assert lines[:3] == ["{", '  "DOCUMENT": {', '    "ID": "0",']
    for line in (
        '"x": 1.0e-05,',
        '"big": 1.0e+16,',
        '"plain": 2.5,',
        r'"text": "é \"\u0007/",',
        '"empty": {},',
        '"none": null,',
    ):
        assert "        " + line in lines
    assert json.loads(answer.text)["DOCUMENT"]["TEMPLATE"]["BODY"]["nested"] == [[], {"a": True}]


def test_floats_reach_a_vm_as_ruby_writes_them(cloud):
    roles = [TEMPLATE["roles"][0] | {"template_contents": {"RATE": 1e-05, "FLAG": True, "NOTHING": None}}]
    number = int(create(cloud, roles=roles).json()["DOCUMENT"]["ID"])
    body = {"action": {"perform": "instantiate", "params": {}}}
    cloud.oneflow.post(f"/service_template/{number}/action", json=body)
    cloud.clock.advance(1)
    user = cloud.compute.vms[0].user_template
    assert (user["RATE"], user["FLAG"], user["NOTHING"]) == ("1.0e-05", "true", "")


def test_half_a_surrogate_is_no_character(cloud):
    answer = cloud.oneflow.post("/service_template", content=json.dumps(TEMPLATE).replace('"t"', '"a\\ud800b"', 1))
    assert answer.status_code == 201
    assert cloud.oneflow.get("/service_template").json()["DOCUMENT_POOL"]["DOCUMENT"][0]["NAME"] == "a?b"


def test_no_text_of_ours_is_pythons(cloud):
    service = running(cloud)
    texts = [
        cloud.oneflow.post(f"/service/{service}/action", content=content).text
        for content in ('{"action": {}}', '{"action": {"perform": true}}', '{"action": {"perform": {"a": null}}}',
                        '{"action": {"perform": "chmod", "params": {"octet": true}}}',
                        '{"action": {"perform": "chown", "params": {"owner_id": [1]}}}',
                        '{"action": {"perform": "poweroff", "params": {"period": {}}}}')
    ]  # fmt: skip
    texts += [
        cloud.oneflow.post(f"/service/{service}/scale", content=content).text
        for content in ('{"cardinality": 2, "force": false}', '{"role_name": true, "cardinality": 3, "force": false}',
                        '{"role_name": "a", "cardinality": true, "force": false}')
    ]  # fmt: skip
    texts += [
        cloud.oneflow.post(f"/service/{service}/role_action", json={"action": {"perform": perform, "params": params}}).text
        for perform, params in (("remove_role", {}), ("add_role", {"role": 5}), (None, {}),
                                ("add_role", {"role": {"name": "b", "type": ["x"], "template_id": 0}}))
    ]  # fmt: skip
    texts += [
        cloud.oneflow.post("/service_template", json=TEMPLATE | changes).text
        for changes in ({"roles": [None]}, {"roles": [[None, True]]}, {"roles": [{"name": "a", "type": {"x": None}}]},
                        {"roles": [TEMPLATE["roles"][0] | {"cardinality": True}]})
    ]  # fmt: skip
    merge = {"action": {"perform": "instantiate", "params": {"merge_template": {"roles": [{"name": {"a": 1}}]}}}}
    texts.append(cloud.oneflow.post("/service_template/0/action", json=merge).text)
    assert "Action  not supported" in texts
    assert "Role  not found" in texts
    assert "Role true not found" in texts
    assert "Role  does not exist" in texts
    assert 'Unsupported role type "["x"]"' in texts
    for text in texts:
        assert not re.search(r"\b(None|True|False)\b|unhashable|NoneType|'dict'", text), text


@pytest.mark.parametrize(
    ("octet", "bits"),
    [("640", "640"), ("9", "100"), ("abc", "000"), ("7", "700"), ("64012", "640"), (7, "111"), (640, "000")],
)
def test_no_octet_is_refused(cloud, octet, bits):
    number = int(create(cloud).json()["DOCUMENT"]["ID"])
    body = {"action": {"perform": "chmod", "params": {"octet": octet}}}
    assert cloud.oneflow.post(f"/service_template/{number}/action", json=body).status_code == 204
    assert cloud.documents.get(number, 101).access.octet == bits


# -- answers ---------------------------------------------------------------------------------------------------------


def test_every_answer_forbids_guessing_its_type(cloud):
    service = running(cloud)
    answers = [
        cloud.oneflow.get("/service"), cloud.oneflow.get("/service/77"), cloud.oneflow.get("/nowhere"),
        cloud.onegate.get("/vm", headers=cloud.headers(0)), cloud.onegate.get("/vm"), cloud.onegate.get("/nowhere"),
        cloud.oneflow.post(f"/service/{service}/action", content="["),
    ]  # fmt: skip
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert ("x-frame-options" in answer.headers) == answer.headers["content-type"].startswith("text/html")


def test_an_unknown_route_of_oneflow_is_sinatras_page(cloud):
    answer = cloud.oneflow.put("/service/1/role/<a>")
    assert answer.status_code == 404
    assert "<h2>Sinatra doesn\u2019t know this ditty.</h2>" in answer.text
    assert "<pre>put &#39;/service/1/role/&lt;a&gt;&#39; do" in answer.text
    cloud.oneflow.auth = None
    assert cloud.oneflow.get("/nowhere").status_code == 401


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/vm"), ("POST", "/vm"), ("GET", "/nowhere"), ("PATCH", "/")])
def test_an_unknown_route_of_onegate_needs_no_token(cloud, method, path):
    answer = cloud.onegate.request(method, path)
    assert (answer.status_code, answer.text) == (400, "OneGate server doesn't support this feature")
    assert cloud.onegate.get("/vm").status_code == 401


# -- OneGate ---------------------------------------------------------------------------------------------------------


def test_what_to_write_may_stand_in_the_query(cloud):
    running(cloud)

    def put(query, content=b"", **headers):
        return cloud.onegate.put(f"/vm?{query}", content=content, headers=cloud.headers(0) | headers).status_code

    def attributes():
        return cloud.compute.find(0).user_template

    assert put("data=X=1") == 200
    assert put("data=FL_B=some%20text&type=1", b"FL_C=unseen") == 200
    assert (attributes()["X"], attributes()["FL_B"]) == ("1", "some text")
    assert "FL_C" not in attributes()
    assert put("type=2&data=FL_B") == 200
    assert "FL_B" not in attributes()
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert put("type=2", b"a=b&data=Y%3D2&type=1", **form) == 200
    assert attributes()["Y"] == "2"


# -- scaling ---------------------------------------------------------------------------------------------------------


def scale(cloud, service, number, **more):
    return cloud.oneflow.post(f"/service/{service}/scale", json={"role_name": "a", "cardinality": number, **more})


@pytest.mark.parametrize("more", [{}, {"force": None}, {"force": "yes"}, {"force": {"a": 1}}])
def test_scaling_without_a_usable_force_fails_and_leaves_the_service_unwatched(cloud, more):
    service = running(cloud)
    answer = scale(cloud, service, 3, **more)
    assert answer.status_code == 500
    assert answer.json()["reason"].startswith('unexpected token at \'{ "cardinality" : 3,\n  "force" : ')
    cloud.compute.act(cloud.compute.find(0), "poweroff")
    cloud.clock.advance(30)
    assert cloud.compute.find(0).parked
    assert cloud.documents.service(service).state is S.RUNNING, "a watched one would be in WARNING"


def test_a_watched_service_notices(cloud):
    service = running(cloud)
    cloud.compute.act(cloud.compute.find(0), "poweroff")
    cloud.clock.advance(30)
    assert cloud.documents.service(service).state is S.WARNING


@pytest.mark.parametrize("force", [1, 0, "true", "false", [], "null"])
def test_force_is_whatever_is_json_without_its_quotes(cloud, force):
    service = running(cloud)
    beyond = scale(cloud, service, 9, force=force)
    if force == "true":
        assert beyond.status_code == 204
    else:
        assert (beyond.status_code, beyond.text) == (500, f"Can't scale service {service}: Maximum cardinality is 4")
        assert scale(cloud, service, 3, force=force).status_code == 204


# -- the core --------------------------------------------------------------------------------------------------------


def names(cloud, *which, method="one.vmpool.info"):
    success, answer, code = call(cloud, method, *which)
    assert success, (answer, code)
    return [part.partition("<")[0] for part in answer.split("<NAME>")[1:] if "NIC" not in part.partition("<")[0]]


def vms(cloud, count):
    for number in range(count):
        assert call(cloud, "one.template.instantiate", 0, f"vm{number}")[0]
    cloud.clock.advance(15)


def test_a_pool_comes_in_pages(cloud):
    vms(cloud, 5)
    pages = [names(cloud, -2, start, -2, -1, "") for start in (0, 2, 4, 6)]
    assert pages == [["vm0", "vm1"], ["vm2", "vm3"], ["vm4"], []]
    assert names(cloud, -2, 0, -2, -1, "", method="one.vmpool.infoextended") == ["vm0", "vm1"]
    assert names(cloud, -2, 1, 3) == ["vm1", "vm2", "vm3"]
    assert names(cloud, -2, 3, -1) == ["vm3", "vm4"]
    for method, first in (("one.templatepool.info", "worker"), ("one.vnpool.info", "loopback")):
        assert names(cloud, -2, 0, -2, method=method) == [first]
        assert names(cloud, -2, 1, -2, method=method) == []
        assert names(cloud, -2, 5, 9, method=method) == []


def test_a_pool_is_asked_for_by_state_and_owner(cloud):
    vms(cloud, 3)
    cloud.compute.act(cloud.compute.find(0), "terminate-hard")
    cloud.compute.act(cloud.compute.find(1), "poweroff")
    cloud.clock.advance(15)
    assert names(cloud, -2, -1, -1, -1) == ["vm1", "vm2"]
    assert names(cloud, -2, -1, -1, -2) == ["vm0", "vm1", "vm2"]
    assert names(cloud, -2, -1, -1, 6) == ["vm0"]
    assert names(cloud, -2, -1, -1, 8) == ["vm1"]
    assert names(cloud, -3, -1, -1, 3) == ["vm2"]
    assert names(cloud, 7, -1, -1, -1) == []
    assert call(cloud, "one.vmpool.info", -2, -1, -1, 99) == [
        False,
        "[one.vmpool.info] Incorrect state filter 99",
        0x1000,
    ]
    assert call(cloud, "one.vmpool.info", -9, -1, -1, -1) == [False, "[one.vmpool.info] Incorrect filter_flag", 0x1000]


def test_a_vm_without_a_name_is_called_after_its_template(cloud):
    assert call(cloud, "one.template.instantiate", 0, "", False, 'NAME="ignored"')[:2] == [True, 0]
    assert cloud.compute.find(0).name == "worker-0"


# -- policies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "after", "following"),
    [
        ("@hourly", "2031-05-03 10:20", "2031-05-03 11:00"),
        ("@daily", "2031-05-03 10:20", "2031-05-04 00:00"),
        ("@midnight", "2031-12-31 10:20", "2032-01-01 00:00"),
        ("@weekly", "2031-05-03 10:20", "2031-05-04 00:00"),
        ("@monthly", "2031-05-03 10:20", "2031-06-01 00:00"),
        ("@yearly", "2031-05-03 10:20", "2032-01-01 00:00"),
        ("*/15 * * * *", "2031-05-03 10:20", "2031-05-03 10:30"),
        ("5-50/15 8-10 * * *", "2031-05-03 10:51", "2031-05-04 08:05"),
        ("0 9 * * mon-fri", "2031-05-03 10:20", "2031-05-05 09:00"),
        ("0 9 */2 * 1", "2031-05-03 10:20", "2031-05-05 09:00"),
        ("0 9 */2 * 1", "2031-05-05 10:20", "2031-05-07 09:00"),
        ("0 9 13 * fri", "2031-05-03 10:20", "2031-05-09 09:00"),
        ("0 0 * * 7", "2031-05-03 10:20", "2031-05-04 00:00"),
        ("0 0 31 2 *", "2031-05-03 10:20", "2033-02-01 00:00"),
        ("0 0 1 jan * extra", "2031-05-03 10:20", "2032-01-01 00:00"),
    ],
)
def test_a_recurrence_is_read_as_parse_cron_reads_it(line, after, following):
    found = Cron(line).next(datetime.datetime.fromisoformat(after))
    assert found == datetime.datetime.fromisoformat(following)


@pytest.mark.parametrize(
    "line",
    ["5/15 * * * *", "0 9 * * monday", "@reboot", "@often", "* * * *", "1 2 3 4 5 6 7", "x * * * *", "*/0 * * * *", "75 * * * *",
     "0 25 * * *", "0 0 1 13 *", "*/99999999999999999999 5-1 * * *", "0-99999999999 * * * *", ""],
)  # fmt: skip
def test_what_parse_cron_refuses_is_refused(cloud, line):
    with pytest.raises(CronError):
        Cron(line).next(datetime.datetime.fromisoformat("2031-05-03"))
    role = TEMPLATE["roles"][0]
    policy = {"type": "CHANGE", "adjust": 1, "recurrence": line}
    answer = create(cloud, roles=[role | {"scheduled_policies": [policy]}])
    assert answer.status_code == 400
    assert "is not a valid cron expression" in answer.text


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("31/12/2031", "2031-12-31"), ("10/11/2031", "2031-11-10"), ("2031-12-31 10:30:00", "2031-12-31 10:30"),
        ("2031/12/31", "2031-12-31"), ("31.12.31", "2031-12-31"), ("Dec 31 2031 10:30", "2031-12-31 10:30"),
    ],
)  # fmt: skip
def test_a_date_is_read_as_ruby_reads_it(text, moment):
    assert policies.parse_time(text) == datetime.datetime.fromisoformat(moment).timestamp()


@pytest.mark.parametrize("text", ["12/31/2031", "monday", "2031-31-12", "never", "", "31/31/2031"])
def test_what_ruby_refuses_as_a_time_is_refused(cloud, text):
    policy = {"type": "CHANGE", "adjust": 1, "start_time": text}
    answer = create(cloud, roles=[TEMPLATE["roles"][0] | {"scheduled_policies": [policy]}])
    assert answer.status_code == 400
    assert "'start_time' is not a valid Time" in answer.text


def test_an_expression_finds_what_the_vm_itself_has():
    vm = Vm(5, "vm", {"CPU": "2"}, {"LOAD": "0.125"}, 0, state=VmState.ACTIVE, lcm_state=LcmState.RUNNING)
    assert policies.mean("LCM_STATE", [vm]) == 3.0
    assert policies.mean("STATE", [vm]) == 3.0
    assert policies.mean("CPU", [vm]) == 2.0
    assert policies.mean("LOAD", [vm]) == 0.13, "Ruby rounds halves away from zero"
    assert policies.mean("NOWHERE", [vm]) is None
    vm.user_template["LOAD"] = "1e999"
    assert policies.mean("LOAD", [vm]) is None
