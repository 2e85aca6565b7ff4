"""A contribution to the marketplace: that it has the form of others, that its scripts are well, that it deploys."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import hcl2
import pytest
import yaml

from oneflower.cli.local import serve
from oneflower.cli.marketplace import render as render_command
from oneflower.images import ImageSpec
from oneflower.images.app_image import read_image
from oneflower.images.manifest import description
from oneflower.images.manifest import manifest as build_manifest
from oneflower.images.sbom import Package
from oneflower.local.oned.vmtext import parse_template
from oneflower.marketplace import Publisher, render, render_private
from oneflower.marketplace.wheel import appliance_wheel
from oneflower.opennebula import COORDINATOR, NODES, lint, vm_template
from oneflower.opennebula import render as to_text
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.parameter import Level
from oneflower_appliance.parameters import PARAMETERS, form_fields
from tests.conformance.cloud import LocalServers
from tests.conformance.fireedge import posted_for

MANIFEST = {
    "name": "oneflower-sklearn-flwr-1.41.0",
    "file": "oneflower-sklearn-flwr-1.41.0.qcow2",
    "variant": "sklearn",
    "framework": "sklearn",
    "memory_mb": 2048,
    "versions": {"oneflower": "0.1.0", "flwr": "1.41.0"},
    "created": 1767225600,
    "size": 205_000_000,
    "disk": 4 << 30,
    "md5": "0123456789abcdef" * 2,
    "sha256": "0123456789abcdef" * 4,
}
URL = "https://images.example.org/oneflower-sklearn-flwr-1.41.0.qcow2"
APP = "oneflower-sklearn"
PACKER = f"apps-code/community-apps/packer/{APP}"
# As the marketplace lints: .yamllint.yml of its repository.
YAMLLINT = "{extends: default, rules: {line-length: disable, indentation: {indent-sequences: whatever}}}"


def manifest(folder, **changes):
    path = folder / "image.json"
    path.write_text(json.dumps({**MANIFEST, **changes}))
    return path


@pytest.fixture(scope="module")
def contribution(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contribution")
    image = read_image(manifest(tmp_path_factory.mktemp("image")))
    render(image, Publisher(URL, "Somebody", "somebody@example.org"), folder)
    return folder


def entries(folder):
    """The image's and the service's."""
    found = [yaml.safe_load(path.read_text()) for path in (folder / "appliances" / APP).glob("*-*-*-*-*.yaml")]
    return sorted(found, key=lambda entry: entry.get("type", ""))


def ran(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_has_the_files_of_a_contribution(contribution):
    found = {str(path.relative_to(contribution)) for path in contribution.rglob("*") if not path.is_dir()}
    here = f"appliances/{APP}"
    wheel, _ = appliance_wheel()
    assert {name for name in found if not name.endswith(".yaml")} == {
        *(f"{here}/{name}" for name in ("README.md", "CHANGELOG.md", "appliance.sh", "requirements.txt")),
        *(f"{here}/{name}" for name in ("appliance.txt", wheel, f"tests/00-{APP}_basic.rb")),
        *(f"{PACKER}/{name}" for name in (f"{APP}.pkr.hcl", "variables.pkr.hcl", "common.pkr.hcl", "gen_context")),
        *(f"{PACKER}/{name}" for name in ("81-configure-ssh.sh", "82-configure-context.sh")),
        *(f"{here}/{name}" for name in OVERLAY),
        "logos/oneflower.png",
    }
    names = {Path(name).stem for name in found if name.endswith(".yaml")}
    assert {"metadata", "tests", "context"} < names
    assert len(names) == 5
    assert all(len(name) == 36 for name in names - {"metadata", "tests", "context"}), "UUIDs"
    assert (contribution / PACKER / "common.pkr.hcl").readlink() == Path("../../../one-apps/packer/common.pkr.hcl")
    for name in found:
        content = (contribution / name).read_bytes() if not name.endswith(("common.pkr.hcl", ".png", ".whl")) else b""
        assert b"@APP@" not in content
        assert not (set(content.split()) & {b"@FLOWER@", b"@PARAMS@", b"@TABLE@"})


def test_the_entries_of_the_catalogue_have_what_the_catalogue_wants(contribution):
    image, service = entries(contribution)
    for entry in (image, service):
        for key in ("name", "version", "publisher", "publisher_email", "description", "short_description", "os-id",
                    "os-release", "os-arch", "hypervisor", "opennebula_version", "logo"):  # fmt: skip
            assert isinstance(entry[key], str), key
            assert entry[key]
        assert isinstance(entry["tags"], list)
        assert entry["creation_time"] == MANIFEST["created"]
        assert (contribution / "logos" / entry["logo"]).is_file()
    [disk] = image["images"]
    assert disk["size"] == MANIFEST["disk"], "of the disk, not of the file"
    assert disk["checksum"] == {"md5": MANIFEST["md5"], "sha256": MANIFEST["sha256"]}
    assert (disk["url"], disk["type"], disk["dev_prefix"], disk["driver"]) == (URL, "OS", "vd", "qcow2")
    template = image["opennebula_template"]
    assert (template["memory"], template["cpu_model"]) == ("2048", {"model": "host-passthrough"})
    assert (template["context"]["token"], template["context"]["report_ready"]) == ("YES", "YES")
    assert not {"user_inputs", "inputs_order"} & set(template), "they would break the form of the service"
    assert service["type"] == "SERVICE_TEMPLATE"
    assert service["images"] == []
    assert service["roles"] == dict.fromkeys((COORDINATOR, NODES), image["name"])
    assert {role["name"] for role in service["opennebula_template"]["roles"]} == set(service["roles"])


def test_what_is_yaml_shell_and_hcl_is_well(contribution):
    bin_ = Path(sys.executable).parent
    ran(bin_ / "yamllint", "--strict", "-d", YAMLLINT, contribution / "appliances")
    scripts = [*contribution.rglob("*.sh"), contribution / PACKER / "gen_context"]
    private = render_private(read_image(manifest(contribution.parent)), contribution.parent / "private")
    ran(bin_ / "shellcheck", *scripts, private)
    assert len(scripts) == 4
    packer = (contribution / PACKER / f"{APP}.pkr.hcl").read_text()
    for path in re.findall(r'"../../(appliances/[^"]+)"', packer):
        assert (contribution / path).is_file(), path
    for path in contribution.rglob("*.hcl"):
        if not path.is_symlink():
            assert hcl2.loads(path.read_text())


@pytest.mark.e2e  # for which ruby is installed
def test_what_is_ruby_is_well(contribution):
    ruby = shutil.which("ruby")
    if ruby is None:
        pytest.skip("there is no ruby; make e2e installs it for root")
    for path in contribution.rglob("*.rb"):
        ran(ruby, "-c", path)
    load = "require 'yaml'; c = YAML.load_file(ARGV[0]); puts c[:app][:name], c[:app][:context][:params].inspect"
    said = ran(ruby, "-e", load, contribution / "appliances" / APP / "metadata.yaml")
    assert said.startswith(APP)
    assert ":ONEFLOWER_ROLE" in said or "ONEFLOWER_ROLE:" in said


def test_the_service_deploys_after_the_import_by_what_sunstone_posts(contribution, tmp_path):
    """OpenNebula's import writes the id of the VM template into each role, under the name that release 6 had."""
    _, service = entries(contribution)
    body = service["opennebula_template"]
    cloud = LocalServers(tmp_path / "cloud.db")
    try:
        number = cloud.compute.catalogue.add_network("private")
        ids = {}
        for role in (COORDINATOR, NODES):
            template = vm_template(role) | {"CONTEXT": {"TOKEN": "YES"}}
            ids[role] = cloud.compute.catalogue.save_template(parse_template(to_text({"NAME": role, **template})))
        for role in body["roles"]:
            role["vm_template"] = ids[role["name"]]
            assert role["template_contents"]["CONTEXT"].pop("ONEFLOWER_ROLE") == role["name"], "no guest here"
        answer = cloud.oneflow.post("/service_template", json=body)
        assert answer.status_code == 201, answer.text
        document = answer.json()["DOCUMENT"]
        imported = document["TEMPLATE"]["BODY"]
        assert lint(imported) == []
        filled = {"ONEAPP_FLOWER_TRAINING_ROUNDS": "7"}
        networks = {"networks_values": [{"Federation": {"id": str(number), "extra": ""}}]}
        merge = posted_for(imported, "fed", **filled) | networks
        action = {"action": {"perform": "instantiate", "params": {"merge_template": merge}}}
        answer = cloud.oneflow.post(f"/service_template/{document['ID']}/action", json=action)
        assert answer.status_code == 201, answer.text
        for _ in range(50):
            cloud.clock.advance(1)
            for vm in list(cloud.compute.vms.values()):
                if vm.running and vm.user_template.get("READY") != "YES":
                    assert cloud.put(vm.id, "READY=YES").status_code == 200
        roles = cloud.documents.service(int(answer.json()["DOCUMENT"]["ID"])).body["roles"]
        contexts = {role["name"]: cloud.compute.find(role["nodes"][0]["deploy_id"]).context for role in roles}
        assert contexts[COORDINATOR]["FL_NUM_ROUNDS"] == "7"
        for name, level in ((COORDINATOR, Level.SUPERLINK), (NODES, Level.SUPERNODE)):
            wanted = {p.name for _, p in form_fields() if p.level in (Level.SERVICE, level)}
            assert {key for key in contexts[name] if key in PARAMETERS} == {*wanted, "FLOWER_VERSION"}
            assert contexts[name]["FLOWER_VERSION"] == "1.41.0", "which no form asks for: the image has one"
    finally:
        cloud.close()


