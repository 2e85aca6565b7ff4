"""The image with NVIDIA's driver: what it is made of, what is refused, and what must fit each other in it."""

from __future__ import annotations

import json
import re
import subprocess
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from oneflower.cli.app import app
from oneflower.images import VARIANTS, ImageSpec, base, manifest, modules, nvidia, overlay, sbom, software
from oneflower.images.app_image import read_image
from oneflower.marketplace import Publisher, render, render_private
from oneflower.runtimes.runtime import GPU_PACKAGES
from oneflower.trial.lessons import lesson_of
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.parameters import FLOWER_MINORS, FLOWER_TESTED

GPU = ImageSpec("pytorch", gpu=True)
DRIVER, PACKAGE, KERNEL = "535.309.01", "535.309.01-0+deb12u1", "6.1.0-57-amd64"
MAGIC = f"{KERNEL} SMP preempt mod_unload modversions"


def bootstrapped(spec, tmp_path, monkeypatch):
    """Return the commands of mmdebstrap with which a base is made; nothing is installed."""
    commands = []
    monkeypatch.setattr(base, "tool", lambda command, *_, **__: commands.append(list(map(str, command))))
    for module, name in ((base.modules, "keep"), (base.trim, "debian"), (base.bytecode, "write"), (base, "remove")):
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(
        nvidia, "add_modules", lambda root, scratch, install, jobs: install(scratch / "x", ("linux-headers-x",), "make")
    )
    (tmp_path / "base.part").touch()
    base.make(spec, tmp_path / "base.tar", tmp_path)
    return [command for command in commands if "mmdebstrap" in command]


def test_only_an_image_for_a_gpu_has_packages_that_are_not_free_software(tmp_path, monkeypatch):
    [usual] = bootstrapped(ImageSpec("pytorch"), tmp_path, monkeypatch)
    assert "--components=main" in usual
    assert not re.search(r"nvidia|cuda|non-free", " ".join(usual))
    image, workshop = bootstrapped(GPU, tmp_path, monkeypatch)
    for command in (image, workshop):
        assert "--components=main,contrib,non-free,non-free-firmware" in command
        assert all(line.endswith(" main contrib non-free non-free-firmware") for line in command if "deb http" in line)
    [included] = [word for word in image if word.startswith("--include=")]
    assert {"libcuda1", "libnvidia-ml1", "nvidia-smi", "firmware-nvidia-gsp"} <= set(included.split(","))
    assert not re.search(r"dkms|headers|gcc|make", included), "what compiles is in a root of its own"
    assert "--include=linux-headers-x" in workshop
    assert base.key(GPU) != base.key(ImageSpec("pytorch")) == base.key(ImageSpec("none"))


def test_it_has_a_name_and_a_list_of_its_own_and_a_machine_with_room_for_it():
    assert GPU.name == f"oneflower-pytorch-gpu-nvidia535-flwr-{FLOWER_TESTED}"
    assert GPU.name != ImageSpec("pytorch").name
    assert GPU.identifier("disk") != ImageSpec("pytorch").identifier("disk")
    assert GPU.needs.disk >= 32768
    assert ImageSpec("llm", gpu=True).needs.memory >= ImageSpec("llm").needs.memory


def test_it_has_the_registry_s_pytorch_by_hash_whatever_pip_finds(tmp_path, monkeypatch):
    (tmp_path / "torch-9.9+cpu-cp311-cp311-linux_x86_64.whl").touch()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    installed = []
    monkeypatch.setattr(software, "install_wheels", lambda _, wanted, *__: installed.append(wanted))
    monkeypatch.setattr(software.trim, "python", lambda _: None)
    monkeypatch.setattr(software.bytecode, "write", lambda *_: None)
    for minor in FLOWER_MINORS:
        listed = software.listed(ImageSpec("llm", gpu=True, flower=f"{minor}.0"))
        assert re.search(r"^torch==2\.10\.\d+ \\$", listed, re.MULTILINE)
        assert "nvidia-cudnn-cu12==" in listed
        assert not re.search(r"^(triton|uv)==", listed, re.MULTILINE), "there is no compiler, and no installer"
        assert all("--hash=sha256:" in package for package in re.split(r"\n(?=\S)", listed.strip()))
    (tmp_path / "scratch").mkdir()
    software.install(GPU, tmp_path / "root", tmp_path / "scratch")
    assert [wanted[:1] for wanted in installed] == [["--require-hashes"]]


