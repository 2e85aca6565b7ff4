"""Builds real images: from Debian's packages and the registry's wheels to a disk. About six minutes, once for all tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from oneflower.images import ImageSpec, build, disk, tools
from oneflower.images.unpack import unpack
from oneflower.local.home import LocalHome
from oneflower.local.host.processes import MARK
from oneflower.runtimes import runtime
from oneflower.trial.outside import NAMESPACED
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.parameters import FLOWER_MINORS, FLOWER_TESTED

from .conftest import RELEASE

pytestmark = pytest.mark.e2e
ONEFLOWER = Path(sys.executable).with_name("oneflower")
PATH = {**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    try:
        tools.check_tools()
    except OneflowerError as error:
        pytest.skip(str(error))
    made = tmp_path_factory.mktemp("images")
    yield made
    shutil.rmtree(made, ignore_errors=True)  # gigabytes


@pytest.fixture(scope="module")
def built(folder):
    return build(ImageSpec("none", flower=RELEASE), folder / "first", folder / "cache")


@pytest.fixture(scope="module")
def raw(folder, built):
    path = folder / "none.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", built.image, path], check=True)
    return path


def debugfs(raw, command):
    where = f"{raw}?offset={disk.layout(raw.stat().st_size)[-1].offset}"
    return subprocess.run(
        ["debugfs", "-R", command, where], env=PATH, capture_output=True, text=True, check=True
    ).stdout


def test_an_image_is_small_and_says_what_is_in_it(built):
    told = json.loads(built.manifest_file.read_text())
    assert told == built.manifest
    assert told["size"] == built.image.stat().st_size <= 180 * 10**6
    assert told["versions"]["flwr"] == RELEASE
    names = {component["name"] for component in json.loads(built.sbom_file.read_text())["components"]}
    assert {"flwr", "oneflower-appliance", "systemd", "openssh-server", "numpy", "tzdata"} <= names
    assert not {"perl", "apt", "unattended-upgrades", "uv"} & names


def test_the_same_inputs_give_the_same_bytes(folder, built):
    """Flower and its packages are installed again; Debian's part is the same."""
    for path in (folder / "cache").glob("flwr-*.tar"):
        path.unlink()
    again = build(ImageSpec("none", flower=RELEASE), folder / "second", folder / "cache")
    assert again.manifest == built.manifest
    assert again.image.read_bytes() == built.image.read_bytes()


def test_a_second_image_takes_what_the_first_one_made(folder, built):
    started = time.monotonic()
    edge = build(ImageSpec("none", edge=True, flower=RELEASE, size=8 << 30), folder / "edge", folder / "cache")
    assert time.monotonic() - started < 90
    assert edge.manifest["size"] <= 160 * 10**6
    assert edge.manifest["disk"] == 8 << 30


def test_an_image_that_is_too_small_for_its_content_is_refused(folder, built):
    with pytest.raises(OneflowerError) as refused:
        build(ImageSpec("none", size=256 << 20), folder / "small", folder / "cache")
    assert "too small" in refused.value.message
    assert not list((folder / "small").glob("*.qcow2"))


def test_the_file_system_is_whole_and_what_boots_is_where_it_is_looked_for(raw, folder):
    size = raw.stat().st_size
    bios, esp, root = disk.layout(size)
    image = folder / "root.ext4"
    subprocess.run(
        ["dd", f"if={raw}", f"of={image}", "bs=1M", f"skip={root.offset >> 20}", f"count={root.size * 512 >> 20}", "conv=sparse", "status=none"],
        check=True,
    )  # fmt: skip
    subprocess.run(["e2fsck", "-fn", image], env=PATH, check=True, capture_output=True)
    image.unlink()
    with raw.open("rb") as stream:
        start = stream.read(512)
        stream.seek(bios.offset)
        core = stream.read(512)
        stream.seek(esp.offset)
        fat = stream.read(esp.size * 512)
    assert start[510:] == b"\x55\xaa"
    assert any(core)
    (folder / "esp").write_bytes(fat)
    listed = subprocess.run(
        ["mdir", "-b", "-/", "-i", folder / "esp", "::"], capture_output=True, text=True, check=True
    )
    assert "::/EFI/BOOT/BOOTX64.EFI" in listed.stdout
    assert "linux /boot/vmlinuz" in debugfs(raw, "cat /boot/grub/grub.cfg")


def test_what_is_secret_or_a_machine_s_own_is_not_in_the_image(raw):
    assert "ssh_host" not in debugfs(raw, "ls -l /etc/ssh")
    assert debugfs(raw, "cat /etc/machine-id").strip() == ""
    shadow = debugfs(raw, "cat /etc/shadow").splitlines()
    assert shadow
    assert all(line.split(":")[1].strip("!") in ("", "*") and line.split(":")[1] for line in shadow)
    assert "File not found" in debugfs(raw, "stat /root/.ssh") or "authorized_keys" not in debugfs(raw, "ls /root/.ssh")


