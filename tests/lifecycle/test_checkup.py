"""`oneflower --cloud opennebula doctor`: what it finds on the local cloud, and in answers of other installations."""

from __future__ import annotations

import json
import re
import secrets
from xml.etree import ElementTree

import pyone
import pytest
from typer.testing import CliRunner

from oneflower.cli.app import app
from oneflower.cloud import Cloud, Endpoints
from oneflower.cloud.checkup import checkup
from oneflower.cloud.image_source import ImageFacts
from oneflower.cloud.register import Registration, Wishes
from oneflower.cloud.registered import unregister
from oneflower.cloud.site import Site
from oneflower.opennebula import COORDINATOR, NODES, VmOptions, render
from oneflower_appliance import __version__
from oneflower_appliance.checks import FAIL, OK, WARN
from oneflower_appliance.errors import ExitCode

from .conftest import ON_OPENNEBULA

pytestmark = pytest.mark.skipif(ON_OPENNEBULA, reason="what an OpenNebula has is not known here")


@pytest.fixture
def name(world):
    chosen = f"{world.prefix}-look"
    yield chosen
    unregister(world.cloud, chosen)


@pytest.fixture
def tenant(world):
    """An ordinary user's cloud."""
    endpoints = world.cloud.endpoints
    who = f"tenant-{secrets.token_hex(3)}"
    one = pyone.OneServer(endpoints.xmlrpc, session=endpoints.session)
    number = one.user.allocate(who, "secret", "core", [])
    cloud = Cloud(
        Endpoints(endpoints.oneflow, endpoints.xmlrpc, f"{who}:secret", direct=True), world.cloud.surroundings
    )
    yield cloud
    cloud.close()
    one.user.delete(number)


def found(cloud, name="oneflower"):
    checks = list(checkup(cloud, name))
    assert all(check.fix for check in checks if check.status == FAIL), "each problem says how to fix it"
    return {check.what: check for check in checks}


def answers(world, monkeypatch, **xml):
    """Let the core answer some calls as another installation would."""
    read = world.cloud.core.read

    def instead(method, *parameters):
        key = method.removeprefix("one.").replace(".", "_")
        return ElementTree.fromstring(xml[key]) if key in xml else read(method, *parameters)

    monkeypatch.setattr(world.cloud.core, "read", instead)
    return found(world.cloud)


def test_it_looks_at_everything_and_changes_nothing(world, name):
    before = world.cloud.core.vm_templates(), world.cloud.core.images(), world.cloud.oneflow.service_templates()
    checks = found(world.cloud, name)
    assert {what: checks[what].status for what in ("OpenNebula", "OneFlow", "rights", "datastore default", "quotas")} == {
        "OpenNebula": OK, "OneFlow": OK, "rights": OK, "datastore default": OK, "quotas": OK,
    }  # fmt: skip
    assert checks["OneGate"].status == FAIL
    assert "loopback" in checks["OneGate"].detail
    assert "ONEGATE_ENDPOINT" in checks["OneGate"].fix
    assert checks["registered"].status == WARN
    assert "register" in checks["registered"].fix
    assert "takes images from" in checks["datastore default"].detail
    assert (
        world.cloud.core.vm_templates(),
        world.cloud.core.images(),
        world.cloud.oneflow.service_templates(),
    ) == before


def test_what_is_registered_is_looked_at_down_to_the_image(world, name):
    image = world.cloud.core.create_image(render({"NAME": f"{name}-os", "TYPE": "DATABLOCK", "SIZE": "1"}), 1)
    network = next(iter(world.cloud.core.networks()))

    def register(**options):
        machines = {role: VmOptions(**options) for role in (COORDINATOR, NODES)}
        Registration(world.cloud, Wishes(name, machines)).apply()

    register()
    assert "has no image to boot from" in found(world.cloud, name)["machines of supernode"].detail
    register(image=f"{name}-os")
    assert "has no network" in found(world.cloud, name)["machines of supernode"].detail
    register(network=network)
    assert found(world.cloud, name)["machines of supernode"].status == OK
    server = pyone.OneServer(world.cloud.endpoints.xmlrpc, session=world.cloud.endpoints.session)
    server.image.update(image, render(ImageFacts(release="0.0.9").attributes(name)), 1)
    older = found(world.cloud, name)["machines of supernode"]
    assert (older.status, older.detail) == (WARN, f"image {name}-os: oneflower 0.0.9, older than {__version__} here")
    server.image.enable(image, False)
    assert f"image {name}-os is DISABLED" in found(world.cloud, name)["machines of superlink"].detail
    world.cloud.core.delete_image(image)
    assert f"image {image} is gone" in found(world.cloud, name)["machines of superlink"].detail


