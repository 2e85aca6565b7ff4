"""OneFlow beyond the recorded exchanges: rules from its source, on a stepped clock."""

from __future__ import annotations

import copy
from functools import partial

import pytest

from oneflower.local.clock import REAL
from oneflower.opennebula.states import ServiceState as S

from .cloud import LocalServers

TEMPLATE = {
    "name": "t",
    "deployment": "straight",
    "roles": [
        {"name": "a", "type": "vm", "template_id": 0, "cardinality": 1, "cooldown": 5},
        {"name": "b", "type": "vm", "template_id": 0, "cardinality": 2, "cooldown": 5, "parents": ["a"],
         "min_vms": 1, "max_vms": 4},
    ],
}  # fmt: skip


class World(LocalServers):
    def __init__(self, path):
        super().__init__(path, 1_700_000_000.0, REAL)
        self.compute.catalogue.save_template({"NAME": "vm", "CPU": "1", "CONTEXT": {"NETWORK": "YES", "TOKEN": "YES"}})

    def create(self, change=lambda body: None):
        body = copy.deepcopy(TEMPLATE)
        change(body)
        answer = self.oneflow.post("/service_template", json=body)
        assert answer.status_code == 201, answer.text
        return int(answer.json()["DOCUMENT"]["ID"])

    def deploy(self, change=lambda body: None, merge=None):
        template = self.create(change)
        params = {"merge_template": merge or {}}
        answer = self.act(f"/service_template/{template}/action", "instantiate", params)
        assert answer.status_code == 201, answer.text
        return int(answer.json()["DOCUMENT"]["ID"])

    def act(self, path, perform, params=None):
        action = {"perform": perform} | ({} if params is None else {"params": params})
        return self.oneflow.post(path, json={"action": action})

    def scale(self, service, number):
        body = {"role_name": "b", "cardinality": number, "force": False}
        assert self.oneflow.post(f"/service/{service}/scale", json=body).status_code == 204

    def running(self, change=lambda body: None):
        service = self.deploy(change)
        self.clock.advance(15)
        assert self.state(service) == S.RUNNING
        return service

    def service(self, number):
        return self.documents.service(number)

    def state(self, number):
        return self.service(number).state

    def vms(self, number, role):
        nodes = self.service(number).role(role)["nodes"]
        return [self.compute.vms[n["deploy_id"]] for n in nodes if n["deploy_id"] in self.compute.vms]

    def states(self, number):
        log = self.service(number).body["log"]
        return [line["message"].removeprefix("New state: ") for line in log if line["message"].startswith("New state")]


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path / "cloud.db")
    yield made
    made.close()


def test_a_service_on_hold_boots_nothing_until_it_is_released(world):
    service = world.deploy(lambda body: body.update(on_hold=True))
    world.clock.advance(60)
    assert world.state(service) == S.HOLD
    assert [vm.state.name for role in "ab" for vm in world.vms(service, role)] == ["HOLD"] * 3
    assert world.act(f"/service/{service}/action", "release").status_code == 204
    world.clock.advance(15)
    assert world.state(service) == S.RUNNING
    again = world.act(f"/service/{service}/action", "release")
    assert (again.status_code, again.text) == (500, "Service has no roles in HOLD")


def test_a_role_on_hold_holds_its_children(world):
    service = world.deploy(lambda body: body["roles"][0].update(on_hold=True))
    world.clock.advance(30)
    assert [vm.state.name for vm in world.vms(service, "b")] == ["HOLD", "HOLD"]
    world.act(f"/service/{service}/action", "release")
    world.clock.advance(30)
    assert world.state(service) == S.RUNNING


def test_roles_come_and_go(world):
    service = world.running()
    path = f"/service/{service}/role_action"
    role = {"name": "c", "type": "vm", "template_id": 0, "cardinality": 1, "parents": ["b"]}
    assert world.act(path, "add_role", {"role": role}).status_code == 204
    assert world.act(path, "add_role", {"role": role}).text == "Cannot modify roles in state: DEPLOYING"
    world.clock.advance(5)
    assert world.state(service) == S.RUNNING
    assert world.act(path, "add_role", {"role": role}).text == "Role c already exists"
    assert world.act(path, "add_role", {"role": {"name": "d"}}).status_code == 400
    assert world.act(path, "remove_role", {"role": "nobody"}).text == "Role nobody does not exist"
    assert world.act(path, "remove_role", {"role": "c"}).status_code == 204
    world.clock.advance(5)
    assert [entry["name"] for entry in world.service(service).roles] == ["a", "b"]
    assert world.state(service) == S.RUNNING
    assert world.act(path, "fly", {}).text == "Action fly not supported"


