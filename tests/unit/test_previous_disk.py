"""A machine that boots another disk takes over the state of the one before: once, whole, and only if it is told to."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from oneflower_appliance import previous_disk
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.guest import main, previous

TOLD = {previous_disk.VARIABLE: "YES"}


@pytest.fixture
def old(tmp_path, monkeypatch):
    """The root of the disk before, as a container sees it."""
    root = tmp_path / "disks" / "0"
    state = root / "var/lib/oneflower"
    (state / "runs").mkdir(parents=True)
    (state / "runs" / "model.npz").write_bytes(b"model")
    (state / "key").write_text("secret")
    (state / "key").chmod(0o600)
    os.utime(state / "key", (5, 6))
    (root / "etc/ssh").mkdir(parents=True)
    (root / "etc/ssh/ssh_host_ed25519_key").write_text("host key")
    (root / "etc/ssh/ssh_host_ed25519_key.pub").write_text("host key, public")
    monkeypatch.setattr(previous, "CONTAINER", tmp_path / "disks")
    return root


@pytest.fixture
def place(tmp_path):
    (tmp_path / "new/etc").mkdir(parents=True)
    (tmp_path / "new/lib").mkdir()
    return previous.Place(os.getuid(), tmp_path / "new/lib/oneflower", tmp_path / "new/etc")


def test_state_and_host_keys_come_along_with_modes_and_dates_once(old, place):
    assert "taken over" in previous.take_over(TOLD, place)
    assert (place.home / "runs/model.npz").read_bytes() == b"model"
    key = place.home / "key"
    assert (stat.S_IMODE(key.stat().st_mode), key.stat().st_mtime) == (0o600, 6)
    host = place.keys / "ssh_host_ed25519_key"
    assert (host.read_text(), stat.S_IMODE(host.stat().st_mode)) == ("host key", 0o600)
    assert (place.keys / "ssh_host_ed25519_key.pub").read_text() == "host key, public"
    assert not place.part.exists()
    assert not place.begun.exists()
    key.write_text("of the new disk")
    shutil.rmtree(old)
    assert previous.take_over(TOLD, place) == "", "also where the disk before is gone"
    assert key.read_text() == "of the new disk"


@pytest.mark.parametrize("context", [{}, {previous_disk.VARIABLE: ""}, {previous_disk.VARIABLE: "NO"}])
def test_a_disk_that_is_attached_alone_is_not_looked_at(old, place, context):
    assert previous.take_over(context, place) == ""
    assert not place.home.exists()


def refused(place):
    with pytest.raises(OneflowerError) as error:
        previous.take_over(TOLD, place)
    assert error.value.code is ExitCode.ENVIRONMENT
    assert not place.done.exists()
    return error.value.message


def test_a_state_of_its_own_is_not_replaced(old, place):
    place.home.mkdir()
    (place.home / "mine").touch()
    assert "a state of its own" in refused(place)
    assert [path.name for path in place.home.iterdir()] == ["mine"]


def test_none_and_two_other_disks_are_refused(old, place, tmp_path):
    (tmp_path / "disks/3").mkdir()
    assert "2 other disks" in refused(place)
    shutil.rmtree(tmp_path / "disks/3")
    shutil.rmtree(old)
    assert "no other disk" in refused(place)
    assert not place.home.exists()


@pytest.mark.parametrize("part", ["var", "var/lib", "var/lib/oneflower", "etc", "etc/ssh"])
def test_a_disk_whose_folders_lead_elsewhere_is_refused(old, place, tmp_path, part):
    shutil.move(old / part, tmp_path / "elsewhere")
    (old / part).symlink_to(tmp_path / "elsewhere")
    assert f"/{part} of the disk before is not a folder" in refused(place)
    assert not place.home.exists()


def test_links_are_copied_as_links_and_what_is_no_file_is_left_out(old, place, tmp_path):
    (tmp_path / "shadow").write_text("root's own")
    state = old / "var/lib/oneflower"
    (state / "out").symlink_to(tmp_path / "shadow")
    (state / "folder").symlink_to(tmp_path)
    (old / "etc/ssh/ssh_host_rsa_key").symlink_to(tmp_path / "shadow")
    os.mkfifo(state / "pipe")
    (state / "tool").touch()
    (state / "tool").chmod(0o4755)
    previous.take_over(TOLD, place)
    assert (place.home / "out").readlink() == tmp_path / "shadow"
    assert (place.home / "folder").is_symlink()
    assert not (place.home / "pipe").exists()
    assert not (place.keys / "ssh_host_rsa_key").exists(), "a link is not copied as a key"
    assert stat.S_IMODE((place.home / "tool").stat().st_mode) == 0o755, "nothing runs as somebody else"


def test_a_copy_that_was_cut_short_is_made_again(old, place, monkeypatch):
    usual = shutil.copyfile

    def cut(source, target, **rest):
        if Path(source).name == "model.npz":
            raise OSError(errno.EIO, "Input/output error")
        return usual(source, target, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(previous.shutil, "copyfile", cut)
        with pytest.raises(OSError, match="Input/output"):
            previous.take_over(TOLD, place)
    assert not place.home.exists(), "half a state is none"
    place.home.mkdir()  # systemd makes it for the agent, which then says what is wrong
    (place.home / "status.json").touch()
    assert "taken over" in previous.take_over(TOLD, place)
    assert sorted(path.name for path in place.home.iterdir()) == ["key", "runs"]


def test_a_power_cut_after_the_renaming_takes_it_over_again(old, place):
    previous.take_over(TOLD, place)
    place.done.rename(place.begun)
    assert "taken over" in previous.take_over(TOLD, place)
    assert (place.home / "key").read_text() == "secret"


def test_a_state_without_room_is_refused_before_anything_is_copied(old, place, monkeypatch):
    monkeypatch.setattr(previous, "free_bytes", lambda _: 1 << 20)
    assert "room for 1 MB" in refused(place)
    assert not place.part.exists()


def test_what_went_wrong_is_what_the_agent_says(tmp_path, place, monkeypatch):
    monkeypatch.setattr(previous_disk, "FAILED", tmp_path / "failed")
    monkeypatch.setattr(previous, "CONTAINER", tmp_path / "disks")
    (tmp_path / "disks").mkdir()
    monkeypatch.setattr(main.previous, "Place", lambda _: place)
    main.take_over(TOLD, os.getgid())
    with pytest.raises(OneflowerError, match="cannot be taken over: no other disk"):
        previous_disk.check_previous_disk()
    main.take_over({}, os.getgid())
    previous_disk.check_previous_disk()


def test_the_partition_with_our_root_is_found_on_another_disk_and_the_same_image_is_refused(tmp_path, monkeypatch):
    device = os.makedev(254, 3)
    for name in ("vda/vda3", "vdb/vdb2", "vdb/vdb3", "vdc/vdc1"):
        (tmp_path / "devices" / name).mkdir(parents=True)
        (tmp_path / "devices" / name / "partition").touch()
    (tmp_path / "class/block").mkdir(parents=True)
    (tmp_path / "dev/block").mkdir(parents=True)
    for path in (tmp_path / "devices").glob("*/*"):
        (tmp_path / "class/block" / path.name).symlink_to(path)
    (tmp_path / "dev/block/254:3").symlink_to(tmp_path / "devices/vda/vda3")
    said = {
        "/dev/block/254:3": "UUID=a\n", "/dev/vda3": "", "/dev/vdb2": "PART_ENTRY_TYPE=c12a7328\n",
        "/dev/vdb3": f"UUID=b\nPART_ENTRY_TYPE={previous_disk.ROOT_PARTITION.lower()}\n", "/dev/vdc1": "UUID=data\n",
    }  # fmt: skip
    monkeypatch.setattr(previous, "call", lambda command: (0, said[command[-1]]))
    assert previous.partitions(tmp_path, device) == ["/dev/vdb3"]
    said["/dev/vdb3"] = said["/dev/vdb3"].replace("UUID=b", "UUID=a")
    with pytest.raises(OneflowerError, match="the very image that booted"):
        previous.partitions(tmp_path, device)
