"""Building images: what is pure in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest

from oneflower.images import VARIANTS, ImageSpec, base, disk, laying, manifest, modules, overlay, sbom, software, trim
from oneflower.images.build import assemble
from oneflower.images.spec import parse_size
from oneflower.opennebula.service import READY_SCRIPT
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.parameters import FLOWER_MINORS, FLOWER_TESTED
from oneflower_appliance.use_cases import FRAMEWORKS

UNITS = overlay.OVERLAY / "usr/lib/systemd/system"


@pytest.fixture
def no_links(monkeypatch):
    """Pip is not set to find a build of PyTorch, whatever this machine's settings are."""
    monkeypatch.setenv("PIP_FIND_LINKS", "")


def test_every_framework_has_a_variant_and_every_variant_a_pinned_list_for_each_supported_flower(no_links):
    assert set(FRAMEWORKS) <= set(VARIANTS)
    for minor in FLOWER_MINORS:
        for variant in VARIANTS:
            assert f"flwr=={minor}.0" in software.listed(ImageSpec(variant, flower=f"{minor}.0"))


def test_a_release_that_nothing_pins_is_refused_with_those_that_there_are():
    with pytest.raises(OneflowerError) as refused:
        software.listed(ImageSpec(flower="1.2.3"))
    assert FLOWER_TESTED in refused.value.hint


def test_what_cannot_be_built_is_said_before_anything_takes_long(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "make", lambda *_: pytest.fail("the Debian packages come first"))
    with pytest.raises(OneflowerError, match="no list of pinned packages"):
        assemble(ImageSpec(flower="1.2.3"), tmp_path / "root", tmp_path)


def test_nothing_is_installed_that_has_no_hash(no_links):
    for variant in VARIANTS:
        packages = re.split(r"\n(?=\S)", software.listed(ImageSpec(variant)).strip())
        assert all("--hash=sha256:" in package for package in packages)
        assert not any(package.startswith("uv==") for package in packages)


def torch_wheel(folder, release):
    """A wheel of nothing, in the simple layout of an index of packages."""
    path = folder / "torch" / f"torch-{release}-cp311-cp311-manylinux_2_28_x86_64.whl"
    path.parent.mkdir()
    about = f"torch-{release}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("torch/__init__.py", "")
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {release}\n")
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp311-cp311-manylinux_2_28_x86_64\n"
        )
        wheel.writestr(
            f"{about}/RECORD", f"torch/__init__.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n"
        )
    (path.parent / "index.html").write_text(f'<a href="{path.name}">{path.name}</a>')


def test_pytorch_comes_from_its_index_for_cpus_where_pip_is_not_set_to_find_it(tmp_path, monkeypatch, no_links):
    """The registry's build of the same release is for GPUs, and brings gigabytes that no image has a use for."""
    monkeypatch.setattr(software, "TORCH_INDEX", tmp_path.as_uri())
    installed = []
    monkeypatch.setattr(software, "install_wheels", lambda _, wanted, *__: installed.append(wanted))
    monkeypatch.setattr(software.trim, "python", lambda _: None)
    monkeypatch.setattr(software.bytecode, "write", lambda *_: None)
    spec = ImageSpec("pytorch")
    assert not re.search(r"^(torch==|nvidia-|triton==|cuda-)", software.listed(spec), re.MULTILINE)
    (tmp_path / "scratch").mkdir()
    software.install(spec, tmp_path / "root", tmp_path / "scratch")
    _, torch = installed
    release = torch[-1].removeprefix("torch==")
    monkeypatch.undo()
    torch_wheel(tmp_path, f"{release}+cpu")
    software.install_wheels(tmp_path / "root" / software.SITE, torch, "install PyTorch", "")
    assert (tmp_path / "root" / software.SITE / f"torch-{release}+cpu.dist-info").is_dir()


