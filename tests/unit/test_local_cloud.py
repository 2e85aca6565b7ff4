"""The local cloud as clients and guests see it: the real daemon, over HTTP. The tests play its machines' guests."""

from __future__ import annotations

import base64
import copy
import os
import signal
import time

import httpx
import pyone
import pytest

from oneflower.cloud import Cloud, Endpoints, Federation
from oneflower.cloud.client import RefusedError
from oneflower.local import daemon
from oneflower.local.home import LocalHome
from oneflower.template import COORDINATOR, NODES, ServiceOptions, merge_template, service_template, vm_template
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.onegate import OneGate, OneGateError
from oneflower_appliance.parameters import Bounds, resolve


class World:
    """A daemon with a service template whose machines run no guest."""

    def __init__(self, home):
        self.home = home
        self.connect()
        ids = {
            role: self.cloud.create_vm_template(
                vm_template(role, f"empty-{role}").replace(f'ONEFLOWER_ROLE="{role}"', 'X="1"')
            )
            for role in (COORDINATOR, NODES)
        }
        body = service_template(ServiceOptions(name="empty", cooldown=0, template_ids=ids))
        for role in body["roles"]:
            del role["template_contents"]["CONTEXT"]["ONEFLOWER_ROLE"]
        self.body = body
        self.template = self.cloud.create_service_template(body)

    def close(self):
        self.cloud.close()
        self.http.close()

    def reconnect(self):
        self.close()
        self.connect()

    def connect(self):
        self.daemon = daemon.connect(self.home)
        self.cloud = Cloud(Endpoints(self.daemon.oneflow, self.daemon.xmlrpc, self.daemon.auth))
        self.http = httpx.Client(
            base_url=self.daemon.oneflow, auth=tuple(self.daemon.auth.split(":", 1)), trust_env=False
        )

    def deploy(self, name, bounds=None, **settings):
        return Federation.deploy(self.cloud, lambda _: self.template, name, settings, bounds or Bounds())

    def guest(self, number):
        context = self.home.machine(number) / "context"
        return OneGate(self.daemon.onegate, (context / "token.txt").read_text(), str(number))

    def body_of(self, federation):
        return self.cloud.service(federation.id)["TEMPLATE"]["BODY"]

    def nodes(self, federation, role):
        entry = next(entry for entry in self.body_of(federation)["roles"] if entry["name"] == role)
        return [node["deploy_id"] for node in entry.get("nodes", ())]

    def until(self, condition):
        deadline = time.monotonic() + 10
        while not (result := condition()):
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.01)
        return result

    def ready(self, federation):
        """Play the guests until the service runs."""
        for role in (COORDINATOR, NODES):
            for number in self.until(lambda role=role: self.nodes(federation, role)):
                self.guest(number).publish({"FL_ROLE": role, "FL_ENDPOINT": "127.0.0.9:9092", "READY": "YES"})
        self.until(lambda: self.body_of(federation)["state"] == 2)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    home = LocalHome(tmp_path_factory.mktemp("cloud"), tmp_path_factory.mktemp("cache"))
    world = World(home)
    yield world
    for federation in list(Federation.all(world.cloud)):
        federation.delete()
    world.close()
    daemon.stop(home)


@pytest.fixture
def federation(world):
    made = world.deploy("fed")
    yield made
    Federation(world.cloud, made.id, made.name).delete()


def test_the_gate_holds_the_supernodes_until_the_superlink_is_ready(world, federation):
    [link] = world.until(lambda: world.nodes(federation, COORDINATOR))
    for text in ("NO", "yes", "TRUE", "1"):
        world.guest(link).publish({"READY": text})
    assert world.nodes(federation, NODES) == []
    assert world.body_of(federation)["state"] == 1
    started = time.monotonic()
    world.guest(link).publish({"READY": "YES"})
    assert len(world.until(lambda: world.nodes(federation, NODES))) == 2
    assert time.monotonic() - started < 5
    assert world.body_of(federation)["state"] == 1, "not running before every SuperNode is ready"
    for number in world.nodes(federation, NODES):
        world.guest(number).publish({"READY": "YES"})
    world.until(lambda: world.body_of(federation)["state"] == 2)
    messages = [line["message"] for line in world.body_of(federation)["log"]]
    states = [message for message in messages if message.startswith("New state")]
    assert states == ["New state: DEPLOYING_NETS", "New state: DEPLOYING", "New state: RUNNING"]