@pytest.mark.parametrize(
    "options",
    [
        *(["--gpu", "--framework", name] for name, framework in VARIANTS.items() if framework not in GPU_PACKAGES),
        ["--gpu", "--edge"],
        ["--gpu", "--arch", "arm64"],
    ],
)
def test_what_has_no_use_for_a_gpu_is_refused_before_anything_is_written(tmp_path, options):
    target = tmp_path / "new"
    with pytest.raises(OneflowerError, match=r"There is no image with NVIDIA's driver for|There is no image for arm64"):
        CliRunner().invoke(app, ["image", "build", *options, "--save", str(target)], catch_exceptions=False)
    assert not target.exists()


def test_a_bundle_for_a_framework_without_such_an_image_is_refused():
    with pytest.raises(OneflowerError, match="no image with NVIDIA's driver for sklearn"):
        CliRunner().invoke(app, ["bundle", "--with", "pandas", "--gpu"], catch_exceptions=False)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A root with the driver, as it is when it fits; of the modules, a text that says what `modinfo` would."""
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(
        "Package: libc6\nStatus: install ok installed\nSection: libs\nArchitecture: amd64\nVersion: 2.36-9\n\n"
        f"Package: libcuda1\nStatus: install ok installed\nSection: non-free/libs\nArchitecture: amd64\nVersion: {PACKAGE}\n"
        "Description: CUDA\n more\n\n"
    )
    folder = tmp_path / "usr/lib/modules" / KERNEL / "kernel"
    for name, version in (("fs/ext4/ext4", ""), *((f"drivers/gpu/nvidia/{each}", DRIVER) for each in nvidia.MODULES)):
        module = folder / f"{name}.ko.xz"
        module.parent.mkdir(parents=True, exist_ok=True)
        module.write_text(json.dumps({"vermagic": MAGIC, "version": version}))
    libraries = tmp_path / "usr/lib/x86_64-linux-gnu"
    (libraries / "nvidia/current").mkdir(parents=True)
    (tmp_path / "etc/alternatives").mkdir(parents=True)
    for name in ("libcuda", "libnvidia-ml", "libnvidia-ptxjitcompiler"):
        (libraries / f"nvidia/current/{name}.so.{DRIVER}").touch()
        (libraries / f"nvidia/current/{name}.so.1").symlink_to(f"{name}.so.{DRIVER}")
        (tmp_path / "etc/alternatives" / name).symlink_to(f"/usr/lib/x86_64-linux-gnu/nvidia/current/{name}.so.1")
        (libraries / f"{name}.so.1").symlink_to(f"/etc/alternatives/{name}")
    firmware = tmp_path / "usr/lib/firmware/nvidia" / DRIVER
    firmware.mkdir(parents=True)
    (firmware / "gsp_ga10x.bin").touch()
    monkeypatch.setattr(nvidia, "tool", lambda command, _: f"{json.loads(command[3].read_text())[command[2]]}\n")
    return tmp_path


def module(root, name="nvidia"):
    return root / "usr/lib/modules" / KERNEL / f"kernel/drivers/gpu/nvidia/{name}.ko.xz"


def test_modules_libraries_and_firmware_of_one_release_pass(root):
    nvidia.check(root)


def another_kernel(root):
    module(root, "nvidia-uvm").write_text(json.dumps({"vermagic": MAGIC.replace("57", "58"), "version": DRIVER}))


def another_module(root):
    module(root).write_text(json.dumps({"vermagic": MAGIC, "version": "535.1"}))


def another_library(root):
    link = root / "usr/lib/x86_64-linux-gnu/libcuda.so.1"
    link.unlink()
    link.symlink_to("libcuda.so.535.1")


def no_firmware(root):
    next(root.glob("usr/lib/firmware/nvidia/*/*.bin")).unlink()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (another_kernel, "the module nvidia-uvm is for '6.1.0-58-amd64"),
        (another_module, "the module nvidia is 535.1, and the libraries are 535.309.01"),
        (another_library, "libcuda.so.1 is libcuda.so.535.1, and the module is 535.309.01"),
        (no_firmware, "there is no firmware of 535.309.01"),
        (lambda root: module(root).unlink(), "the module nvidia is missing"),
        (lambda root: (root / "usr/lib/modules/6.2").mkdir(), "there are 2 kernels"),
    ],
)
def test_an_image_whose_driver_could_not_be_loaded_is_not_built(root, damage, why):
    damage(root)
    with pytest.raises(OneflowerError, match=re.escape(why)):
        nvidia.check(root)


def test_a_driver_of_a_series_that_nobody_tried_is_refused(root, tmp_path):
    status = root / "var/lib/dpkg/status"
    status.write_text(status.read_text().replace("535", "550"))
    with pytest.raises(OneflowerError, match=r"the driver 550\.309\.01 now, .* series 535"):
        nvidia.add_modules(root, tmp_path / "scratch", lambda *_: pytest.fail("nothing is compiled"), 1)


def test_what_compiles_the_modules_names_this_kernel_and_this_release_and_is_gone_afterwards(
    root, tmp_path, monkeypatch
):
    (root / "usr/bin").mkdir()
    (root / "usr/share/doc").mkdir(parents=True)
    program = root / "usr/bin/nvidia-modprobe"
    program.touch()
    program.chmod(0o4755)
    for each in nvidia.MODULES:
        module(root, each).unlink()
    module(root).parent.rmdir()
    asked = []

    def install(folder, packages, script):
        asked.append(SimpleNamespace(packages=packages, script=script))
        sources = folder / f"usr/src/nvidia-current-{DRIVER}"
        licence = folder / "usr/share/doc" / nvidia.SOURCES
        for made in (sources, licence):
            made.mkdir(parents=True)
        (licence / "copyright").write_text("NVIDIA's licence")
        for each in nvidia.MODULES:
            (sources / f"{each}.ko").write_text(each)

    ran = []
    monkeypatch.setattr(nvidia, "tool", lambda command, _: ran.append(command))
    removed = []
    monkeypatch.setattr(nvidia, "remove", removed.append)
    nvidia.add_modules(root, tmp_path / "scratch", install, 3)
    [done] = asked
    assert done.packages == (f"linux-headers-{KERNEL}", "make")
    for words in (f"{nvidia.SOURCES}={PACKAGE}", f"KERNEL_UNAME={KERNEL}", "make -j3", 'MODULES="nvidia nvidia-uvm"'):
        assert words in done.script
    assert subprocess.run(["/bin/sh", "-n", "-c", done.script], check=False).returncode == 0
    assert [path.name for path in sorted(module(root).parent.iterdir())] == ["nvidia-uvm.ko", "nvidia.ko"]
    assert (root / "usr/share/doc" / nvidia.SOURCES / "copyright").read_text() == "NVIDIA's licence"
    assert removed == [tmp_path / "scratch/workshop"]
    assert ran[-1] == ["depmod", "-b", root, KERNEL]
    assert program.stat().st_mode & 0o7777 == 0o755, "nobody gets the rights of root by it"


def test_the_modules_stay_with_what_they_depend_on():
    dependencies = (
        "kernel/drivers/gpu/nvidia/nvidia.ko: kernel/drivers/gpu/drm/drm.ko\n"
        "kernel/drivers/gpu/nvidia/nvidia-uvm.ko: kernel/drivers/gpu/nvidia/nvidia.ko kernel/drivers/gpu/drm/drm.ko\n"
        "kernel/drivers/gpu/drm/drm.ko:\nkernel/drivers/gpu/drm/nouveau/nouveau.ko: kernel/drivers/gpu/drm/drm.ko\n"
    )
    names = {path.rpartition("/")[2] for path in modules.closure(dependencies)}
    assert names == {"nvidia.ko", "nvidia-uvm.ko", "drm.ko"}


def test_manifest_and_bill_of_materials_name_the_driver_and_what_is_not_free_software(root):
    found = sbom.packages(root)
    described = manifest.description(GPU, found)
    assert (described["variant"], described["framework"]) == ("pytorch-gpu", "pytorch")
    assert described["versions"]["nvidia"] == DRIVER
    assert described["non_free"] == ["libcuda1", nvidia.SOURCES]
    torch = manifest.description(GPU, [*found, sbom.Package("pypi", "torch", "2.10.0")])
    assert torch["instead"] == ["torch==2.10.0"]
    assert manifest.description(ImageSpec("pytorch"), [sbom.Package("pypi", "torch", "2.15.0")])["instead"] == []
    components = json.loads(sbom.bill(GPU, found))["components"]
    licences = {each["name"]: each.get("licenses") for each in components}
    assert licences["libc6"] is None
    for name in described["non_free"]:
        assert licences[name][0]["license"]["name"] == f"not free software: /usr/share/doc/{name}/copyright"
    (root / "var/lib/dpkg/status").write_text("")
    usual = manifest.description(ImageSpec(), sbom.packages(root))
    assert "nvidia" not in usual["versions"]
    assert usual["non_free"] == []


def test_an_image_with_the_driver_is_tried_as_its_framework_and_published_in_a_private_marketplace_only(root, tmp_path):
    image = root / f"{GPU.name}.qcow2"
    image.write_bytes(b"image")
    described = manifest.description(GPU, sbom.packages(root))
    image.with_suffix(".json").write_text(
        json.dumps(manifest.manifest(described, image, "x", {"rootfs": 1, "disk": 2}))
    )
    known = read_image(image.with_suffix(".json"))
    assert known.driver == DRIVER
    assert lesson_of(known.contents).app == "image-classification"
    tuned = manifest.description(ImageSpec("llm", gpu=True), [])
    assert lesson_of(SimpleNamespace(variant=tuned["variant"], framework="pytorch")).app == "llm-fine-tuning"
    with pytest.raises(OneflowerError, match="has NVIDIA's driver, which a contribution"):
        render(known, Publisher("https://example.org/x"), tmp_path / "market")
    assert not (tmp_path / "market").exists()
    assert GPU.name in render_private(known, tmp_path / "private").read_text()


def unit():
    return (overlay.OVERLAY_GPU / "usr/lib/systemd/system/oneflower-gpu.service").read_text()


def test_the_device_files_are_the_agent_s_and_are_there_before_it_starts():
    settings = (overlay.OVERLAY_GPU / "etc/modprobe.d/oneflower-nvidia.conf").read_text()
    options = dict(re.findall(r"NVreg_DeviceFile(\w+)=(\d+)", settings))
    assert options == {"UID": str(overlay.USER_ID), "GID": str(overlay.USER_ID), "Mode": "0660"}
    assert re.search(r"^Before=oneflower-agent\.service$", unit(), re.MULTILINE)


@pytest.mark.parametrize(("vendors", "there"), [(["0x1af4", "0x10de"], True), (["0x1af4"], False), ([], False)])
def test_without_a_gpu_the_unit_is_skipped_and_fails_in_no_case(tmp_path, vendors, there):
    [condition] = re.findall(r"^ExecCondition=/bin/sh -c '(.+)'$", unit(), re.MULTILINE)
    for number, vendor in enumerate(vendors):
        (tmp_path / f"sys/bus/pci/devices/{number}").mkdir(parents=True)
        (tmp_path / f"sys/bus/pci/devices/{number}/vendor").write_text(f"{vendor}\n")
    done = subprocess.run(["/bin/sh", "-c", condition.replace("/sys", f"{tmp_path}/sys")], check=False)
    assert (done.returncode == 0) is there
    assert done.returncode < 255, "systemd takes 255 for a failure"
    assert all(line.startswith("-") for line in re.findall(r"^ExecStart=(.+)$", unit(), re.MULTILINE))
