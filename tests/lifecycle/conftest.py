"""A cloud whose machines run no guest: the tests act as the guests, through OneGate.

By default it is the local cloud, in a daemon of its own. With ONEFLOWER_TEST_CLOUD=opennebula it is the OpenNebula that
ONE_XMLRPC, ONEFLOW_URL and ONE_AUTH name; ONEFLOWER_TEST_NETWORK names a network for the machines, if they need one.
ONEFLOWER_TEST_ONEGATE is the address at which the tests reach OneGate, if it differs from the one that machines get: a
guest trusts a OneGate on loopback only if it belongs to root or to the user who runs the tests. ONEFLOWER_TEST_PATIENCE
is the number of seconds that the cloud may take for one step.
"""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from oneflower.cloud import Cloud, Endpoints, Federation, opennebula_endpoints
from oneflower.cloud.surroundings import Installed
from oneflower.local import daemon
from oneflower.local.home import LocalHome
from oneflower.opennebula import (
    COORDINATOR,
    NODES,
    ServiceKind,
    ServiceOptions,
    VmOptions,
    render,
    service_template,
    vm_template,
)
from oneflower.opennebula.tokens import make_token
from oneflower_appliance.agent.onegate import OneGate
from oneflower_appliance.parameters import FLOWER_TESTED

ON_OPENNEBULA = os.environ.get("ONEFLOWER_TEST_CLOUD") == "opennebula"
PATIENCE = float(os.environ.get("ONEFLOWER_TEST_PATIENCE", "180" if ON_OPENNEBULA else "15"))


class Surroundings:
    """Deploys from the templates of the tests."""

    def __init__(self, folder):
        self.number, self.folder = -1, folder

    def template(self, _cloud):
        return self.number

    def prepare(self, *_):
        pass

    def console(self, *_):
        return []

    def audit(self):
        return self.folder / "audit"

    def tail(self, _vm):
        return None

    def journal(self, ip):
        return f"Look on {ip}."

    def revive(self):
        return None

    def when_unreachable(self, variable):
        return f"Check {variable}."

    def pins(self):
        return self.folder / "pins"

    def installed(self, status):
        return Installed({"flwr": status.version, "numpy": "2.3.5"})

    def flwr(self, *_):
        return Path("flwr"), dict.fromkeys(["flwr", "numpy", "pillow", "scikit-learn"], "")

    def needs(self, *_):
        return ()

    def reach(self, status):
        raise AssertionError(f"somebody connects to {status.control}")