def test_user_inputs_reach_the_context_of_the_machines_they_are_for(world):
    made = world.deploy("inputs", FL_NUM_ROUNDS="7", FL_NODE_CONFIG='a=1 b="it\'s"', FL_LOG_LEVEL="DEBUG")
    try:
        world.ready(made)
        link, node = world.nodes(made, COORDINATOR)[0], world.nodes(made, NODES)[0]
        texts = {n: (world.home.machine(n) / "context" / "context.sh").read_text() for n in (link, node)}
        assert "FL_NUM_ROUNDS='7'" in texts[link]
        assert "FL_NUM_ROUNDS" not in texts[node]
        assert """FL_NODE_CONFIG='a=1 b="it'\\''s"'""" in texts[node]
        for text in texts.values():
            assert "FL_LOG_LEVEL='DEBUG'" in text
            assert "FLOWER_VERSION='1.41.0'" in text
        assert (world.home.machine(node) / "context" / "token.txt").stat().st_mode & 0o077 == 0
    finally:
        made.delete()


def test_what_a_guest_sees_has_the_types_of_the_real_onegate(world, federation):
    world.ready(federation)
    node = world.nodes(federation, NODES)[0]
    headers = {
        "X-ONEGATE-TOKEN": (world.home.machine(node) / "context/token.txt").read_text(),
        "X-ONEGATE-VMID": str(node),
    }
    get = lambda path: httpx.get(world.daemon.onegate + path, headers=headers, trust_env=False).json()  # noqa: E731
    vm = get("/vm")["VM"]
    assert (vm["ID"], vm["STATE"], vm["LCM_STATE"]) == (str(node), "3", "3")
    assert isinstance(vm["TEMPLATE"]["NIC"], list)
    assert vm["USER_TEMPLATE"]["SERVICE_ID"] == str(federation.id)
    service = get("/service")["SERVICE"]
    assert service["id"] == str(federation.id)
    entry = service["roles"][1]["nodes"][0]
    assert entry["deploy_id"] == node
    assert entry["running"] is None
    assert entry["vm_info"]["VM"]["ID"] == str(node)
    assert "TEMPLATE" not in entry["vm_info"]["VM"]
    for query in ("?extended=true", "?extended=false"):
        assert "USER_TEMPLATE" in get(f"/service{query}")["SERVICE"]["roles"][1]["nodes"][0]["vm_info"]["VM"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("K=a b", 200), ("K=YQ==", 200), ("A=1\nB=2", 200), ("K=http://h:1/?a=b", 200), ("data=K%3Dform&type=1", 200),
        ("K=a,b", 500), ("K=[1]", 500), ('K={"a":1}', 500), ("K=a\\b", 500), ('K="YQ=="', 500), ("K=", 500), ("K = v", 500),
        ("garbage", 500), ("A-B=1", 500), ("SERVICE_ID=9", 403), ("role_name=x", 403),
    ],
)  # fmt: skip
def test_a_put_is_read_as_the_real_onegate_reads_it(world, federation, body, status):
    [link] = world.until(lambda: world.nodes(federation, COORDINATOR))
    guest = world.guest(link)
    answer = httpx.put(f"{world.daemon.onegate}/vm", content=body, headers=guest._headers, trust_env=False)
    assert answer.status_code == status
    assert "SERVICE_ID" in guest.attributes()


def test_a_machine_cannot_be_another_ones(world, federation):
    [link] = world.until(lambda: world.nodes(federation, COORDINATOR))
    token = (world.home.machine(link) / "context" / "token.txt").read_text()
    for vm, given in ((str(link), "forged"), ("999", token), ("", token), ("x'--", token), (str(link), "")):
        with pytest.raises(OneGateError, match="refused this VM") as caught:
            OneGate(world.daemon.onegate, given, vm).attributes()
        assert not caught.value.heals
    other = world.deploy("other")
    try:
        [foreign] = world.until(lambda: world.nodes(other, COORDINATOR))
        with pytest.raises(OneGateError, match="does not contain VM"):
            world.guest(link).attributes(foreign)
    finally:
        other.delete()