@pytest.mark.parametrize("options", [{"variant": "keras"}, {"variant": "pytorch", "edge": True}])
def test_what_cannot_be_built_is_refused(options):
    with pytest.raises(OneflowerError):
        ImageSpec(**options)


def test_sizes():
    assert parse_size("8G") == 8 << 30
    assert parse_size("512m") == 512 << 20
    for wrong in ("8", "G", "0G", "8G; rm", "-1G"):
        with pytest.raises(OneflowerError):
            parse_size(wrong)


def test_identifiers_are_those_of_the_image_and_differ_by_use():
    spec = ImageSpec()
    assert spec.identifier("disk") == ImageSpec().identifier("disk")
    assert len({spec.identifier("disk"), spec.identifier("root"), ImageSpec("none").identifier("disk")}) == 3


def test_the_partitions_lie_side_by_side_and_leave_room_for_the_second_table():
    size = 4 << 30
    bios, esp, root = disk.layout(size)
    assert bios.start >= 34  # behind the first table
    assert bios.start + bios.size <= esp.start
    assert esp.start + esp.size <= root.start
    assert root.start + root.size <= size // disk.SECTOR - 34
    assert all(part.offset % disk.MEBIBYTE == 0 for part in (bios, esp, root))


def test_the_partition_table_is_one_that_sfdisk_writes_with_our_identifiers(tmp_path):
    if shutil.which("sfdisk", path="/usr/sbin:/sbin") is None:
        pytest.skip("no sfdisk")
    spec, path = ImageSpec(), tmp_path / "disk.raw"
    disk.partition(path, 1 << 30, spec.identifier)
    dumped = subprocess.run(["/usr/sbin/sfdisk", "--json", path], capture_output=True, check=True).stdout
    told = json.loads(dumped)["partitiontable"]
    assert told["id"].lower() == str(spec.identifier("disk"))
    assert [(part["name"], part["start"]) for part in told["partitions"]] == [
        (part.name, part.start) for part in disk.layout(1 << 30)
    ]


def test_the_boot_sector_loads_the_core_and_the_core_its_own_rest():
    code = bytes(range(256)) * 2
    sector = disk.boot_sector(code, 2048)
    assert len(sector) == 440  # the disk's own data lie behind that
    assert struct.unpack_from("<Q", sector, 0x5C) == (2048,)
    assert sector[:0x5C] + sector[0x64:] == (code[:440])[:0x5C] + (code[:440])[0x64:]
    part = disk.layout(1 << 30)[0]
    core = disk.core_image(code * 4, part)
    assert struct.unpack_from("<Q", core, 0x1F4) == (part.start + 1,)
    assert len(core) == len(code * 4)
    with pytest.raises(OneflowerError):
        disk.core_image(bytes(part.size * disk.SECTOR + 1), part)


def test_grub_boots_the_file_system_by_its_identifier_and_the_serial_line_is_the_console():
    spec = ImageSpec()
    text = disk.grub_settings(spec.identifier("filesystem"))
    assert f"root=UUID={spec.identifier('filesystem')} rw" in text
    assert text.index("console=tty0") < text.index("console=ttyS0")  # the last one is /dev/console


@pytest.mark.parametrize("same", [True, False])
def test_the_same_files_become_the_same_file_system(tmp_path, same):
    if any(shutil.which(name, path="/usr/sbin:/sbin") is None for name in ("mke2fs", "debugfs", "sfdisk")):
        pytest.skip("no e2fsprogs or fdisk")
    spec, digests, size = ImageSpec(), [], 64 << 20
    for number in (1, 2):
        root = tmp_path / f"root{number}"
        names = ("a", "b", "folder/c") if number == 1 else ("folder/c", "b", "a")  # created in another order
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(name)
        (root / "link").symlink_to("a")
        if not same:
            (root / "a").chmod(0o600 + number)
        overlay.set_dates(root, spec.epoch)
        raw = tmp_path / f"{number}.raw"
        disk.partition(raw, size, spec.identifier)
        disk.make_filesystem(root, raw, size, spec.identifier, spec.epoch)
        digests.append(manifest.contents(raw))
    assert (digests[0] == digests[1]) is same