def test_scheduled_actions_are_done_in_batches(world):
    service = world.running()
    answer = world.act(f"/service/{service}/role/b/action", "poweroff", {"period": 60, "number": 1})
    assert answer.status_code == 204
    world.clock.advance(5)
    assert [vm.state.name for vm in world.vms(service, "b")] == ["POWEROFF", "ACTIVE"]
    assert world.state(service) == S.WARNING
    world.clock.advance(60)
    assert [vm.state.name for vm in world.vms(service, "b")] == ["POWEROFF", "POWEROFF"]
    assert world.act(f"/service/{service}/action", "resume", {"period": 0}).status_code == 204
    world.clock.advance(10)
    assert world.state(service) == S.RUNNING
    assert world.act(f"/service/{service}/role/nobody/action", "stop", {}).text == "Role 'nobody' not found"
    assert world.act(f"/service/{service}/action", "snapshot-create", {}).status_code == 501
    assert world.act(f"/service/{service}/action", "fly", {}).text == "Action fly not supported"
    assert world.act(f"/service/{service}/role/b/action", "fly", {}).status_code == 204, "only noted in the log"
    assert world.oneflow.delete(f"/service/{service}/sched_action/x").status_code == 400
    world.act(f"/service/{service}/role/a/action", "terminate", {"period": 60, "number": 0})
    assert world.oneflow.delete(f"/service/{service}/role/a/sched_action/0").status_code == 204


def test_an_emptied_service_goes_by_itself_if_it_was_told_to(world):
    service = world.running(lambda body: body.update(automatic_deletion=True))
    for vm in list(world.compute.vms.values()):
        world.compute.act(vm, "terminate-hard")
    world.clock.advance(10)
    assert world.service(service) is None


def test_what_may_be_changed_of_a_running_service(world):
    service = world.running()
    body = copy.deepcopy(world.service(service).body)
    for change, text in (
        (lambda b: b.update(deployment="none"), "service/deployment"),
        (lambda b: b["roles"][0].update(cardinality=5), "role/cardinality"),
        (lambda b: b["roles"].pop(), "service/roles size"),
    ):
        changed = copy.deepcopy(body)
        change(changed)
        assert text in world.oneflow.put(f"/service/{service}", json=changed).text
    body["roles"][1]["max_vms"] = 9
    assert world.oneflow.put(f"/service/{service}", json=body).status_code == 204
    assert world.service(service).role("b")["max_vms"] == 9
    appended = {"append": True, "template": '{"labels": "x"}'}
    assert world.oneflow.put(f"/service/{service}", json=appended).status_code == 204
    assert world.service(service).body["labels"] == "x"
    fixed = {"append": True, "template": '{"name": "x"}'}
    assert "Immutable value: `service/name`" in world.oneflow.put(f"/service/{service}", json=fixed).text


def test_scheduled_policies_fire_once_when_their_time_has_come(world):
    def scheduled(body):
        body["roles"][1]["scheduled_policies"] = [
            {"type": "CARDINALITY", "adjust": 4, "start_time": str(1_700_000_000 + 120)}
        ]

    service = world.running(scheduled)
    world.clock.advance(80)
    assert len(world.vms(service, "b")) == 2, "the first look only takes the time"
    world.clock.advance(120)
    assert len(world.vms(service, "b")) == 4
    assert world.act(f"/service/{service}/action", "recover", {"delete": True}).status_code == 204


def test_a_circle_of_parents_is_never_deployed_and_can_be_removed(world):
    service = world.deploy(lambda body: body["roles"][0].update(parents=["b"]))
    world.clock.advance(600)
    assert world.state(service) == S.DEPLOYING_NETS
    assert world.oneflow.delete(f"/service/{service}").status_code == 500
    world.act(f"/service/{service}/action", "recover", {"delete": True})
    world.clock.advance(60)
    assert world.service(service) is None


def test_without_an_order_all_roles_are_deployed_at_once(world):
    service = world.deploy(lambda body: body.update(deployment="none"))
    world.clock.advance(1)
    assert len(world.compute.vms) == 3
    world.clock.advance(5)
    assert world.state(service) == S.RUNNING


def test_a_boot_failure_is_seen_at_the_poll_and_recover_boots_the_same_vm_again(world):
    service = world.deploy()
    world.clock.advance(3)
    [vm] = world.vms(service, "a")
    world.compute.recover(vm, 0)
    world.clock.advance(20)
    assert world.state(service) == S.DEPLOYING, "not before OneFlow looks"
    world.clock.advance(10)
    assert world.state(service) == S.FAILED_DEPLOYING
    assert world.act(f"/service/{service}/action", "recover").status_code == 204
    assert world.state(service) == S.FAILED_DEPLOYING, "the label stays until every role runs"
    world.clock.advance(20)
    assert world.state(service) == S.RUNNING
    assert [found.id for found in world.vms(service, "a")] == [vm.id]


