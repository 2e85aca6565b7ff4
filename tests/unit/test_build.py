from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import oneflower
import oneflower_appliance

CODE = "from oneflower.local.build import build_id; print(build_id())"


def build_of(folder):
    done = subprocess.run(
        [sys.executable, "-c", CODE], env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize(
    "module", ["oneflower/local/oneflow/rules.py", "oneflower/opennebula/vm.py", "oneflower_appliance/errors.py"]
)
def test_a_change_in_any_room_makes_another_build(tmp_path, module):
    for package in (oneflower, oneflower_appliance):
        source = Path(package.__path__[0])
        shutil.copytree(source, tmp_path / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    before = build_of(tmp_path)
    assert build_of(tmp_path) == before
    with (tmp_path / module).open("a") as stream:
        stream.write("\n# changed\n")
    assert build_of(tmp_path) != before