class World:
    """The cloud under test, with templates under the tests' own name."""

    def __init__(self, endpoints):
        self.cloud = Cloud(endpoints, Surroundings(Path(tempfile.mkdtemp(prefix="oneflower-test-"))))
        self.http = httpx.Client(base_url=endpoints.oneflow, auth=endpoints.login, trust_env=False, timeout=30)
        self.gate = httpx.Client(trust_env=False)
        self.prefix = f"oneflower-test-{secrets.token_hex(3)}"
        self.password = self.cloud.core.own_settings()["TOKEN_PASSWORD"]
        self.vm_templates = {
            role: self.cloud.core.create_vm_template(self.empty_machine(role)) for role in (COORDINATOR, NODES)
        }
        self.template = self.register(service_template(self.options))

    @property
    def options(self):
        return ServiceOptions(name=self.prefix, cooldown=1, template_ids=self.vm_templates)

    def register(self, body):
        for role in body["roles"]:
            if "template_contents" in role:
                role["template_contents"]["CONTEXT"].pop("ONEFLOWER_ROLE", None)
        self.cloud.surroundings.number = self.cloud.oneflow.create_service_template(body)
        return self.cloud.surroundings.number

    def empty_machine(self, role):
        network = os.environ.get("ONEFLOWER_TEST_NETWORK")
        template = vm_template(role, VmOptions(0.1, 64, str(self.cloud.core.networks()[network]) if network else ""))
        for key in ("CPU_MODEL", "HYPERVISOR"):
            del template[key]
        del template["CONTEXT"]["ONEFLOWER_ROLE"]
        return render({"NAME": f"{self.prefix}-{role}", **template})

    @contextmanager
    def template_with(self, change=lambda _: None, kind=ServiceKind.FEDERATION):
        """Deploy from a changed template, or from that of another kind, for a while."""
        body = service_template(replace(self.options, kind=kind)) | {"name": f"{self.prefix}-changed"}
        change(body)
        usual = self.cloud.surroundings.number
        number = self.register(body)
        try:
            yield number
        finally:
            self.cloud.surroundings.number = usual
            self.cloud.oneflow.delete_service_template(number)

    def close(self):
        for federation in Federation.all(self.cloud):
            if federation.name.startswith(self.prefix):
                federation.delete(PATIENCE)
        for document in self.cloud.oneflow.service_templates():
            if document["NAME"].startswith(self.prefix):
                self.cloud.oneflow.delete_service_template(int(document["ID"]))
        for name, number in self.cloud.core.vm_templates().items():
            if name.startswith(self.prefix):
                self.cloud.core.delete_vm_template(number)
        self.cloud.close()
        self.http.close()
        self.gate.close()
        shutil.rmtree(self.cloud.surroundings.folder, ignore_errors=True)

    def begin(self, name="fed", bounds=None, **settings):
        return Federation.begin(self.cloud, f"{self.prefix}-{name}", settings, bounds)

    @contextmanager
    def federation(self, name="fed", bounds=None, **settings):
        made = self.begin(name, bounds, **settings)
        try:
            yield made
        finally:
            Federation(self.cloud, made.id, made.name).delete(PATIENCE)

    def body(self, federation):
        document = self.cloud.oneflow.service(federation.id)
        return document["TEMPLATE"]["BODY"] if document else {"state": 5, "roles": [], "log": []}

    def state(self, federation):
        return self.body(federation)["state"]

    def role(self, federation, name):
        return next((role for role in self.body(federation)["roles"] if role["name"] == name), {})

    def nodes(self, federation, role):
        return [node["deploy_id"] for node in self.role(federation, role).get("nodes") or ()]

    def until(self, condition, patience=PATIENCE):
        deadline = time.monotonic() + patience
        while not (result := condition()):
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.5 if ON_OPENNEBULA else 0.01)
        return result

    def context(self, vm):
        return self.cloud.core.vm_context(vm)

    def onegate(self, vm):
        return os.environ.get("ONEFLOWER_TEST_ONEGATE") or self.context(vm)["ONEGATE_ENDPOINT"]

    def token(self, vm):
        return make_token(self.password, vm, self.cloud.core.vm(vm).started)

    def guest(self, vm):
        """Return OneGate as the guest of a VM sees it."""
        return OneGate(self.onegate(vm), self.token(vm), str(vm))

    def headers(self, vm):
        return {"X-ONEGATE-TOKEN": self.token(vm), "X-ONEGATE-VMID": str(vm)}

    def raw(self, vm, method, path, **arguments):
        """Send a request to OneGate as the guest of a VM, without our client."""
        headers = self.headers(vm) | arguments.pop("headers", {})
        return self.gate.request(method, self.onegate(vm) + path, headers=headers, **arguments)

    def report(self, vm, **values):
        self.until(lambda: (found := self.cloud.core.vm(vm)) and (found.state, found.lcm_state) == (3, 3))
        self.guest(vm).publish(values or {"FL_ENDPOINT": "127.0.0.9:9092", "FL_VERSION": FLOWER_TESTED, "READY": "YES"})

    def ready(self, federation):
        """Act as the guests until the service runs."""
        for role in ServiceKind.of(self.body(federation)).roles:
            for vm in self.until(lambda role=role: self.nodes(federation, role)):
                if self.cloud.core.vm(vm).attributes.get("READY") != "YES":
                    self.report(vm)
        self.until(lambda: self.state(federation) == 2)

    @contextmanager
    def guests(self, silent=()):
        """Act as every guest of our federations, while the test does something else.

        Those of a `silent` role, or of a (role, release of Flower), say nothing.
        """
        stop = threading.Event()

        def play():
            mine = World.__new__(World)
            mine.__dict__ |= self.__dict__ | {"cloud": Cloud(self.cloud.endpoints, self.cloud.surroundings)}
            while not stop.wait(0.02):
                for federation in Federation.all(mine.cloud):
                    if federation.name.startswith(self.prefix):
                        mine.play(federation, silent)
            mine.cloud.close()

        thread = threading.Thread(target=play, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(PATIENCE)

    def play(self, federation, silent):
        document = self.cloud.oneflow.service(federation.id)
        roles = document["TEMPLATE"]["BODY"]["roles"] if document else ()
        numbers = {node["deploy_id"]: role["name"] for role in roles for node in role.get("nodes") or ()}
        for vm, found in self.cloud.core.vms(numbers).items():
            running, release = (found.state, found.lcm_state) == (3, 3), found.context["FLOWER_VERSION"]
            mute = numbers[vm] in silent or (numbers[vm], release) in silent
            if running and not mute and found.attributes.get("READY") != "YES":
                self.guest(vm).publish({"FL_ENDPOINT": "127.0.0.9:9092", "FL_VERSION": release, "READY": "YES"})


def say_why(text):
    """Return an FL_ERROR."""
    return base64.b64encode(text.encode()).decode()


@pytest.fixture(scope="package")
def world(tmp_path_factory):
    if ON_OPENNEBULA:
        made, home = World(opennebula_endpoints()), None
    else:
        home = LocalHome(tmp_path_factory.mktemp("cloud"), tmp_path_factory.mktemp("cache"))
        found = daemon.connect(home)
        made = World(Endpoints(found.oneflow, found.xmlrpc, found.auth, direct=True))
    yield made
    made.close()
    if home:
        daemon.stop(home)


@pytest.fixture
def federation(world):
    with world.federation() as made:
        yield made