def test_the_digest_of_a_disk_depends_on_what_is_on_it_and_not_on_its_holes(tmp_path):
    holes, zeros, other = (tmp_path / name for name in ("holes", "zeros", "other"))
    with holes.open("wb") as stream:
        stream.truncate(8 << 20)
        stream.seek(5 << 20)
        stream.write(b"data")
    zeros.write_bytes(bytes(5 << 20) + b"data" + bytes((3 << 20) - 4))
    other.write_bytes(bytes(6 << 20) + b"data" + bytes((2 << 20) - 4))
    assert manifest.contents(holes) == manifest.contents(zeros) != manifest.contents(other)


@pytest.fixture
def root(tmp_path):
    """A root with two Debian packages, one of them removed, and a wheel."""
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\nDescription: C\n library\n\n"
        "Package: perl\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 5.36\n\n"
        "Package: linux-image-6.1.0-1-cloud-amd64\nStatus: install ok installed\nArchitecture: amd64\nVersion: 6.1.2-1\n"
    )
    info = tmp_path / software.SITE / "flwr-1.41.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: Flwr\nVersion: 1.41.0\nLicense-Expression: Apache-2.0\n\nx"
    )
    return tmp_path


def test_the_bill_of_materials_lists_what_is_installed_and_is_the_same_each_time(root):
    found = sbom.packages(root)
    assert [package.name for package in found] == ["libc6", "linux-image-6.1.0-1-cloud-amd64", "flwr"]
    text = sbom.bill(ImageSpec(), found)
    assert text == sbom.bill(ImageSpec(), found)
    told = json.loads(text)
    assert told["bomFormat"] == "CycloneDX"
    urls = [component["purl"] for component in told["components"]]
    assert "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=bookworm" in urls
    assert "pkg:pypi/flwr@1.41.0" in urls


def test_the_manifest_has_the_checksums_of_the_file_and_the_versions_in_it(root):
    image = root / "x.qcow2"
    image.write_bytes(b"image")
    told = manifest.manifest(
        manifest.description(ImageSpec(), sbom.packages(root)), image, "digest", {"rootfs": 1, "disk": 2}
    )
    assert told["md5"] == "78805a221a988e79ef3f42d7c5bfd418"
    assert told["sha256"] == "6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d"
    assert told["versions"]["flwr"] == "1.41.0"
    assert told["versions"]["linux"] == "6.1.2-1"
    assert (told["size"], told["rootfs"], told["disk"]) == (5, 1, 2)


def test_the_list_of_a_wheel_s_files_is_the_same_whoever_builds_and_names_only_what_is_there(tmp_path):
    """Installers write commands that name their own Python, and list the digests of these."""
    listed = []
    for number in (1, 2):
        root = tmp_path / str(number)
        site = root / software.SITE
        for name in ("x/code.py", "x/tests/test_code.py", "bin/x", "x-1.dist-info/RECORD"):
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).touch()
        record = site / "x-1.dist-info/RECORD"
        record.write_text(
            f"bin/x,sha256=a{number},9\nx/code.py,sha256=b,2\nx/tests/test_code.py,sha256=c,3\n{record.relative_to(site)},,\n"
        )
        trim.python(root)
        listed.append(record.read_text())
    assert listed == ["x/code.py,sha256=b,2\nx-1.dist-info/RECORD,,\n"] * 2