def test_oneflow_wants_every_input_and_checks_no_more_than_the_real_one(world):
    def instantiate(merge):
        action = {"action": {"perform": "instantiate", "params": {"merge_template": merge}}}
        return world.http.post(f"/service_template/{world.template}/action", json=action)

    whole = merge_template("x", resolve({}), Bounds())
    for change in (
        lambda merge: merge.pop("user_inputs_values"),
        lambda merge: merge["user_inputs_values"].pop("FL_TLS_ENABLED"),
        lambda merge: merge.pop("roles"),
        lambda merge: merge["roles"][1]["user_inputs_values"].pop("ML_FRAMEWORK"),
    ):
        merge = copy.deepcopy(whole)
        change(merge)
        answer = instantiate(merge)
        assert answer.status_code == 400
        assert answer.headers["content-type"].startswith("text/plain") or "User Input" in answer.text
    outside = copy.deepcopy(whole)
    outside["roles"][1]["cardinality"] = 11
    assert instantiate(outside).status_code == 500
    assert "max_vms" in instantiate(outside).text


def test_errors_are_plain_text_and_unknown_calls_say_so(world):
    assert world.http.get("/service/4711").status_code == 404
    assert world.http.get(f"/service/{world.template}").status_code == 500
    assert world.http.get("/service/nonsense").status_code == 404
    assert world.http.post("/service_template", content="{").status_code == 400
    assert (
        world.http.post(f"/service_template/{world.template}/action", json={"action": {"perform": "clone"}}).status_code
        == 501
    )
    assert world.http.get("/vm").status_code == 501
    assert httpx.get(f"{world.daemon.oneflow}/service", trust_env=False).status_code == 401
    assert httpx.get(f"{world.daemon.oneflow}/service", auth=("oneadmin", "x"), trust_env=False).status_code == 401
    listing = world.http.get("/service_template")
    assert listing.headers["content-type"].startswith("text/html")
    assert isinstance(listing.json()["DOCUMENT_POOL"]["DOCUMENT"][0]["ID"], str)


def test_scaling_takes_the_oldest_keeps_the_bounds_and_needs_force_to_be_sent(world, federation):
    world.ready(federation)
    with pytest.raises(RefusedError, match="Maximum cardinality is 10"):
        federation.scale(11)
    with pytest.raises(RefusedError, match="Minimum cardinality is 2"):
        federation.scale(1)
    with pytest.raises(RefusedError, match="already at 2"):
        federation.scale(2)
    with pytest.raises(RefusedError, match="Maximum cardinality is 1"):
        world.cloud.scale_service(federation.id, COORDINATOR, 2)
    answer = world.http.post(f"/service/{federation.id}/scale", json={"role_name": NODES, "cardinality": 3})
    assert answer.status_code == 500
    assert "unexpected token" in answer.json()["reason"]
    first = world.nodes(federation, NODES)
    assert federation.scale(4) == []
    with pytest.raises(RefusedError, match="cannot be scaled in state: SCALING"):
        federation.scale(3)
    for number in world.until(lambda: world.nodes(federation, NODES)[2:]):
        world.guest(number).publish({"READY": "YES"})
    world.until(lambda: world.body_of(federation)["state"] == 2)
    assert [vm.id for vm in federation.scale(2)] == first
    world.until(lambda: world.body_of(federation)["state"] == 2)
    assert not set(first) & set(world.nodes(federation, NODES))


def test_delete_works_in_every_state_and_twice(world):
    made = world.deploy("doomed")
    world.until(lambda: world.nodes(made, COORDINATOR))
    assert world.http.delete(f"/service/{made.id}").status_code == 500
    made.delete()
    assert world.cloud.service(made.id) is None
    made.delete()
    with pytest.raises(OneflowerError, match="is gone") as caught:
        made.status()
    assert caught.value.code is ExitCode.NOT_FOUND


def test_a_name_can_be_used_once(world, federation):
    with pytest.raises(OneflowerError, match="already") as caught:
        world.deploy("fed")
    assert caught.value.code is ExitCode.CONFLICT
    assert len([f for f in Federation.all(world.cloud) if f.name == "fed"]) == 1


def test_an_invalid_setting_starts_nothing(world):
    before = world.http.get("/service").json()
    with pytest.raises(OneflowerError, match="FL_NUM_ROUNDS"):
        world.deploy("never", FL_NUM_ROUNDS="0")
    with pytest.raises(OneflowerError, match="supernodes: is 12"):
        world.deploy("never", Bounds(2, 10, 12))
    assert world.http.get("/service").json() == before


