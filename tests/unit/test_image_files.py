"""Image files and what is around them: that they are whole, and that what is missing or half done is said and removed."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from oneflower import prerequisites
from oneflower.images import ImageSpec, app_image, appliance, manifest, rootless
from oneflower.images.sbom import Package
from oneflower.images.scratch import scratch
from oneflower.local.host.bridge import NAMESPACES
from oneflower.trial.outside import NAMESPACED
from oneflower_appliance.errors import ExitCode, OneflowerError

FOUND = [Package("pypi", "flwr", "1.42.0")]


@pytest.fixture
def image(tmp_path):
    """An image file with its manifest. What is in the file does not matter here."""
    path = tmp_path / "oneflower-none-flwr-1.42.0.qcow2"
    path.write_bytes(b"an image" * 1000)
    described = manifest.description(ImageSpec("none"), FOUND)
    told = manifest.manifest(described, path, "digest", {"rootfs": 1, "disk": 2})
    app_image.manifest_of(path).write_text(json.dumps(told))
    return path


def test_a_whole_image_is_known_by_its_manifest(image):
    known = app_image.checked_image(image)
    assert (known.variant, known.flower, known.length) == ("none", "1.42.0", 8000)


def truncate(path):
    os.truncate(path, 7000)


def change(path):
    with path.open("r+b") as stream:
        stream.seek(5000)
        stream.write(b"X")


@pytest.mark.parametrize(("damage", "why"), [(truncate, "has 7000 bytes"), (change, "has the sha256")])
def test_an_image_that_was_truncated_or_changed_is_refused(image, damage, why):
    damage(image)
    with pytest.raises(OneflowerError, match=why) as refused:
        app_image.checked_image(image)
    assert refused.value.code is ExitCode.INVALID_INPUT
    assert "Copy it again" in refused.value.hint


def test_an_image_without_its_manifest_is_refused(image):
    app_image.manifest_of(image).unlink()
    with pytest.raises(OneflowerError, match="no manifest beside") as refused:
        app_image.checked_image(image)
    assert "oneflower-none-flwr-1.42.0.json" in refused.value.hint


def test_an_image_says_itself_what_is_in_it(tmp_path):
    path = tmp_path / manifest.DESCRIPTION
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(manifest.description(ImageSpec("llm"), FOUND)))
    assert app_image.contents(tmp_path) == app_image.Contents("llm", "pytorch", "1.42.0")
    for wrong in ("", "[]", "{}"):
        path.write_text(wrong)
        with pytest.raises(OneflowerError, match="not the root file system of an image of ours"):
            app_image.contents(tmp_path)


def test_what_is_missing_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(prerequisites.shutil, "which", lambda name, path: None if name in ("ip", "mcopy") else name)
    monkeypatch.setattr(prerequisites.os, "geteuid", lambda: 1000)
    needed = {"ip": "iproute2", "mcopy": "mtools", "tar": "tar", "/no/such/file": "grub-pc-bin", "/etc/passwd": "x"}
    with pytest.raises(
        OneflowerError, match="Trying it needs Debian packages .*: iproute2, mtools, grub-pc-bin"
    ) as told:
        prerequisites.require_packages("Trying it", needed)
    assert told.value.hint == "Run: sudo apt-get install --no-install-recommends iproute2 mtools grub-pc-bin"
    assert told.value.code is ExitCode.ENVIRONMENT
    with pytest.raises(OneflowerError, match="Trying it needs root, because of its machines"):
        prerequisites.require_root("Trying it", "of its machines")


@pytest.fixture
def ordinary_user(monkeypatch, tmp_path):
    """An ordinary user of a machine that has the tools. What would be started is in the list that is returned."""
    started = []
    monkeypatch.setattr(rootless.os, "geteuid", lambda: 12345)
    monkeypatch.setattr(rootless.pwd, "getpwuid", lambda _: SimpleNamespace(pw_name="ann"))
    monkeypatch.setattr(rootless, "require_packages", lambda *_: None)
    monkeypatch.setattr(rootless, "run", lambda command, *_: started.append(command))
    monkeypatch.setattr(rootless, "become", started.append)
    monkeypatch.setattr(rootless, "_IDS_OF", (tmp_path / "subuid", tmp_path / "subgid"))
    return started


def test_an_ordinary_user_builds_in_a_user_namespace(ordinary_user, tmp_path):
    (tmp_path / "subuid").write_text("bob:100000:65536\nann:165536:65536\n")
    (tmp_path / "subgid").write_text("12345:165536:65536\n")
    rootless.become_root()
    probe, build = ordinary_user
    assert probe[:2] == build[:2] == ["unshare", "--user"]
    assert build[-len(sys.orig_argv) + 1 :] == sys.orig_argv[1:]


@pytest.mark.parametrize("ids", ["", "ann:165536:1000\n", "bob:100000:65536\n", "ann\n"])
def test_an_ordinary_user_without_ids_for_the_files_is_told_how_to_get_them(ordinary_user, tmp_path, ids):
    (tmp_path / "subuid").write_text("ann:165536:65536\n")
    (tmp_path / "subgid").write_text(ids)
    with pytest.raises(OneflowerError, match=r"needs 65536 ids .*subgid gives ann fewer") as refused:
        rootless.become_root()
    assert "sudo usermod --add-subuids" in refused.value.hint
    assert ordinary_user == []


def test_a_package_that_is_older_than_its_checkout_is_refused(tmp_path, monkeypatch):
    """An image would lack a command that was added to pyproject.toml since."""
    text = (appliance.SOURCE.parent.parent / "pyproject.toml").read_text()
    assert appliance.installed().version
    source = tmp_path / "src" / "oneflower_appliance"
    monkeypatch.setattr(appliance, "SOURCE", source)
    assert appliance.installed().version  # of a wheel: there is no checkout
    newer = text.replace("[project.scripts]\n", '[project.scripts]\nanother = "oneflower_appliance.another:main"\n')
    (tmp_path / "pyproject.toml").write_text(newer)
    with pytest.raises(OneflowerError, match="was changed after the appliance was installed") as refused:
        appliance.installed()
    assert "scripts/uv sync" in refused.value.hint


def test_what_a_killed_process_left_is_removed_and_what_another_uses_is_not(tmp_path):
    code = f"""
