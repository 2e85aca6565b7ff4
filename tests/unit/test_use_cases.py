"""A use case is a folder in apps/ and an entry in use_cases.py: nothing else names it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import oneflower_appliance
from oneflower_appliance.use_cases import USE_CASES

ROOT = Path(__file__).parent.parent.parent
APPLIANCE = Path(oneflower_appliance.__file__).parent
EXAMPLE = "image-classification"  # the one that the demo trains and that messages give as an example

TRY_TOY = """
import sys
import pytest
import oneflower_appliance
assert oneflower_appliance.__file__.startswith(sys.argv[1])
from oneflower.opennebula import ServiceOptions, service_template
from oneflower_appliance.settings import InvalidParametersError, resolve
from tests.unit import federation
assert resolve({"FL_USE_CASE": "toy", "FL_MODEL": "cnn"}).text("FL_USE_CASE") == "toy"
with pytest.raises(InvalidParametersError, match="toy has cnn"):
    resolve({"FL_USE_CASE": "toy", "FL_MODEL": "resnet18"})
with pytest.raises(InvalidParametersError, match="toy needs one of sklearn"):
    resolve({"FL_USE_CASE": "toy", "ML_FRAMEWORK": "pytorch"})
assert "none,toy," in str(service_template(ServiceOptions(template_ids={"superlink": 7, "supernode": 8})))
with pytest.MonkeyPatch.context() as monkeypatch:
    trained = federation.train(monkeypatch, "toy", framework="sklearn", num_server_rounds=1)
print(trained.accuracy)
"""


@pytest.fixture
def packages(tmp_path):
    """The appliance with one more use case, as one adds it: a copied folder and an entry."""
    package = tmp_path / "packages" / "oneflower_appliance"
    shutil.copytree(APPLIANCE, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(package / "apps" / EXAMPLE, package / "apps" / "toy")
    (package / "apps" / "toy" / EXAMPLE.replace("-", "_")).rename(package / "apps" / "toy" / "toy")
    for path in (package / "apps" / "toy").rglob("*.*"):
        path.write_text(path.read_text().replace("image_classification", "toy").replace(EXAMPLE, "toy"))
    table = package / "use_cases.py"
    entry = 'USE_CASES = {\n    "toy": UseCase(_APPS / "toy", ("sklearn",), ("cnn",)),\n'
    assert "USE_CASES = {\n" in table.read_text()
    table.write_text(table.read_text().replace("USE_CASES = {\n", entry))
    return package.parent


def test_a_folder_and_an_entry_make_a_use_case(packages, tmp_path):
    environment = os.environ | {"PYTHONPATH": f"{packages}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", TRY_TOY, str(packages)]
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert float(found.stdout.splitlines()[-1]) > 0.8


@pytest.mark.parametrize("name", [name for name in USE_CASES if name != EXAMPLE])
def test_no_code_outside_its_folder_and_its_entry_names_a_use_case(name):
    named = re.compile(rf"\b({re.escape(name)}|{re.escape(name.replace('-', '_'))})\b")
    folders = (ROOT / "src", ROOT / "appliance" / "src", ROOT / "scripts")
    files = [path for folder in folders for path in folder.rglob("*.py")] + [ROOT / "pyproject.toml", ROOT / "Makefile"]
    apps = APPLIANCE / "apps"
    assert [
        path.relative_to(ROOT)
        for path in files
        if path != APPLIANCE / "use_cases.py" and apps not in path.parents and named.search(path.read_text())
    ] == []