def test_licences_stay_and_the_bill_is_inside(raw, built):
    assert "GNU" in debugfs(raw, "cat /usr/share/doc/libc6/copyright")
    assert debugfs(raw, "cat /usr/share/oneflower/sbom.cdx.json") == built.sbom_file.read_text()


def test_the_drivers_by_which_opennebula_attaches_disks_and_cds_are_there(raw, built):
    (kernel,) = [name for name in debugfs(raw, "ls -p /usr/lib/modules").split("/") if "amd64" in name]
    for module in ("ata/ahci", "ata/ata_piix", "scsi/virtio_scsi", "scsi/sr_mod", "block/virtio_blk", "net/virtio_net"):
        stat = debugfs(raw, f"stat /usr/lib/modules/{kernel}/kernel/drivers/{module}.ko.xz")
        assert "Type: regular" in stat, module


def test_a_federation_that_boots_the_image_trains_heals_scales_and_leaves_nothing(folder):
    built = build(ImageSpec("sklearn", flower=RELEASE), folder / "trained", folder / "cache")
    assert built.manifest["size"] <= 220 * 10**6
    assert built.manifest["rootfs"] <= 620 * 10**6  # about 600, with room for what Debian's updates add
    tried = subprocess.run(
        [ONEFLOWER, "image", "test", built.image],
        capture_output=True,
        text=True,
        check=False,
    )
    assert tried.returncode == 0, tried.stderr
    assert tried.stderr.count("✓ train") == 2
    assert "✓ reboot each machine" in tried.stderr


def test_a_machine_in_trouble_says_so_and_recovers_by_itself(folder, built):
    if os.geteuid():
        pytest.skip("containers need root")
    (folder / "unpacked").mkdir()
    inner = [
        sys.executable,
        "-m",
        "tests.e2e.machine_in_trouble",
        unpack(built.image, folder / "unpacked"),
        folder / "lab",
    ]
    done = subprocess.run([*NAMESPACED, *inner], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_federation_moves_to_another_image_with_its_runs_and_nodes_and_boots_the_disk_before_if_that_fails(folder):
    if os.geteuid():
        pytest.skip("containers need root")
    releases = [f"{FLOWER_MINORS[0]}.0", FLOWER_TESTED]
    home = LocalHome.of_user()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as safe:  # from where the local cloud takes images
        images = []
        for release in releases:
            runtime.ensure(home.runtimes, release, "sklearn")  # for the client: in the namespaces there is no network
            images.append(build(ImageSpec("sklearn", flower=release), Path(safe), folder / "cache").image)
        (Path(safe) / "state").mkdir()
        inner = [sys.executable, "-m", "tests.e2e.upgraded_images", *images, Path(safe) / "state", home.cache]
        done = subprocess.run([*NAMESPACED, *inner], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_boots_by_bios_and_by_uefi_to_ready_and_again_after_a_power_cut(built):
    """Both roles: the SuperLink boots by BIOS, the SuperNode by UEFI, each with a CD as OpenNebula makes it."""
    tried = subprocess.run(
        [ONEFLOWER, "image", "test", built.image, "--machines", "qemu"], capture_output=True, text=True, check=False
    )
    assert tried.returncode == 0, tried.stderr
    assert {"BIOS", "UEFI"} <= {word.strip(",") for word in tried.stderr.split()}
    assert "✓ cut the power of the SuperLink" in tried.stderr


def test_an_interrupted_trial_leaves_no_process_and_no_file(built, tmp_path):
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    tried = subprocess.Popen(
        [ONEFLOWER, "image", "test", built.image, "--machines", "qemu"], env={**os.environ, **cache}
    )
    try:
        while not list(tmp_path.glob("oneflower/trials/*/cloud/machines/0/monitor")):
            assert tried.poll() is None
            time.sleep(0.1)
        assert processes_of(tmp_path)
        tried.send_signal(signal.SIGTERM)  # which the command takes as Ctrl-C, even where SIGINT is ignored
        assert tried.wait(30) == ExitCode.INTERRUPTED
    finally:
        tried.kill()
        tried.wait()
    deadline = time.monotonic() + 10
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(tmp_path) == []
    assert list(tmp_path.glob("oneflower/trials/*")) == []


def processes_of(folder):
    """Return the commands of the machines whose files are in a folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK, "").startswith(str(folder)):
                found.append(process.name())
    return found


def test_what_is_not_our_image_is_not_tried(tmp_path):
    other = tmp_path / "other.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", other, "10M"], check=True)
    with pytest.raises(OneflowerError) as refused:
        unpack(other, tmp_path)
    assert "not an image that `oneflower image build` made" in refused.value.message