def test_two_cooldowns_in_a_row_each_last_as_long_as_they_should(world):
    service = world.running()
    scale = partial(world.scale, service)
    scale(3)
    world.clock.advance(5)
    assert world.state(service) == S.COOLDOWN
    world.act(f"/service/{service}/action", "recover")
    scale(4)
    world.clock.advance(4.5)
    assert world.state(service) == S.COOLDOWN, "the first cooldown's end is not the second's"
    world.clock.advance(5)
    assert world.state(service) == S.RUNNING


def test_templates_are_cloned_shared_renamed_and_removed_with_what_they_use(world):
    number = world.create()
    path = f"/service_template/{number}"
    clone = world.act(f"{path}/action", "clone", {"name": "copy", "recursive": "templates"})
    assert clone.status_code == 201
    document = clone.json()["DOCUMENT"]
    assert (document["NAME"], document["TEMPLATE"]["BODY"]["name"]) == ("copy", "t")
    assert {role["template_id"] for role in document["TEMPLATE"]["BODY"]["roles"]} == {1}
    assert world.act(f"{path}/action", "chmod", {"octet": "640"}).status_code == 204
    assert world.act(f"{path}/action", "rename", {"name": "other"}).status_code == 204
    found = world.oneflow.get(path).json()["DOCUMENT"]
    assert (found["NAME"], found["PERMISSIONS"]["GROUP_U"], found["PERMISSIONS"]["OTHER_U"]) == ("other", "1", "0")
    assert world.act(f"{path}/action", "chown", {"owner_id": 7}).status_code == 204, "whatever comes of it"
    update = {"template_json": '{"description": "new"}', "append": True}
    assert world.act(f"{path}/action", "update", update).status_code == 204
    assert world.oneflow.get(path).json()["DOCUMENT"]["TEMPLATE"]["BODY"]["description"] == "new"
    gone = world.oneflow.request("DELETE", f"/service_template/{document['ID']}", json={"delete_type": "templates"})
    assert gone.status_code == 204
    assert set(world.compute.catalogue.templates) == {0}
    changed = world.oneflow.put(path, json=TEMPLATE | {"registration_time": 1})
    assert (changed.status_code, changed.text[:16]) == (500, "Immutable value:")


def test_networks_are_resolved_where_a_role_names_them(world):
    def with_network(body):
        body["networks"] = {"Private": "M|network|where||id:0"}
        body["roles"][0]["template_contents"] = {"NIC": [{"NETWORK_ID": "$Private"}]}

    service = world.deploy(with_network)
    assert world.service(service).body["networks_values"] == [{"Private": {"id": "0"}}]
    world.clock.advance(1)
    assert world.service(service).role("a")["template_contents"]["NIC"] == [{"NETWORK_ID": "0"}]
    template = world.create(lambda body: body.update(networks={"Private": "M|network|where"}))
    assert world.act(f"/service_template/{template}/action", "instantiate").text == "Wrong networks format"


def test_what_only_virtual_routers_have_is_not_pretended(world):
    template = world.create(lambda body: body["roles"][0].update(type="vr"))
    answer = world.act(f"/service_template/{template}/action", "instantiate")
    assert (answer.status_code, answer.text) == (501, "The local cloud does not implement virtual routers")
    service = world.running()
    vm = world.vms(service, "a")[0].id
    assert world.onegate.get("/vrouter", headers=world.headers(vm)).status_code == 400
    assert "only be retrieved from Virtual Routers" in world.onegate.get("/vnet/0", headers=world.headers(vm)).text


def test_guests_act_on_machines_of_their_own_service_only(world):
    service = world.running()
    mine, peer = world.vms(service, "a")[0].id, world.vms(service, "b")[0]

    def act(number, perform):
        body = {"action": {"perform": perform}}
        return world.onegate.post(f"/vms/{number}/action", json=body, headers=world.headers(mine))

    assert act(peer.id, "reboot").status_code == 403
    assert act(peer.id, "migrate").status_code == 501
    assert act(peer.id, "fly").status_code == 500
    assert act(peer.id, "poweroff").status_code == 204
    world.clock.advance(5)
    assert peer.parked
    alone = world.compute.instantiate(0, "", "", hold=False)
    world.clock.advance(5)
    assert act(alone.id, "poweroff").status_code == 400
    assert world.onegate.get(f"/vms/{mine}", headers=world.headers(alone.id)).status_code == 400
    assert world.onegate.get("/service", headers=world.headers(alone.id)).text == "Empty or invalid SERVICE_ID"