def test_a_tenant_sees_what_a_tenant_may(world, tenant, name):
    checks = found(tenant, name)
    assert "GPU and serial console need an administrator" in checks["rights"].detail
    assert checks["registered"].status == WARN
    assert Site(tenant).may_create() == {}
    mine = pyone.OneServer(tenant.endpoints.xmlrpc, session=tenant.endpoints.session)
    assert mine.templatepool.info(-3, -1, -1).VMTEMPLATE == []
    assert mine.imagepool.info(-3, -1, -1).IMAGE == [], "nothing is left of trying"


def test_what_a_user_may_not_create_is_named_with_the_rule_that_allows_it(world, monkeypatch):
    user = "<USER><ID>7</ID><GID>100</GID><GNAME>guests</GNAME><NAME>bob</NAME><GROUPS><ID>100</ID></GROUPS><TEMPLATE/></USER>"
    monkeypatch.setattr(Site, "may_create", lambda _: {"images": "User [7] : Not authorized to perform CREATE IMAGE."})
    group = "<GROUP><ID>100</ID><NAME>guests</NAME></GROUP>"
    checks = answers(world, monkeypatch, user_info=user, group_info=group)
    everything = list(checkup(world.cloud, "x"))
    assert ["bob in the group guests may not create images" in check.detail for check in everything].count(True) == 1
    assert any("oneacl create '#7 IMAGE/* CREATE'" in check.fix for check in everything)
    assert checks["SSH"].status == WARN


@pytest.mark.parametrize(
    ("endpoint", "status", "text"),
    [
        ("", FAIL, "has no ONEGATE_ENDPOINT"),
        ("http://localhost:5030", FAIL, "loopback"),
        ("http://127.0.0.1:5030", FAIL, "loopback"),
        ("http://[::1]:5030", FAIL, "loopback"),
        ("http://0.0.0.0:5030", FAIL, "is not an address"),
        ("http://169.254.16.9:5030", WARN, "onegate-proxy"),
        ("http://10.0.0.1:5030", OK, "http://10.0.0.1:5030"),
        ("https://gate.example.org", OK, "https://gate.example.org"),
    ],
)
def test_onegate_is_where_machines_can_reach_it(world, monkeypatch, endpoint, status, text):
    xml = f"<OPENNEBULA_CONFIGURATION><ONEGATE_ENDPOINT>{endpoint}</ONEGATE_ENDPOINT></OPENNEBULA_CONFIGURATION>"
    check = answers(world, monkeypatch, system_config=xml)["OneGate"]
    assert (check.status, text in check.detail) == (status, True)


# What the probes of OpenNebula 7.4 report (im_mad/remotes/kvm-probes.d/host/system).
DUMMY = "486 pentium core2duo qemu32 kvm32 kvm64 Conroe Penryn Nehalem Nehalem-IBRS Westmere SandyBridge Opteron_G1"
OLD = "486 pentium core2duo qemu32 kvm32 kvm64 Conroe Penryn Opteron_G1 Opteron_G2"
FEATURES = "vme,ds,acpi,ss,ht,pni,ssse3,cx16,sse4.1,sse4.2,popcnt,lahf_lm,aes,xsave,avx"


@pytest.mark.parametrize(
    ("state", "template", "what", "status", "text"),
    [
        (2, f"<KVM_CPU_MODELS>{DUMMY}</KVM_CPU_MODELS>", "host h", OK, "kvm, with x86-64-v2"),
        (2, f"<KVM_CPU_FEATURES>{FEATURES}</KVM_CPU_FEATURES>", "host h", OK, "kvm, with x86-64-v2"),
        (2, f"<KVM_CPU_MODELS>{OLD}</KVM_CPU_MODELS>", "host h", FAIL, "lack x86-64-v2"),
        (2, "", "host h", WARN, "does not say"),
        (3, "", "hosts", FAIL, "none of 1 is up"),
    ],
)
def test_the_processors_of_hosts_are_looked_at(world, monkeypatch, state, template, what, status, text):
    inner = f"<HYPERVISOR>kvm</HYPERVISOR>{template}"
    xml = f"<HOST_POOL><HOST><ID>0</ID><NAME>h</NAME><STATE>{state}</STATE><TEMPLATE>{inner}</TEMPLATE></HOST></HOST_POOL>"
    check = answers(world, monkeypatch, hostpool_info=xml)[what]
    assert (check.status, text in check.detail) == (status, True)