def test_of_the_kernel_stays_what_a_virtual_machine_needs_and_what_that_depends_on():
    dependencies = """\
kernel/drivers/ata/ahci.ko: kernel/drivers/ata/libahci.ko kernel/drivers/ata/libata.ko
kernel/drivers/ata/libahci.ko: kernel/drivers/ata/libata.ko
kernel/drivers/ata/libata.ko:
kernel/drivers/ata/pata_via.ko: kernel/drivers/ata/libata.ko
kernel/drivers/net/wireless/ath/ath9k/ath9k.ko:
kernel/fs/isofs/isofs.ko: kernel/drivers/cdrom/cdrom.ko
kernel/drivers/cdrom/cdrom.ko:
"""
    assert {path.rpartition("/")[2] for path in modules.closure(dependencies)} == {
        "ahci.ko", "libahci.ko", "libata.ko", "isofs.ko", "cdrom.ko",
    }  # fmt: skip


def sections(name):
    found, section = {}, {}
    for line in (UNITS / name).read_text().splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), {})
        elif "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section[key] = f"{section[key]} {value}" if key in section else value
    return found


def test_every_unit_that_is_enabled_and_ours_exists_and_says_where_it_belongs():
    ours = {unit: target for target, units in overlay.ENABLED.items() for unit in units if "oneflower" in unit}
    assert "oneflower-agent.service" in ours
    for unit, target in ours.items():
        assert sections(re.sub("@.*[.]", "@.", unit))["Install"]["WantedBy"] == target


def test_the_serial_line_and_the_screen_show_what_our_units_say():
    assert {"oneflower-progress@console.service", "oneflower-progress@tty1.service"} <= set(
        overlay.ENABLED["sysinit.target"]
    )
    command = sections("oneflower-progress@.service")["Service"]["ExecStart"]
    for unit in ("oneflower-context.service", "oneflower-online.service", "oneflower-agent.service"):
        assert f"-t {sections(unit)['Service']['SyslogIdentifier']}" in command


def test_the_agent_runs_as_a_user_of_its_own_and_is_started_again_unless_its_settings_are_not_valid():
    service = sections("oneflower-agent.service")["Service"]
    assert service["User"] == overlay.USER
    assert (service["Type"], service["Restart"]) == ("notify", "on-failure")
    assert service["RestartPreventExitStatus"].split() == [str(int(ExitCode.INVALID_INPUT)), "78"]
    assert int(service["LimitNOFILE"]) >= 65536
    assert float(service["WatchdogSec"]) > 0


def test_the_context_is_there_before_the_network_and_the_agent():
    unit = sections("oneflower-context.service")["Unit"]
    assert {"network-pre.target", "systemd-networkd.service", "ssh.service"} <= set(unit["Before"].split())
    assert "one-context-local.service" in unit["After"].split()
    assert "oneflower-context.service" in sections("oneflower-agent.service")["Unit"]["After"].split()


def test_the_ready_script_of_the_template_is_in_the_image_and_can_be_run():
    assert READY_SCRIPT.lstrip("/") in overlay.EXECUTABLE
    assert (overlay.OVERLAY / READY_SCRIPT.lstrip("/")).is_file()


