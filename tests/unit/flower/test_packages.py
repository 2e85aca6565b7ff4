from __future__ import annotations

import importlib
import io
import sys
import zipfile
from types import SimpleNamespace

from oneflower_appliance.app_packages import Choice, Declaration
from oneflower_appliance.flower.packages import find_packages_in

PYPROJECT = '[project]\nname = "digits"\ndependencies = ["tiny"]\n'


def fab_of(pyproject):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("pyproject.toml", pyproject)
    return stream.getvalue()


def test_a_task_finds_the_packages_of_its_app_after_all_others(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    packages = tmp_path / "packages-0123456789abcdef"
    packages.mkdir(mode=0o700)
    (packages / "oneflower_tiny_package.py").write_text("SIZE = 1\n")
    (packages / "json.py").write_text("raise RuntimeError('it took the place of another')\n")
    declared = Declaration("digits", ("tiny",))
    Choice("digits", packages.name, "").write(declared.file(tmp_path))
    before = list(sys.path)
    task = SimpleNamespace(install_from_fab=lambda fab, skip_prompt: (fab, skip_prompt))
    find_packages_in(tmp_path, task)
    other = fab_of(PYPROJECT.replace("tiny", "huge"))
    assert task.install_from_fab(other, skip_prompt=True) == (other, True)
    assert sys.path == before, "another app has none"
    task.install_from_fab(fab_of(PYPROJECT), skip_prompt=True)
    assert sys.path == [*before, str(packages)]
    assert importlib.import_module("oneflower_tiny_package").SIZE == 1
    monkeypatch.delitem(sys.modules, "json")
    assert importlib.import_module("json").dumps(1) == "1"
    del sys.modules["oneflower_tiny_package"]