def test_the_form_of_an_image_offers_what_the_image_has(contribution, tmp_path):
    _, service = entries(contribution)
    asked = service["opennebula_template"]["user_inputs"]
    assert asked["ONEAPP_FLOWER_TRAINING_FRAMEWORK"].split("|")[3:] == ["sklearn", "sklearn"]
    assert "llm-fine-tuning" not in asked["ONEAPP_FLOWER_TRAINING_USE_CASE"]
    other = manifest(tmp_path, variant="pytorch", framework="pytorch")
    render(read_image(other), Publisher(URL), tmp_path / "other")
    [torch] = [
        entry
        for path in (tmp_path / "other/appliances/oneflower-pytorch").glob("*-*-*-*-*.yaml")
        if "roles" in (entry := yaml.safe_load(path.read_text()))
    ]
    assert torch["opennebula_template"]["user_inputs"]["ONEAPP_FLOWER_TRAINING_FRAMEWORK"].endswith("|pytorch|pytorch")


def test_a_newer_image_updates_the_same_entries(contribution, tmp_path):
    shutil.copytree(contribution, tmp_path / "checkout", symlinks=True)
    makefile = tmp_path / "checkout/apps-code/community-apps/Makefile.config"
    makefile.write_text("VERSION := 6\n\nSERVICES := lithops example\n\n.DEFAULT_GOAL := help\n")
    newer = read_image(manifest(tmp_path, sha256="f" * 64, created=MANIFEST["created"] + 86_400))
    for _ in range(2):
        written = render(newer, Publisher(URL), tmp_path / "checkout")
        assert written.in_makefile
    assert f"SERVICES := lithops example {APP}\n\n.DEFAULT" in makefile.read_text()
    before, after = entries(contribution), entries(tmp_path / "checkout")
    assert [entry["name"] for entry in before] == [entry["name"] for entry in after]
    assert all(a["version"] != b["version"] for a, b in zip(before, after, strict=True)), "clients read it again"
    assert after[0]["images"][0]["checksum"]["sha256"] == "f" * 64


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"md5": "abc"}, "its md5 is 'abc'"),
        ({"sha256": None}, "its sha256 is None"),
        ({"disk": "4G"}, "its disk is '4G'"),
        ({"created": 0}, "its created is 0"),
        ({"name": "../x"}, "its name is"),
        ({"file": "a b"}, "its file is"),
        ({"framework": 'sklearn"|x'}, "its framework is"),
        ({"versions": {"flwr": "1.41.0|x"}}, "its flwr is"),
    ],
)
def test_a_manifest_that_is_not_valid_is_named(tmp_path, changes, why):
    with pytest.raises(OneflowerError, match=f"is not the manifest of an image: {why}"):
        read_image(manifest(tmp_path, **changes))


