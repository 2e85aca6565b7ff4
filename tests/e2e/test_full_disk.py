"""A disk that really fills up during a run: all files of the user are on a small file system."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import suppress

import pytest

from .conftest import User, until
from .test_survival import EPOCHS
from .test_training import app  # noqa: F401 - a fixture

pytestmark = pytest.mark.e2e


@pytest.fixture
def small(tmp_path):
    """A user whose home has room for a federation and not for much more."""
    folder = tmp_path / "home"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted")
    somebody = User(tmp_path)
    try:
        yield somebody
        somebody.leave()
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(path):
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            with suppress(OSError):
                while True:
                    file.write(b"x" * size)


NO_ROOM = "There is no room for it on the SuperLink's machine: 1 MiB of memory are full"


def test_a_full_disk_is_said_to_be_full_by_whatever_is_asked(small, app):  # noqa: F811 - the fixture
    small("up", "lab", "--set", "FL_OBJECT_MEMORY=1")  # and the disk is smaller than what is left free on it
    said = small("run", str(app), "-f", "lab", "--config", "start=500000", code=8).stderr
    assert f"failed: {NO_ROOM}" in said, said
    until(lambda: NO_ROOM in small("show", "lab").stdout, 20, "the reason of the run in `show`")
    # The node says so, or the SuperLink does, if the ServerApp waits for the rest of that reply already. If the ServerApp
    # asks just between the two, it learns only that the reply is gone: then the run is tried again.
    of_node = re.compile(rf"in training: .*{NO_ROOM}")
    grown = ("run", str(app), "-f", "lab", "--config", "grown=500000")
    until(lambda: of_node.search(small(*grown, code=8).stderr), 60, "the reason of a node in a run")
    until(lambda: of_node.search(small("show", "lab").stdout), 20, "the reason of a node in `show`")
    process, lines = small.say("run", "image-classification", "-f", "lab", "-c", EPOCHS, "-c", "num-server-rounds=50")
    until(lambda: any(line.lstrip().startswith("1/50") for line in lines), 60, "the first round")
    filler = small.home.state / "filler"
    try:
        fill(filler)
        until(lambda: any("The disk is full" in line for line in lines), 30, "a word of it from the run")
        for arguments in (("up", "another"), ("scale", "lab", "3")):
            said = small(*arguments, code=None)
            assert "The disk is full" in said.stderr, said.stderr
            assert str(small.home.state) in said.stderr
            assert said.returncode not in (0, 1), said.stderr
    finally:
        filler.unlink()
        process.kill()
        process.wait()
    assert os.statvfs(small.home.state).f_bavail