import sys
from pathlib import Path
from oneflower.images.scratch import scratch
with scratch(Path({str(tmp_path)!r}), "build-") as folder:
    (folder / "half").write_text("done")
    print(folder, flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        theirs = Path(other.stdout.readline().strip())
        with scratch(tmp_path, "build-") as ours:
            assert (theirs / "half").exists()
            assert ours != theirs
        assert list(tmp_path.iterdir()) == [theirs]
        other.kill()
    with scratch(tmp_path, "build-"):
        assert not theirs.exists()


def test_a_tool_ends_when_the_build_is_killed(tmp_path):
    os.mkfifo(tmp_path / "pid")
    code = "from oneflower.images.tools import tool; tool(['sh', '-c', 'echo $$ >pid; exec sleep 60'], 'wait')"
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path) as build:
        handle = os.pidfd_open(int((tmp_path / "pid").read_text()))
        build.send_signal(signal.SIGKILL)
    assert select.select([handle], [], [], 10)[0], "it still runs"


def test_a_trial_that_is_killed_leaves_no_network_namespace(tmp_path):
    try:
        prerequisites.require_root("This", "it sets up a network")
        prerequisites.require_packages("This", {"ip": "iproute2", "unshare": "util-linux", "mount": "mount"})
    except OneflowerError as error:
        pytest.skip(str(error))
    code = """
import os, signal
from oneflower.trial import inside, outside
from oneflower.local.host.bridge import NAMESPACES, Bridge
inside.isolate()
bridge = Bridge(77)
bridge.up()
bridge.plug(1, ["02:00:0a:4d:00:05"])
print([path.name for path in NAMESPACES.iterdir()], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    before = set(NAMESPACES.glob("*"))
    done = subprocess.run(
        [*NAMESPACED, sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.stdout.strip() == "['oneflower77-1']", done.stderr
    assert set(NAMESPACES.glob("*")) == before
