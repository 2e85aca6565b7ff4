"""What `oneflower cache` shows and removes: nothing that is in use, and nothing that is not the user's own."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from oneflower.cli.app import app
from oneflower.opennebula.text import context_sh
from oneflower.runtimes import cache, runtime
from oneflower_appliance.app_packages import Choice, Declaration

OLD = time.time() - 5 * 86400
NAME, OTHER = "flwr-1.42.0-sklearn-0123456789ab", "flwr-1.41.0-jax-0123456789ab"
PACKAGES = "packages-0123456789abcdef"


def make(folder, used=OLD):
    folder.mkdir(parents=True)
    (folder / "file").write_text("12345")
    os.utime(folder, (used, used))
    return folder


@pytest.fixture
def runtimes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("ONEFLOWER_HOME", str(tmp_path / "state"))
    folder = tmp_path / "cache" / "oneflower" / "runtimes"
    for name in (NAME, OTHER, "appliance-0123456789ab", ".new-left", f"apps/{NAME}/{PACKAGES}"):
        make(folder / name)
    os.utime(folder / "apps" / NAME / PACKAGES, (OLD, OLD))
    return folder


def oneflower(*words):
    done = CliRunner().invoke(app, ["cache", *words, "-o", "json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_what_is_kept_is_shown_and_what_nobody_uses_is_removed(runtimes):
    shown = oneflower("show")
    assert {(row["kind"], row["bytes"], row["in_use"]) for row in shown} == {
        ("runtime", 5, False), ("appliance", 5, False), ("packages", 5, False), ("unfinished", 5, False),
    }  # fmt: skip
    declared = Declaration("digits", ("tiny",))
    Choice("digits", PACKAGES, "").write(declared.file(runtimes / "apps" / NAME))
    assert oneflower("clean", "--older-than", "6")["removed"] == []
    done = oneflower("clean", "--older-than", "4")
    assert {os.path.basename(path) for path in done["removed"]} == {os.path.basename(row["path"]) for row in shown}
    assert done["bytes"] == 25
    assert names(runtimes) == {"apps", "use.lock"}
    assert names(runtimes / "apps" / NAME) == set(), "no app names packages that are gone"


def test_a_runtime_stays_while_a_process_uses_it_and_so_do_its_apps_packages(runtimes):
    machine = subprocess.Popen(
        [sys.executable, "-S", "-c", "input()"],
        stdin=subprocess.PIPE,
        env={"ONEFLOWER_APP_PACKAGES": f"/x/apps/{NAME}"},
    )
    try:
        cache.remove(runtimes, 0)
    finally:
        machine.communicate(b"\n")
    assert names(runtimes) == {NAME, "apps", "use.lock"}
    assert names(runtimes / "apps" / NAME) == {PACKAGES}


def test_a_runtime_stays_that_a_stopped_machine_will_boot_from(runtimes, tmp_path):
    name = runtime.folder_name("1.42.0", "sklearn")
    (runtimes / NAME).rename(runtimes / name)
    context = tmp_path / "state" / "machines" / "7" / "context"
    context.mkdir(parents=True)
    (context / "context.sh").write_text(context_sh({"FLOWER_VERSION": "1.42.0", "ML_FRAMEWORK": "sklearn"}))
    oneflower("clean")
    assert names(runtimes) >= {name}
    assert OTHER not in names(runtimes)


def test_what_a_command_has_just_found_or_is_building_stays(runtimes, monkeypatch):
    monkeypatch.setattr(runtime, "folder_name", lambda *_: NAME)
    (runtimes / NAME / ".complete").touch()
    os.utime(runtimes / NAME / ".complete", (OLD, OLD))
    found = runtime.find(runtimes, "1.42.0", "sklearn")
    with (runtimes / f"{OTHER}.lock").open("w") as building:
        fcntl.flock(building, fcntl.LOCK_EX)
        cache.remove(runtimes, 0)
    assert names(runtimes) >= {NAME, OTHER, found.appliance.name}


def test_nothing_is_removed_while_a_command_looks_for_a_runtime(runtimes, monkeypatch):
    tried = []

    def lock(_stream, how):
        tried.append(how)
        if how == fcntl.LOCK_EX:
            os.utime(runtimes / NAME)  # which another command has found a moment ago

    monkeypatch.setattr(fcntl, "flock", lock)
    cache.remove(runtimes, 0)
    assert fcntl.LOCK_EX in tried
    assert NAME in names(runtimes)


def test_a_runtime_is_found_on_a_full_disk(runtimes, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    monkeypatch.setattr(os, "utime", full)
    with cache.using(runtimes):
        cache.note_use(runtimes / NAME)


def test_links_and_other_peoples_folders_are_left_alone(runtimes, tmp_path, monkeypatch):
    outside = make(tmp_path / "outside")
    (runtimes / "flwr-1.42.0-none-0123456789ab").symlink_to(outside)
    (runtimes / NAME / "link").symlink_to(outside)
    os.utime(runtimes / NAME, (OLD, OLD))
    make(runtimes / "thesis")
    cache.remove(runtimes, 0)
    assert names(outside) == {"file"}
    assert names(runtimes) == {"flwr-1.42.0-none-0123456789ab", "thesis", "apps", "use.lock"}
    make(runtimes / NAME)
    link = tmp_path / "link"
    link.symlink_to(runtimes)
    assert cache.remove(link, 0) == []
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert cache.remove(runtimes, 0) == cache.entries(runtimes) == []


def test_parts_of_images_go_unless_a_build_uses_them(runtimes):
    images = runtimes.with_name("images")
    images.mkdir()
    for name in ("base-1.tar", "lock"):
        (images / name).write_text("12345")
    assert [row["bytes"] for row in oneflower("show") if row["kind"] == "image"] == [5]
    with (images / "lock").open("w") as building:
        fcntl.flock(building, fcntl.LOCK_EX)
        assert str(images / "base-1.tar") not in oneflower("clean")["removed"]
    assert oneflower("clean", "--older-than", "1")["removed"] == []
    assert oneflower("clean")["removed"] == [str(images / "base-1.tar")]
