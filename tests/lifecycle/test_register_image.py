"""Registering an image that was built: from its manifest to the templates, again, and with a newer one."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path

import httpx
import pyone
import pytest

from oneflower.cli.image_option import ImageOption, volume
from oneflower.cloud import Cloud, Endpoints
from oneflower.cloud.image_refused import is_front_end, not_made
from oneflower.cloud.image_source import ImageSource
from oneflower.cloud.register import Registration, Wishes
from oneflower.cloud.registered import template_names, unregister
from oneflower.opennebula import COORDINATOR, NODES, ServiceKind, VmOptions, render
from oneflower.opennebula.states import ImageState
from oneflower_appliance.errors import ExitCode, OneflowerError

from .conftest import ON_OPENNEBULA

pytestmark = pytest.mark.skipif(ON_OPENNEBULA, reason="whether OpenNebula can read the files is up to its datastore")
GIGABYTE = 1 << 30
SAFE = "/var/tmp"  # noqa: S108 - what a new datastore allows


@pytest.fixture
def name(world):
    chosen = f"{world.prefix}-img"
    yield chosen
    unregister(world.cloud, chosen)


@pytest.fixture
def folder():
    """A folder from which a datastore of OpenNebula takes images."""
    made = Path(tempfile.mkdtemp(prefix="oneflower-test-", dir=SAFE))
    yield made
    shutil.rmtree(made)


def build(folder, variant="sklearn", framework="sklearn", flower="1.41.0", content=b"one", driver=""):
    """Write what `oneflower image build` writes; of the image only the head."""
    folder.mkdir(exist_ok=True)
    head = b"QFI\xfb" + b"\0" * 20 + (4 * GIGABYTE).to_bytes(8, "big") + content
    title = f"oneflower-{variant}-flwr-{flower}"
    image = folder / f"{title}.qcow2"
    image.write_bytes(head)
    needs = {"sklearn": (2, 2048, 8192), "pytorch": (2, 4096, 16384)}[framework]
    about = {
        "name": title, "file": image.name, "variant": variant, "framework": framework,
        "versions": {"flwr": flower, "oneflower": "0.1.0"} | ({"nvidia": driver} if driver else {}), "created": 1767225600,
        "size": len(head), "disk": 4 * GIGABYTE, **dict(zip(("cpu", "memory_mb", "disk_mb"), needs, strict=True)),
        "md5": md5_of(image), "sha256": hashlib.sha256(head).hexdigest(),
    }  # fmt: skip
    image.with_suffix(".json").write_text(json.dumps(about))
    return image


def md5_of(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def server(world):
    """Return the core as pyone sees it."""
    endpoints = world.cloud.endpoints
    return pyone.OneServer(endpoints.xmlrpc, session=endpoints.session)


def option(world, image, manifest=""):
    return ImageOption(world.cloud, str(image), str(manifest))


def register(world, name, image="", *, said=None, dry_run=False, group="", **changes):
    sources, names = option(world, image).of_roles({COORDINATOR: ("", ""), NODES: ("", "")})
    machines = {role: VmOptions(image=names.get(role, ""), **changes) for role in (COORDINATOR, NODES)}
    wishes = Wishes(name, machines, sources, group=group)
    return Registration(world.cloud, wishes, dry_run=dry_run, notify=(said if said is not None else []).append).apply()


def texts(done):
    return [str(change) for change in done.changes]


def alike(planned, done):
    """Whether a dry run said what was then done, but for ids."""
    ids = re.compile(r'(?<="IMAGE_ID": ")[^"]*|(?<=template_id )[-0-9]+ -> [-0-9]+')
    return [ids.sub("", text) for text in texts(planned)] == [ids.sub("", text) for text in texts(done)]


def bodies(world, done):
    found = {d["ID"]: d["TEMPLATE"]["BODY"] for d in world.cloud.oneflow.service_templates()}
    return found[str(done.templates[ServiceKind.FEDERATION])], found[str(done.forms[ServiceKind.FEDERATION])]


def vm_template(world, done, role):
    return world.cloud.core.vm_template(done.vm_templates[role])


def images_of(world, name):
    return {image: number for image, number in world.cloud.core.images().items() if image.startswith(name)}


def test_an_image_gives_the_templates_what_it_needs_and_what_it_has(world, name, folder):
    image = build(folder, "pytorch", "pytorch", "1.42.0")
    planned = register(world, name, folder, dry_run=True)
    assert images_of(world, name) == {}
    done = register(world, name, folder)
    assert alike(planned, done)
    [(title, number)] = images_of(world, name).items()
    digest = hashlib.sha256(f"md5:{md5_of(image)}".encode()).hexdigest()[:8]
    assert title == f"{name}-pytorch-flwr-1.42.0-{digest}", "one for both roles"
    stored = world.cloud.core.image(number)
    assert (stored.state, stored.size) == (ImageState.READY, 4096)
    for role, second in ((COORDINATOR, "ONEFLOWER_CHECKPOINTS"), (NODES, "ONEFLOWER_DATA")):
        template = vm_template(world, done, role)
        assert template["DISK"] == {"IMAGE_ID": str(number), "DEV_PREFIX": "vd", "SIZE": "16384"}
        assert (template["CPU"], template["VCPU"], template["MEMORY"]) == ("2", "2", "4096")
        assert template["CPU_MODEL"] == {"MODEL": "host-passthrough"}
        assert template["OS"] == {"ARCH": "x86_64", "BOOT": "disk0"}, "UEFI only with a GPU"
        assert template["GRAPHICS"]["RANDOM_PASSWD"] == "YES"
        assert "serial" in template["RAW"]["DATA"], "oneadmin may"
        assert second not in template["CONTEXT"]
    levels, form = bodies(world, done)
    assert levels["user_inputs"]["FLOWER_VERSION"].endswith("|1.42.0")
    assert levels["roles"][1]["user_inputs"]["ML_FRAMEWORK"].endswith("|pytorch|pytorch")
    assert levels["roles"][1]["user_inputs_values"]["ML_FRAMEWORK"] == "pytorch"
    assert form["user_inputs"]["ONEAPP_FLOWER_TRAINING_FRAMEWORK"].endswith("|pytorch|pytorch")
    assert {role["template_contents"]["CONTEXT"]["FLOWER_VERSION"] for role in form["roles"]} == {"1.42.0"}
    assert register(world, name, folder).changes == (), "again"
    assert register(world, name).changes == (), "and without naming the image"
    assert register(world, name, title).changes == (), "and by its name"
    assert done.diskless == ()


def test_up_takes_the_defaults_of_the_template_that_is_registered(world, name, folder, monkeypatch):
    build(folder, "pytorch", "pytorch", "1.42.0")
    done = register(world, name, folder)
    prepared, asked = [], []

    def instantiate(_number, merge):
        asked.append(merge)
        raise OneflowerError("Enough is known.")

    monkeypatch.setattr(world.cloud.surroundings, "prepare", lambda *said: prepared.append(said[:2]))
    monkeypatch.setattr(world.cloud.oneflow, "instantiate", instantiate)
    for number in (done.templates[ServiceKind.FEDERATION], done.forms[ServiceKind.FEDERATION]):
        monkeypatch.setattr(world.cloud.surroundings, "number", number)
        with pytest.raises(OneflowerError, match="Enough is known"):
            world.begin("defaults", FL_USE_CASE="llm-fine-tuning")
    assert prepared == [("1.42.0", "pytorch")] * 2
    levels, form = asked
    assert levels["user_inputs_values"]["FLOWER_VERSION"] == "1.42.0"
    assert levels["roles"][1]["user_inputs_values"]["ML_FRAMEWORK"] == "pytorch"
    assert form["user_inputs_values"]["ONEAPP_FLOWER_TRAINING_FRAMEWORK"] == "pytorch"


def test_a_newer_image_replaces_the_older_one_and_has_its_rights(world, name, folder):
    build(folder / "old")
    first = register(world, name, folder / "old")
    [(old, number)] = images_of(world, name).items()
    one = server(world)
    one.image.chown(number, -1, 1)
    one.image.chmod(number, 1, 1, 0, 1, 0, 0, 0, 0, 0)
    build(folder / "new", content=b"two")
    done = register(world, name, folder / "new")
    new = next(image for image in images_of(world, name) if image != old)
    assert f"~ image {old} is replaced by {new}; it stays, for the machines that boot from it" in texts(done)
    assert done.vm_templates == first.vm_templates, "nothing boots from them: they are changed where they are"
    fresh = one.image.info(images_of(world, name)[new])
    assert (fresh.GNAME, fresh.PERMISSIONS.GROUP_U, fresh.PERMISSIONS.GROUP_M) == ("users", 1, 0)
    assert vm_template(world, done, NODES)["DISK"]["IMAGE_ID"] == str(fresh.ID)
    assert old in images_of(world, name)
    assert register(world, name, folder / "new").changes == ()


def test_a_federation_that_runs_keeps_the_image_that_it_began_with(world, name, folder):
    build(folder / "old")
    first = register(world, name, folder / "old")
    old = vm_template(world, first, NODES)["DISK"]["IMAGE_ID"]
    one = server(world)
    one.template.chown(first.vm_templates[NODES], -1, 1)
    one.template.chmod(first.vm_templates[NODES], 1, 1, 0, 1, 0, 0, 0, 0, 0)
    role = {"name": NODES, "type": "vm", "template_id": first.vm_templates[NODES], "cardinality": 0}
    template = world.cloud.oneflow.create_service_template({"name": f"{name}-running", "roles": [role]})
    service = world.cloud.oneflow.instantiate(template, {"name": f"{name}-running"})
    try:
        build(folder / "new", flower="1.42.0")
        planned = register(world, name, folder / "new", dry_run=True)
        done = register(world, name, folder / "new")
        assert alike(planned, done)
        aside = f"{name}-{NODES}-{first.vm_templates[NODES]}"
        kept = f"~ VM template {name}-{NODES} is called {aside} from now on, because it is in use: {name}-running"
        assert kept in texts(done)
        assert world.cloud.core.vm_templates()[aside] == first.vm_templates[NODES]
        assert world.cloud.core.vm_template(first.vm_templates[NODES])["DISK"]["IMAGE_ID"] == old
        assert vm_template(world, done, NODES)["DISK"]["IMAGE_ID"] != old
        fresh = one.template.info(done.vm_templates[NODES])
        assert server(world).template.info(fresh.ID).NAME.endswith(f"-{NODES}")
        assert (fresh.GNAME, fresh.PERMISSIONS.GROUP_U) == ("users", 1)
        for body in bodies(world, done):
            assert [each["template_id"] for each in body["roles"]] == list(done.vm_templates.values())
        assert register(world, name).changes == ()
    finally:
        world.cloud.oneflow.delete_service(service)
        world.cloud.oneflow.delete_service_template(template)
    world.until(lambda: world.cloud.oneflow.service(service) is None)
    assert texts(register(world, name)) == [f"- VM template {aside}"]
    assert register(world, name).changes == ()


def test_everything_is_as_it_was_when_a_late_step_fails(world, name, folder, monkeypatch):
    build(folder / "old")
    first = register(world, name, folder / "old")
    before = [vm_template(world, first, role) for role in (COORDINATOR, NODES)], bodies(world, first)
    build(folder / "new", "pytorch", "pytorch")
    update = type(world.cloud.oneflow).update_service_template

    def refuse(number, body):
        if number == first.forms[ServiceKind.FEDERATION] and "pytorch" in json.dumps(
            body["user_inputs"]["ONEAPP_FLOWER_TRAINING_FRAMEWORK"]
        ):
            raise OneflowerError("OneFlow is gone.")
        update(world.cloud.oneflow, number, body)

    monkeypatch.setattr(world.cloud.oneflow, "update_service_template", refuse)
    said = []
    with pytest.raises(OneflowerError, match="OneFlow is gone"):
        register(world, name, folder / "new", said=said)
    monkeypatch.undo()
    assert ([vm_template(world, first, role) for role in (COORDINATOR, NODES)], bodies(world, first)) == before
    assert len(images_of(world, name)) == 1
    assert said[-1].startswith(f"removed again: image {name}-pytorch")
    assert f"as it was again: service template {name}" in said
    assert register(world, name).changes == ()


def test_what_an_earlier_attempt_left_is_made_again(world, name, folder):
    image = build(folder)
    content = image.read_bytes()
    source = next(iter(option(world, folder).of_roles({NODES: ("", "")})[0].values()))
    image.write_bytes(b"damaged on the way")
    broken = world.cloud.core.create_image(source.template(source.name(name, NODES), name), 1)
    assert world.cloud.core.image(broken).state == ImageState.ERROR
    image.write_bytes(content)
    said = []
    register(world, name, folder, said=said)
    assert any("removing what an earlier attempt left" in text for text in said)
    [number] = images_of(world, name).values()
    assert number != broken


def test_two_releases_in_one_federation_are_refused_before_anything_is_made(world, name, folder):
    images = {COORDINATOR: build(folder / "a"), NODES: build(folder / "b", flower="1.42.0")}
    sources, _ = option(world, "").of_roles({role: (str(image), "") for role, image in images.items()})
    with pytest.raises(OneflowerError, match=r"different releases of Flower: superlink 1.41.0 and supernode 1.42.0"):
        Registration(world.cloud, Wishes(name, images=sources)).apply()
    assert images_of(world, name) == {}
    assert not [each for each in world.cloud.core.vm_templates() if each.startswith(name)]


def test_a_gpu_boots_by_uefi_and_a_second_disk_is_a_volume(world, name, folder):
    build(folder)
    done = register(world, name, folder, gpu="10de:2331:0302", volume=volume("20G"), disk=10240)
    node, link = (vm_template(world, done, role) for role in (NODES, COORDINATOR))
    assert node["OS"] == {"ARCH": "x86_64", "BOOT": "disk0", "MACHINE": "q35", "FIRMWARE": "UEFI",
                          "FIRMWARE_SECURE": "NO"}  # fmt: skip
    assert node["DISK"][0]["SIZE"] == "10240"
    assert node["DISK"][1] == {"TYPE": "fs", "SIZE": "20480", "FORMAT": "raw", "DEV_PREFIX": "vd"}
    assert node["CONTEXT"]["ONEFLOWER_DATA"] == link["CONTEXT"]["ONEFLOWER_CHECKPOINTS"] == "disk:vdb"
    assert register(world, name).changes == ()
    register(world, name, gpu="10de:2236/588")
    build(folder / "new", content=b"two")
    register(world, name, folder / "new")
    node = vm_template(world, done, NODES)
    assert node["PCI"] == {"VENDOR": "10de", "DEVICE": "2236", "PROFILE": "588"}
    assert (node["OS"]["FIRMWARE"], node["PCI"]["VENDOR"], len(node["DISK"])) == ("UEFI", "10de", 2), "they stay"
    register(world, name, gpu="none", volume="none")
    node = vm_template(world, done, NODES)
    assert "PCI" not in node
    assert "FIRMWARE" not in node["OS"]
    assert "ONEFLOWER_DATA" not in node["CONTEXT"]
    with pytest.raises(OneflowerError, match="A disk of 2048 MB is too small: the image has 4096 MB"):
        register(world, name, disk=2048)


def test_a_gpu_for_an_image_without_its_driver_is_named_and_a_driver_is_written_where_it_can_be_read(
    world, name, folder
):
    build(folder)
    done = register(world, name, folder, gpu="10de:2331:0302")
    [without] = images_of(world, name)
    assert done.driverless == without
    assert register(world, name).driverless == without, "what is registered already counts"
    assert register(world, name, gpu="none").driverless == ""
    build(folder / "gpu", "pytorch-gpu", "pytorch", driver="535.309.01")
    for dry_run in (True, False):
        assert register(world, name, folder / "gpu", gpu="10de:2331:0302", dry_run=dry_run).driverless == ""
    assert register(world, name).driverless == "", "what an image has stays known"
    [number] = [number for image, number in images_of(world, name).items() if "pytorch-gpu" in image]
    attributes = world.cloud.core.image(number).attributes
    assert attributes["DESCRIPTION"] == "oneflower: an appliance image, with NVIDIA's driver 535.309.01"
    assert attributes["ONEFLOWER"]["DRIVER"] == "535.309.01"


def test_nodes_do_not_share_a_disk_that_one_machine_uses_at_a_time(world, name):
    text = {"NAME": f"{name}-data", "TYPE": "DATABLOCK", "SIZE": "1", "PERSISTENT": "YES"}
    number = world.cloud.core.create_image(render(text), 1)
    try:
        with pytest.raises(OneflowerError, match="is persistent, so only one machine at a time can use it"):
            register(world, name, volume=f"{name}-data")
    finally:
        world.cloud.core.delete_image(number)


def test_an_image_that_is_not_what_its_manifest_says_is_refused(world, folder):
    image = build(folder)
    content = image.read_bytes()
    for damaged, why in ((content[:-1], "was not copied whole"), (content[:-1] + b"x", "has the sha256")):
        image.write_bytes(damaged)
        with pytest.raises(OneflowerError, match=why):
            option(world, image).of_roles({NODES: ("", "")})
    image.unlink()
    with pytest.raises(OneflowerError, match="its manifest is not known") as caught:
        option(world, folder / "another.qcow2").of_roles({NODES: ("", "")})
    assert "--manifest" in caught.value.hint
    build(folder, "pytorch", "pytorch")
    with pytest.raises(OneflowerError, match="there are 2 images"):
        option(world, folder).of_roles({NODES: ("", "")})
    (folder / "empty").mkdir()
    with pytest.raises(OneflowerError, match="is no image with its manifest"):
        option(world, folder / "empty").of_roles({NODES: ("", "")})
    with pytest.raises(OneflowerError, match="no image called 'nothing'"):
        option(world, "nothing").of_roles({NODES: ("", "")})
    with pytest.raises(OneflowerError, match="no image to the manifest"):
        option(world, "", "x.json")


def test_a_url_is_verified_by_a_manifest_that_can_be_trusted(world, folder, monkeypatch):
    image = build(folder)
    text = image.with_suffix(".json").read_bytes()
    asked = []

    def get(url, **_):
        asked.append(url)
        return httpx.Response(200, content=text, request=httpx.Request("GET", url))

    monkeypatch.setattr(httpx, "get", get)
    url = f"https://images.example.org/{image.name}"
    sources, _ = option(world, url).of_roles({NODES: ("", "")})
    assert asked == [url.replace(".qcow2", ".json")]
    assert sources[NODES].checksum == f"md5:{md5_of(image)}"
    sources[NODES].check()
    assert f'MD5="{sources[NODES].checksum[4:]}"' in sources[NODES].template("x", "y").replace(" ", "")
    with pytest.raises(OneflowerError, match="could be changed on its way"):
        option(world, url.replace("https", "http")).of_roles({NODES: ("", "")})
    plain = option(world, url.replace("https", "http"), image.with_suffix(".json")).of_roles({NODES: ("", "")})[0]
    plain[NODES].check()
    far = option(world, f"{SAFE}/far.qcow2", image.with_suffix(".json")).of_roles({NODES: ("", "")})[0]
    assert far[NODES].source == f"{SAFE}/far.qcow2"
    far[NODES].check()
    monkeypatch.setattr(httpx, "get", lambda url, **_: httpx.Response(404, request=httpx.Request("GET", url)))
    with pytest.raises(OneflowerError, match="cannot be downloaded") as caught:
        option(world, url).of_roles({NODES: ("", "")})
    assert caught.value.code is ExitCode.NOT_FOUND


HERE, FAR = "http://localhost:2633/RPC2", "http://cloud.example.org:2633/RPC2"
LOCAL, REMOTE = ImageSource("/srv/x.qcow2"), ImageSource("https://host/x.qcow2")


@pytest.mark.parametrize(
    ("reason", "source", "xmlrpc", "advice"),
    [
        ("Cannot parse image SIZE: cannot access '/srv/x.qcow2' (No such file or directory)", LOCAL, HERE, "SAFE_DIRS"),
        ("Cannot parse image SIZE: cannot access '/srv/x.qcow2' (No such file or directory)", LOCAL, FAR,
         "scp x.qcow2 cloud.example.org:/var/tmp/"),
        ("Cannot parse image SIZE: cannot access '/srv/x.qcow2' (Permission denied)", LOCAL, HERE, "chmod 644"),
        ("Cannot parse image SIZE: Failed to get image head", REMOTE, FAR, "curl -fLI https://host/x.qcow2"),
        ("Error copying image in the datastore: Not allowed to copy image from /srv/x.qcow2, check RESTRICTED_DIRS", LOCAL, HERE, "mv /srv/x.qcow2 /var/tmp/"),
        ("Not enough space in datastore", LOCAL, HERE, "MB are free"),
        ("Only IMAGES of type KERNEL, RAMDISK and CONTEXT can be registered in a FILE_DS datastore", LOCAL, HERE, "onedatastore list"),
        ("This Datastore only accepts persistent images.", LOCAL, HERE, "another --datastore"),
        ("Error allocating a new image. NAME is already taken by IMAGE 7.", LOCAL, HERE, "oneimage show"),
        ("User [4] : Not authorized to perform CREATE IMAGE.", LOCAL, HERE, "oneacl create"),
        ("User [4] : limit of 2 reached for IMAGES quota in datastore", LOCAL, HERE, "oneuser quota"),
        ("Cannot parse image SIZE: Failed to detect image format", REMOTE, HERE, "not to a page"),
        ("Error copying image in the datastore: Error copying /srv/x.qcow2 to /ds/x", LOCAL, HERE, "md5sum"),
        ("Error copying image in the datastore: Error copying https://host/x.qcow2 to /ds/x", REMOTE, HERE, "curl"),
        ("something new", LOCAL, FAR, "scp"),
    ],
)  # fmt: skip
def test_each_refusal_of_opennebula_says_what_to_do(world, reason, source, xmlrpc, advice):
    store = world.cloud.core.datastores()["default"]
    error = not_made("img", reason, source, store, xmlrpc)
    assert reason.rstrip(".") in error.message
    assert advice in error.hint
    assert error.code is ExitCode.CLOUD
    assert is_front_end(HERE)
    assert not is_front_end(FAR)


def test_the_local_clouds_datastores_refuse_what_opennebulas_do(world, folder, tmp_path):
    def create(datastore=1, **attributes):
        text = render({"NAME": f"{world.prefix}-x", "TYPE": "OS", **attributes})
        number = server(world).image.allocate(text, datastore)
        image = world.cloud.core.image(number)
        world.cloud.core.delete_image(number)
        return image

    image = build(folder)
    assert create(PATH=str(image)).size == 4096, "the disk's, not the file's"
    md5 = md5_of(image)
    assert create(PATH=str(image), MD5=md5).state == ImageState.READY
    wrong = create(PATH=str(image), MD5="0" * 32)
    assert (wrong.state, wrong.error.startswith("Error copying image in the datastore: Error")) == (5, True)
    outside = tmp_path / "x"
    outside.write_bytes(b"x")
    link = folder / "link"
    link.symlink_to(outside)
    for path in (outside, link):
        assert "check RESTRICTED_DIRS" in create(PATH=str(path)).error, "where a link leads counts"
    for datastore, attributes, why in (
        (1, {"PATH": "/no/such"}, r"Cannot parse image SIZE: cannot access '/no/such' \(No such file or directory\)"),
        (1, {}, "Wrong number or missing SIZE"),
        (1, {"SIZE": str(1 << 40)}, "Not enough space in datastore"),
        (0, {"SIZE": "1"}, "can only be allocated in a files or image datastore"),
        (2, {"SIZE": "1"}, "can be registered in a FILE_DS datastore"),
    ):
        with pytest.raises(pyone.OneInternalException, match=why):
            create(datastore, **attributes)


def test_what_a_datastore_allows_can_be_changed_as_on_opennebula(world, tmp_path):
    outside = tmp_path / "x.qcow2"
    outside.write_bytes(b"x")
    store = world.cloud.core.datastores()["default"]
    one = server(world)
    one.datastore.update(store.id, f'SAFE_DIRS="/var/tmp {tmp_path}"', 1)
    try:
        number = one.image.allocate(f'NAME="{world.prefix}-x"\nPATH="{outside}"\nTYPE="OS"', store.id)
        assert world.cloud.core.image(number).state == ImageState.READY
        world.cloud.core.delete_image(number)
        assert world.cloud.core.datastores()["default"].safe_folders == (SAFE, str(tmp_path))
    finally:
        one.datastore.update(store.id, 'SAFE_DIRS="/var/tmp"', 1)


def test_a_group_may_use_what_is_registered_and_the_image_that_replaces_it(world, name, folder):
    build(folder / "old")
    one = server(world)
    group = one.group.allocate(f"{name}-tenants")
    user = one.user.allocate(f"{name}-bob", "secret", "core", [])
    one.user.chgrp(user, group)
    endpoints = world.cloud.endpoints
    bob = Cloud(
        Endpoints(endpoints.oneflow, endpoints.xmlrpc, f"{name}-bob:secret", direct=True), world.cloud.surroundings
    )
    try:
        with pytest.raises(OneflowerError, match="There is no group called 'nobody'"):
            register(world, name, folder / "old", group="nobody")
        register(world, name, folder / "old")
        assert bob.oneflow.service_templates() == []
        planned = texts(register(world, name, group=f"{name}-tenants", dry_run=True))
        shared = [text for text in texts(register(world, name, group=f"{name}-tenants")) if "may use it" in text]
        assert planned == shared
        assert len(shared) == 9
        assert register(world, name, group=f"{name}-tenants").changes == ()
        build(folder / "new", content=b"two")
        register(world, name, folder / "new")
        assert {document["NAME"] for document in bob.oneflow.service_templates()} == set(template_names(name))
        assert set(bob.core.vm_templates()) == {f"{name}-{COORDINATOR}", f"{name}-{NODES}"}
        assert len(images_of(world, name)) == 2
        assert set(bob.core.images()) == set(images_of(world, name)), "the new one as the old one"
    finally:
        bob.close()
        one.user.delete(user)
        unregister(world.cloud, name)
        one.group.delete(group)


def test_an_image_that_a_machine_boots_from_is_neither_removed_nor_taken_from_it(world, name, folder):
    build(folder / "old")
    first = register(world, name, folder / "old")
    [(title, number)] = images_of(world, name).items()
    one = server(world)
    spare = world.cloud.core.create_vm_template(
        render({"NAME": f"{name}-spare", "CPU": "1", "MEMORY": "64", "DISK": {"IMAGE_ID": str(number)}})
    )
    vm = one.template.instantiate(spare, f"{name}-vm", False, "", False)
    try:
        image = world.cloud.core.image(number)
        assert (image.state, image.machines) == (ImageState.USED, 1)
        with pytest.raises(pyone.OneInternalException, match="There are 1 VMs using it"):
            one.image.delete(number)
        build(folder / "new", content=b"two")
        done = register(world, name, folder / "new")
        assert any(text.endswith("because it is in use: 1 machine") for text in texts(done))
        assert done.vm_templates[NODES] != first.vm_templates[NODES]
        changes = [str(change) for change in unregister(world.cloud, name)]
        assert f"= image {title} stays, because it is in use: 1 machine" in changes
        assert set(images_of(world, name)) == {title}
    finally:
        one.vm.action("terminate-hard", vm)
        world.until(lambda: not world.cloud.core.image(number).machines)
        world.cloud.core.delete_vm_template(spare)
    assert [str(change) for change in unregister(world.cloud, name)] == [f"- image {title}"]
