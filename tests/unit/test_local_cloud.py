"""The local cloud as clients and guests see it: the real daemon, over HTTP. The tests act as the guests."""

from __future__ import annotations

import copy
import os
import signal
import time

import httpx
import pyone
import pytest

from oneflower.cloud import Cloud, Endpoints, Federation
from oneflower.local import daemon
from oneflower.local.home import LocalHome
from oneflower.opennebula import COORDINATOR, NODES, ServiceOptions, render, service_template, vm_template
from oneflower_appliance.agent.onegate import OneGate
from oneflower_appliance.settings import Bounds


def empty_machine(role):
    """A VM template whose machines run no guest."""
    template = vm_template(role)
    del template["CONTEXT"]["ONEFLOWER_ROLE"]
    return render({"NAME": f"empty-{role}", **template})


class Surroundings:
    """Deploys from one template."""

    def __init__(self, number):
        self.number = number

    def template(self, _cloud):
        return self.number

    def prepare(self, *_):
        pass

    def revive(self):
        return None

    def audit(self):
        return LocalHome.of_user().state / "audit"

    def when_unreachable(self, variable):
        return f"Check {variable}."


class World:
    """A daemon with a service template whose machines run no guest."""

    def __init__(self, home):
        self.home = home
        self.connect()
        ids = {role: self.cloud.core.create_vm_template(empty_machine(role)) for role in (COORDINATOR, NODES)}
        body = service_template(ServiceOptions(name="empty", cooldown=0, template_ids=ids))
        for role in body["roles"]:
            del role["template_contents"]["CONTEXT"]["ONEFLOWER_ROLE"]
        self.body = body
        self.template = self.cloud.surroundings.number = self.cloud.oneflow.create_service_template(body)

    def close(self):
        self.cloud.close()
        self.http.close()

    def reconnect(self):
        self.close()
        self.connect()

    def connect(self):
        self.daemon = daemon.connect(self.home)
        endpoints = Endpoints(self.daemon.oneflow, self.daemon.xmlrpc, self.daemon.auth, direct=True)
        self.cloud = Cloud(endpoints, Surroundings(getattr(self, "template", None)))
        self.http = httpx.Client(
            base_url=self.daemon.oneflow, auth=tuple(self.daemon.auth.split(":", 1)), trust_env=False
        )

    def deploy(self, name, bounds=None, **settings):
        return Federation.begin(self.cloud, name, settings, bounds or Bounds())

    def token(self, number):
        return (self.home.machine(number) / "context" / "token.txt").read_text()

    def guest(self, number):
        return OneGate(self.daemon.onegate, self.token(number), str(number))

    def body_of(self, federation):
        return self.cloud.oneflow.service(federation.id)["TEMPLATE"]["BODY"]

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
        """Act as the guests until the service runs."""
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


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("K=a b", 200), ("K=YQ==", 200), ("A=1\nB=2", 200), ("K=http://h:1/?a=b", 200), ("data=K%3Dform&type=1", 200),
        ("K=a,b", 500), ("K=[1]", 500), ('K={"a": 1}', 500), ('K="YQ=="', 500), ('K = "v"', 500), ('K=say "hi" x', 500),
        ("garbage", 500), ("A-B=1", 500), ("SERVICE_ID=9", 403), ("role_name=x", 403),
    ],
)  # fmt: skip
def test_a_put_is_read_as_the_real_onegate_reads_it(world, federation, body, status):
    [link] = world.until(lambda: world.nodes(federation, COORDINATOR))
    guest = world.guest(link)
    headers = {"X-ONEGATE-TOKEN": world.token(link), "X-ONEGATE-VMID": str(link)}
    answer = httpx.put(f"{world.daemon.onegate}/vm", content=body, headers=headers, trust_env=False)
    assert answer.status_code == status
    assert "SERVICE_ID" in guest.attributes()


def test_errors_are_plain_text_and_unknown_calls_say_so(world):
    assert world.http.get("/service/4711").status_code == 404
    assert world.http.get(f"/service/{world.template}").status_code == 500
    assert world.http.get("/service/nonsense").status_code in (404, 500), "read as 0"
    assert world.http.post("/service_template", content="{").status_code == 400
    assert world.http.get("/vm").status_code == 404
    assert httpx.get(f"{world.daemon.oneflow}/service", trust_env=False).status_code == 401
    assert httpx.get(f"{world.daemon.oneflow}/service", auth=("oneadmin", "x"), trust_env=False).status_code == 401
    listing = world.http.get("/service_template")
    assert listing.headers["content-type"].startswith("text/html")
    assert isinstance(listing.json()["DOCUMENT_POOL"]["DOCUMENT"][0]["ID"], str)


def test_what_the_real_oneflow_loses_is_lost_here_too_and_the_log_says_why(world):
    body = copy.deepcopy(world.body) | {"name": "no template"}
    body["roles"][0]["template_id"] = 4711
    world.cloud.surroundings.number = world.cloud.oneflow.create_service_template(body)
    made = world.deploy("lost")
    world.cloud.surroundings.number = world.template
    try:
        world.until(lambda: f"service {made.id} stays DEPLOYING_NETS forever" in world.home.log.read_text())
        assert world.body_of(made)["state"] == 11
    finally:
        made.delete()


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
    for call in (
        lambda: one.template.info(number),
        lambda: one.vm.info(4711),
        lambda: one.host.allocate("h", "kvm", "kvm"),
    ):
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