def test_the_manifest_that_an_image_is_built_with_is_read(tmp_path):
    image = tmp_path / "oneflower-pytorch-flwr-1.41.0.qcow2"
    image.write_bytes(b"an image")
    spec = ImageSpec("pytorch")
    said = build_manifest(description(spec, [Package("pypi", "flwr", "1.41.0")]), image, "digest", {"disk": 8 << 30})
    path = image.with_suffix(".json")
    path.write_text(json.dumps(said))
    read = read_image(path)
    assert (read.name, read.file, read.size, read.flower) == (spec.name, image.name, 8 << 30, "1.41.0")
    assert (read.variant, read.framework) == ("pytorch", "pytorch")
    assert read.sha256 == hashlib.sha256(b"an image").hexdigest()


def test_an_image_that_is_not_whole_is_neither_published_nor_booted(tmp_path, monkeypatch):
    monkeypatch.setenv("ONEFLOWER_HOME", str(tmp_path / "home"))
    image = tmp_path / MANIFEST["file"]
    image.write_bytes(b"half an im")
    said = "has 10 bytes, and its manifest says 205000000: it was not copied whole"
    with pytest.raises(OneflowerError, match=said):
        render_command(manifest(tmp_path), tmp_path / "private", private=True)
    assert not (tmp_path / "private").exists()
    (tmp_path / "image.json").rename(image.with_suffix(".json"))
    with pytest.raises(OneflowerError, match=said):
        serve(image=image)