def test_a_vm_template_that_does_not_exist_is_named(world):
    body = copy.deepcopy(world.body) | {"name": "no template"}
    body["roles"][0]["template_id"] = 4711
    number = world.cloud.create_service_template(body)
    made = Federation.deploy(world.cloud, lambda _: number, "lost", {}, Bounds())
    try:
        with pytest.raises(OneflowerError, match="VM template 4711 of role superlink does not exist"):
            made.wait_ready(10)
    finally:
        made.delete()


def test_a_machine_that_says_why_it_is_not_ready_ends_the_waiting(world, federation):
    [link] = world.until(lambda: world.nodes(federation, COORDINATOR))
    reason = base64.b64encode(b"A port that Flower needs is already in use on this machine.").decode()
    world.guest(link).publish({"FL_ERROR": reason, "READY": "NO"})
    with pytest.raises(OneflowerError, match="superlink_0: A port that Flower needs is already in use") as caught:
        federation.wait_ready(10)
    assert caught.value.code is ExitCode.DEPLOY_FAILED


def test_waiting_has_an_end_and_notices_that_somebody_else_deleted_it(world, federation):
    with pytest.raises(OneflowerError, match="still waiting for superlink_0") as caught:
        federation.wait_ready(0.1)
    assert caught.value.code is ExitCode.TIMEOUT
    Federation(world.cloud, federation.id, "fed").delete()
    with pytest.raises(OneflowerError, match="Somebody deleted it"):
        federation.wait_ready(5)


def test_the_state_survives_kill_minus_nine(world, federation):
    world.ready(federation)
    before = world.body_of(federation)
    assert world.daemon.pid != os.getpid()
    os.kill(world.daemon.pid, signal.SIGKILL)
    world.until(lambda: daemon.find(world.home) is None)
    world.reconnect()
    assert world.body_of(federation) == before
    assert world.guest(world.nodes(federation, NODES)[0]).attributes()["READY"] == "YES"


def test_one_daemon_a_home_and_a_newer_command_replaces_an_older_daemon(world):
    assert daemon.connect(world.home).pid == world.daemon.pid
    record = world.home.record.read_text()
    assert daemon.connect(world.home).pid == world.daemon.pid
    world.home.record.write_text(record.replace('"build": "', '"build": "older-'))
    world.reconnect()
    assert f'"pid": {world.daemon.pid}' in world.home.record.read_text()
    assert f'"pid": {world.daemon.pid}' not in record


def test_an_unmodified_pyone_registers_and_reads(world, federation):
    one = pyone.OneServer(world.daemon.xmlrpc, session=world.daemon.auth)
    assert one.system.version() == "7.4.0"
    number = one.template.allocate('NAME="by pyone"\nCPU="1"\nCONTEXT=[TOKEN="YES", X="a,b"]\n')
    info = one.template.info(number)
    assert info.NAME == "by pyone"
    assert info.TEMPLATE["CONTEXT"]["X"] == "a,b"
    assert number in [template.ID for template in one.templatepool.info(-2, -1, -1).VMTEMPLATE]
    one.template.update(number, 'CPU="2"', 1)
    assert one.template.info(number).TEMPLATE["CPU"] == "2"
    one.template.delete(number)
    [link] = world.until(lambda: world.nodes(federation, COORDINATOR))
    vm = one.vm.info(link)
    assert (vm.STATE, vm.LCM_STATE) == (3, 3)
    assert vm.USER_TEMPLATE["ROLE_NAME"] == COORDINATOR
    for call in (lambda: one.template.info(number), lambda: one.vm.info(4711), lambda: one.host.info(0)):
        with pytest.raises(pyone.OneException):
            call()
    with pytest.raises(pyone.OneException):
        pyone.OneServer(world.daemon.xmlrpc, session="oneadmin:wrong").system.version()


def test_garbage_is_answered_and_not_stumbled_over(world):
    answer = httpx.post(world.daemon.xmlrpc, content=b"<methodCall><x", trust_env=False)
    assert "faultCode" in answer.text
    for content in (
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b'{"action":3}',
        b'{"action":{"perform":"instantiate","params":7}}',
    ):
        for path in ("/service_template", f"/service_template/{world.template}/action", "/service/1/scale"):
            assert world.http.post(path, content=content).status_code in (400, 404, 500, 501)


def test_credentials_are_for_their_owner_only(world):
    assert world.home.record.stat().st_mode & 0o077 == 0
    assert world.home.state.stat().st_mode & 0o077 == 0
