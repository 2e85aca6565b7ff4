"""The daemon of the local cloud: starting one, and what it knows about a service."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from contextlib import suppress

import pytest

from oneflower.local import daemon
from oneflower.local.clock import SteppedClock
from oneflower.local.home import LocalHome
from oneflower.local.oneflow.documents import Documents
from oneflower.local.oneflow.models import SERVICE_TYPE
from oneflower.local.store import Store
from oneflower_appliance.errors import ExitCode, OneflowerError


@pytest.fixture
def home(tmp_path):
    return LocalHome(tmp_path / "state", tmp_path / "cache").make()


def test_why_a_daemon_does_not_start_is_told_in_its_own_words_and_at_once(home):
    with sqlite3.connect(home.database) as other:
        other.execute("CREATE TABLE from_another_release (id INTEGER)")
    other.close()
    home.log.write_text("2026-01-01 12:00:00,000 ERROR oneflower: what went wrong long ago\n")
    started = time.monotonic()
    with pytest.raises(OneflowerError) as caught:
        daemon.start(home)
    assert time.monotonic() - started < 20, "it is not waited for"
    sentence = f"The local cloud's state at {home.database} was written by another release of oneflower."
    assert caught.value.message.startswith(f"The local cloud did not start: {sentence}")
    assert daemon.find(home) is None


def test_a_daemon_that_does_not_start_on_a_full_disk_says_so(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False, capture_output=True)
    if mount.returncode:
        pytest.skip("mounting is not permitted")
    try:
        small = LocalHome(folder / "state", tmp_path / "cache").make()
        with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        with pytest.raises(OneflowerError, match="The local cloud did not start: The disk is full") as caught:
            daemon.start(small)
        assert caught.value.code is ExitCode.ENVIRONMENT
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_the_host_is_told_what_a_role_was_given(tmp_path):
    store = Store(tmp_path / "cloud.db")
    documents = Documents(store, SteppedClock())
    roles = [{"name": "superlink"}, {"name": "supernode", "user_inputs_values": {"ML_FRAMEWORK": "pytorch"}}]
    service = documents.insert(SERVICE_TYPE, {"name": "lab", "state": 2, "roles": roles})
    assert documents.input_of(service.id, "ML_FRAMEWORK") == "pytorch"
    assert documents.input_of(service.id, "FL_MODEL") is None
    assert documents.input_of(service.id + 1, "ML_FRAMEWORK") is None
    store.close()