def test_what_is_not_a_manifest_and_an_image_without_a_pinned_list_are_named(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(OneflowerError, match="Cannot read"):
        read_image(path)
    for text in ("[]", "not json"):
        path.write_text(text)
        with pytest.raises(OneflowerError, match="is not the manifest of an image"):
            read_image(path)
    unpinned = read_image(manifest(tmp_path, versions={"flwr": "1.99.0"}))
    with pytest.raises(OneflowerError, match=r"no pinned list of packages for Flower 1.99.0 with sklearn"):
        render(unpinned, Publisher(URL), tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_the_wheel_is_that_of_the_appliance_with_its_hash_in_the_list(contribution):
    name, content = appliance_wheel()
    assert appliance_wheel() == (name, content), "the same bytes each time"
    here = contribution / "appliances" / APP
    assert (here / name).read_bytes() == content
    assert (here / "appliance.txt").read_text().endswith(f"--hash=sha256:{hashlib.sha256(content).hexdigest()}\n")
    with zipfile.ZipFile(here / name) as archive:
        assert archive.testzip() is None
        assert "oneflower_appliance/agent/agent.py" in archive.namelist()
        assert not [entry for entry in archive.namelist() if "__pycache__" in entry]


@pytest.mark.e2e
def test_the_wheel_can_be_installed_by_its_hash_only(contribution, tmp_path):
    name, content = appliance_wheel()
    here = contribution / "appliances" / APP
    venv.create(tmp_path / "venv", with_pip=True)
    options = ["-q", "--no-deps", "--no-index", "--find-links", here, "--require-hashes", "-r", here / "appliance.txt"]
    ran(tmp_path / "venv/bin/pip", "install", *options, cwd=tmp_path)
    assert (tmp_path / "venv/bin/oneflower-agent").exists()
    (here / "tampered").mkdir()
    (here / "tampered" / name).write_bytes(content + b"\0")
    options[4] = here / "tampered"
    command = [tmp_path / "venv/bin/pip", "install", "--force-reinstall", *options]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    shutil.rmtree(here / "tampered")
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr


OVERLAY = ("oneflower-agent.service", "oneflower-context.service", "oneflower-host-keys.service",
           "oneflower-online.service", "60-oneflower.conf", "ready")  # fmt: skip
STUBS = ("apt-get", "python3", "getent", "useradd", "systemctl")


def service(contribution, root, function, *failing):
    """Run one function of appliance.sh with the machine's commands replaced by ones that note how they are called."""
    stubs = root / "stubs"
    stubs.mkdir(exist_ok=True)
    for name in STUBS:
        code = "exit 1" if name in failing else "exit 0"
        (stubs / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {root}/calls\n{code}\n')
        (stubs / name).chmod(0o755)
    pip = root / "opt/oneflower/bin/pip"
    pip.parent.mkdir(parents=True, exist_ok=True)
    pip.write_text(f'#!/bin/sh\necho "pip $*" >> {root}/calls\nexit {int("pip" in failing)}\n')
    pip.chmod(0o755)
    script = f"msg() {{ :; }}; rm() {{ :; }}; . {contribution}/appliances/{APP}/appliance.sh; {function}"
    done = subprocess.run(
        ["bash", "-c", script],
        env={"PATH": f"{stubs}:/usr/bin:/bin", "ONEFLOWER_ROOT": str(root)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done, (root / "calls").read_text().splitlines() if (root / "calls").exists() else []


def test_the_service_installs_by_hash_and_only_starts_the_agent(contribution, tmp_path):
    done, calls = service(contribution, tmp_path, "service_install")
    assert done.returncode == 0, done.stderr
    pip = [call for call in calls if call.startswith("pip")]
    assert len(pip) == 2
    assert all("--require-hashes" in call for call in pip)
    assert "systemctl enable oneflower-context.service oneflower-host-keys.service oneflower-agent.service" in calls
    units = tmp_path / "usr/lib/systemd/system"
    assert {path.name for path in units.iterdir()} == {name for name in OVERLAY if name.endswith(".service")}
    assert "User=oneflower" in (units / "oneflower-agent.service").read_text()
    assert (tmp_path / "usr/lib/oneflower/ready").stat().st_mode & 0o111
    if shutil.which("systemd-analyze"):
        for path in units.glob("*.service"):
            path.write_text(re.sub(r"^ExecStart=.*$", "ExecStart=/bin/true", path.read_text(), flags=re.MULTILINE))
        command = ["systemd-analyze", "verify", "--man=no", *units.glob("*.service")]
        said = subprocess.run(
            command, capture_output=True, text=True, check=False, env={"SYSTEMD_LOG_LEVEL": "warning"}
        )
        assert "oneflower" not in said.stderr, said.stderr
    (tmp_path / "calls").unlink()
    done, calls = service(contribution, tmp_path, "service_bootstrap")
    assert calls == ["systemctl start --no-block oneflower-agent.service"], "nothing else reports READY"


@pytest.mark.parametrize("failing", ["apt-get", "python3", "pip", "systemctl"])
def test_an_installation_that_fails_is_not_an_image(contribution, tmp_path, failing):
    done, _ = service(contribution, tmp_path, "service_install", failing)
    assert done.returncode != 0


def test_a_private_marketplace_gets_a_script_that_checks_the_image_first(tmp_path):
    file = tmp_path / "image.qcow2"
    file.write_bytes(b"an image")
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    for name in ("oneflower", "onemarketapp"):
        (stubs / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n')
        (stubs / name).chmod(0o755)

    def published(sha256):
        image = read_image(manifest(tmp_path, sha256=sha256))
        command = [render_private(image, tmp_path / "private"), "Ours", "private", file]
        environment = {"PATH": f"{stubs}:/usr/bin:/bin"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    wrong = published("0" * 64)
    assert wrong.returncode != 0
    assert not (tmp_path / "calls").exists(), "nothing was made of an image that is not the one"
    right = published(hashlib.sha256(b"an image").hexdigest())
    assert right.returncode == 0, right.stderr
    calls = (tmp_path / "calls").read_text()
    name = MANIFEST["name"]
    assert f"register --name {name} --image {file} --network private --datastore default" in calls
    assert f"onemarketapp service-template import {name}-form --yes --market Ours" in calls