@pytest.mark.parametrize(
    ("active", "status", "ready"), [(True, 0, True), (True, 7, False), (False, 0, False), (False, 7, False)]
)
def test_the_ready_script_tells_the_truth(tmp_path, active, status, ready):
    """A status file from before a reboot says that all is well while the agent does not even run."""
    script = (overlay.OVERLAY / READY_SCRIPT.lstrip("/")).read_text()
    for name, code in (("systemctl", 0 if active else 3), ("oneflower-agent", status)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    script = script.replace("/opt/oneflower/bin/", f"{tmp_path}/")
    done = subprocess.run(["/bin/sh", "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert (done.returncode == 0) is ready


def test_nobody_logs_in_with_a_password():
    text = (overlay.OVERLAY / "etc/ssh/sshd_config.d/oneflower.conf").read_text()
    for line in ("PasswordAuthentication no", "KbdInteractiveAuthentication no", "PermitRootLogin prohibit-password"):
        assert line in text.splitlines()


def test_the_journal_is_bounded():
    text = (overlay.OVERLAY / "etc/systemd/journald.conf.d/oneflower.conf").read_text()
    assert re.search(r"^SystemMaxUse=\d+M$", text, re.MULTILINE)


def laid(tmp_path):
    """A root with our overlay, and enough around it for systemd to look at our units."""
    root = tmp_path / "root"
    for name in ("passwd", "shadow", "group", "gshadow"):
        (root / "etc").mkdir(parents=True, exist_ok=True)
        (root / "etc" / name).write_text("root:x:0:0::/root:/bin/sh\n")
    for name in ("vmlinuz-6.1", "initrd.img-6.1", "grub/x"):
        (root / "boot" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "boot" / name).touch()
    (root / "etc/systemd/system/multi-user.target.wants").mkdir(parents=True)
    (root / "etc/systemd/system/multi-user.target.wants/apt-daily.timer").symlink_to(
        "/lib/systemd/system/apt-daily.timer"
    )
    (root / "etc/ssh").mkdir()
    (root / "etc/ssh/ssh_host_rsa_key").write_text("made while building, so the same in every machine")
    (root / "var/log").mkdir(parents=True)
    overlay.lay(ImageSpec(), root)
    return root


def test_the_overlay_has_no_host_key_no_update_timer_and_no_login_at_the_console(tmp_path):
    root = laid(tmp_path)
    assert not list(root.glob("etc/ssh/ssh_host_*"))
    assert not (root / "etc/systemd/system/multi-user.target.wants/apt-daily.timer").is_symlink()
    assert (root / "etc/systemd/system/multi-user.target.wants/oneflower-agent.service").is_symlink()
    assert (root / "etc/systemd/system/getty@tty1.service").readlink() == Path("/dev/null")
    assert (root / "boot/vmlinuz").readlink() == Path("vmlinuz-6.1")
    assert (root / "etc/machine-id").read_text() == ""  # each machine makes its own
    assert (root / "usr/lib/oneflower/ready").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("mask", [0o002, 0o077])
def test_permissions_in_an_image_are_not_those_of_the_checkout_or_of_the_user(tmp_path, mask):
    """With those of a checkout, /etc could be written by a group, or be read by nobody."""
    source, root = tmp_path / "source", tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc").chmod(0o755)
    earlier = os.umask(mask)
    try:
        (source / "etc/new").mkdir(parents=True)
        (source / "etc/new/settings").touch()
        (source / "etc/run").touch()
        with laying.usual_permissions():
            laying.lay_folder(source, root, ("etc/run",))
        assert os.umask(mask) == mask
    finally:
        os.umask(earlier)
    modes = {str(path.relative_to(root)): path.stat().st_mode & 0o777 for path in root.rglob("*")}
    assert modes == {"etc": 0o755, "etc/new": 0o755, "etc/new/settings": 0o644, "etc/run": 0o755}


def test_two_kernels_are_one_too_many(tmp_path):
    (tmp_path / "root/boot").mkdir(parents=True)
    (tmp_path / "root/boot/vmlinuz-6.2").touch()
    with pytest.raises(OneflowerError) as refused:
        laid(tmp_path)
    assert "2 files vmlinuz-*" in refused.value.message


def test_systemd_accepts_our_units_and_finds_the_agent_well_guarded(tmp_path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze")
    root = laid(tmp_path)
    for path in ("opt/oneflower/bin/oneflower-agent", "opt/oneflower/bin/oneflower-guest"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("#!/bin/sh\n")
        (root / path).chmod(0o755)
    unit = root / "usr/lib/systemd/system/oneflower-agent.service"
    judged = subprocess.run(
        [analyze, "security", "--offline=yes", "--threshold=30", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 0, judged.stdout[-300:] + judged.stderr
    done = subprocess.run(
        [analyze, "verify", "--man=no", f"--root={root}", unit], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "oneflower" in line and "Failed to load" not in line]
    assert [line for line in ours if "Unknown" in line or "Invalid" in line or "ailed to parse" in line] == []
