from __future__ import annotations

import os
import stat

import pytest

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import private_directory, write_atomic


def test_a_file_is_private_from_the_first_byte_and_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "key.pem"
    write_atomic(path, "one")
    write_atomic(path, b"two")
    assert path.read_text() == "two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["key.pem"]


def test_what_cannot_be_written_is_said_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for act in (lambda: write_atomic(tmp_path / "file" / "x", "a"), lambda: private_directory(tmp_path / "file" / "x")):
        with pytest.raises(OneflowerError, match=r"Cannot write (.|\n)*Free some disk space") as caught:
            act()
        assert caught.value.code is ExitCode.ENVIRONMENT


def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    write_atomic(path, "old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OneflowerError, match="No space left"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["status.json"]