@pytest.mark.parametrize(
    ("size", "used", "template", "status", "text"),
    [
        (10, 9, "<GATEWAY>10.0.0.1</GATEWAY><DNS>10.0.0.2</DNS>", WARN, "1 addresses are free"),
        (10, 2, "<GATEWAY>10.0.0.1</GATEWAY><DNS>10.0.0.2</DNS>", OK, "8 addresses are free; gateway 10.0.0.1"),
        (10, 2, "<GATEWAY>10.0.0.1</GATEWAY>", WARN, "it has no DNS"),
        (10, 2, "", WARN, "it has no GATEWAY and DNS"),
    ],
)
def test_networks_have_addresses_a_gateway_and_dns(world, monkeypatch, size, used, template, status, text):
    ranges = f"<AR_POOL><AR><SIZE>{size}</SIZE></AR></AR_POOL>"
    inner = f"<ID>0</ID><NAME>n</NAME><USED_LEASES>{used}</USED_LEASES>{ranges}<TEMPLATE>{template}</TEMPLATE>"
    check = answers(world, monkeypatch, vnpool_info=f"<VNET_POOL><VNET>{inner}</VNET></VNET_POOL>")["network n"]
    assert (check.status, text in check.detail) == (status, True)


def test_full_datastores_quotas_and_views_are_named(world, monkeypatch):
    store = "<DATASTORE><ID>{}</ID><NAME>{}</NAME><TYPE>{}</TYPE><FREE_MB>{}</FREE_MB><TEMPLATE/></DATASTORE>"
    stores = store.format(1, "images", 0, 100) + store.format(0, "system", 1, 0)
    limits = "<VM_QUOTA><VM><VMS>5</VMS><VMS_USED>4</VMS_USED><CPU>-1</CPU><CPU_USED>2</CPU_USED><MEMORY>-2</MEMORY></VM></VM_QUOTA>"
    usual = "<DEFAULT_USER_QUOTAS><VM_QUOTA><VM><CPU>8</CPU></VM></VM_QUOTA></DEFAULT_USER_QUOTAS>"
    key = "<TEMPLATE><SSH_PUBLIC_KEY>ssh-ed25519 x</SSH_PUBLIC_KEY></TEMPLATE>"
    user = f"<USER><ID>0</ID><GID>0</GID><GNAME>oneadmin</GNAME><NAME>bob</NAME><GROUPS/>{key}{limits}{usual}</USER>"
    views = "<TEMPLATE><FIREEDGE><VIEWS>groupadmin,user,cloud</VIEWS></FIREEDGE></TEMPLATE>"
    groups = f"<GROUP_POOL><GROUP><ID>1</ID><NAME>users</NAME>{views}</GROUP><GROUP><ID>5</ID><NAME>x</NAME></GROUP></GROUP_POOL>"
    checks = answers(
        world,
        monkeypatch,
        datastorepool_info=f"<DATASTORE_POOL>{stores}</DATASTORE_POOL>",
        user_info=user,
        grouppool_info=groups,
    )
    assert checks["datastore images"].status == FAIL
    assert "hosts" in checks["datastore system"].detail
    assert "1 more machines for user bob" in checks["quotas"].detail
    left = {(quota.whose, quota.what): quota.left for quota in Site(world.cloud).quotas()}
    assert left == {("user bob", "VMS"): 1, ("user bob", "CPU"): 6}
    assert (checks["view of users"].status, checks["view of x"].status) == (OK, WARN)
    assert "SSH_PUBLIC_KEY" not in checks["SSH"].fix


def test_what_does_not_answer_is_one_line_and_the_exit_code_tells(world, monkeypatch):
    endpoints = world.cloud.endpoints
    monkeypatch.setenv("ONE_XMLRPC", endpoints.xmlrpc)
    monkeypatch.setenv("ONEFLOW_URL", endpoints.oneflow)
    monkeypatch.setenv("ONEFLOW_USER", endpoints.session.partition(":")[0])
    monkeypatch.setenv("ONEFLOW_PASSWORD", endpoints.session.partition(":")[2])
    command = ["--cloud", "opennebula", "doctor"]
    done = CliRunner().invoke(app, [*command, "-o", "json"])
    assert done.exit_code == ExitCode.CLOUD
    told = json.loads(done.stdout)
    assert {"status", "what", "detail", "fix"} == set(told[0])
    text = CliRunner().invoke(app, command).stdout
    assert re.search(r"^ok +OpenNebula +7.4.0", text, re.MULTILINE)
    assert "fail OneGate: In /etc/one/oned.conf" in text
    monkeypatch.setenv("ONE_XMLRPC", "http://127.0.0.1:1/RPC2")
    [context, only] = json.loads(CliRunner().invoke(app, [*command, "-o", "json"]).stdout)
    assert (context["what"], context["detail"]) == ("context", "opennebula: cloud opennebula, as the environment says")
    assert (only["status"], "cannot be reached" in only["detail"]) == (FAIL, True)
    assert only["fix"]
