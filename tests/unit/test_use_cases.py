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


@pytest.mark.e2e
def test_a_folder_and_an_entry_make_a_use_case(packages, tmp_path):
    environment = os.environ | {"PYTHONPATH": f"{packages}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", TRY_TOY, str(packages)]
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert float(found.stdout.splitlines()[-1]) > 0.8


TRY_SKELETON = """
import importlib.util
import sys
import pytest
import oneflower_appliance
assert oneflower_appliance.__file__.startswith(sys.argv[1])
from oneflower.cloud.apps import load_app
from oneflower.opennebula import ServiceOptions, service_template
from oneflower_appliance.flower import internals
from oneflower_appliance.parameters import PARAMETERS
from oneflower_appliance.settings import InvalidParametersError, resolve
from oneflower_appliance.use_cases import USE_CASES
from tests.unit import federation
spec = importlib.util.spec_from_file_location("generate_docs", sys.argv[2])
docs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(docs)

name = "two-words"
assert name in PARAMETERS["FL_USE_CASE"].user_input(), "the form offers it"
form = resolve({"FL_USE_CASE": name, "FL_NUM_ROUNDS": "4"})
for wrong, why in (({"FL_MODEL": "cnn"}, "two-words has one model only"), ({"ML_FRAMEWORK": "pytorch"}, "one of sklearn")):
    with pytest.raises(InvalidParametersError, match=why):
        resolve({"FL_USE_CASE": name, **wrong})
assert name in str(service_template(ServiceOptions(template_ids={"superlink": 7, "supernode": 8})))
assert "- two-words: frameworks sklearn; models no choice" in docs.parameters_page()
assert internals.app_builder().build_fab_from_disk(USE_CASES[name].folder), "a SuperLink can start it"
config = load_app(name, form).run_config(form, None, {})
settings = {key.replace("-", "_"): value for key, value in config.items()}
with pytest.MonkeyPatch.context() as monkeypatch:
    trained = federation.train(monkeypatch, name, **settings)
losses = [record["loss"] for record in trained.result.evaluate_metrics_clientapp.values()]
assert len(losses) == 4, "FL_NUM_ROUNDS"
print(losses[-1])
"""


@pytest.mark.e2e
def test_make_new_use_case_makes_a_folder_that_trains_with_the_entry_that_it_prints(tmp_path):
    package = tmp_path / "packages" / "oneflower_appliance"
    shutil.copytree(APPLIANCE, package, ignore=shutil.ignore_patterns("__pycache__"))
    script = [sys.executable, ROOT / "scripts" / "new_use_case.py", "two-words", "--apps", package / "apps"]
    made = subprocess.run(script, capture_output=True, text=True, check=True)
    table = package / "use_cases.py"
    table.write_text(table.read_text().replace("USE_CASES = {\n", f"USE_CASES = {{\n{made.stdout}"))
    assert not [path for path in (package / "apps/two-words").rglob("*.*") if "skeleton" in path.read_text()]
    environment = os.environ | {"PYTHONPATH": f"{package.parent}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", TRY_SKELETON, str(package.parent), str(ROOT / "scripts/generate_docs.py")]
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert float(found.stdout.splitlines()[-1]) < 0.7, "it learns: the untrained model has 1"


def test_a_use_case_that_is_there_or_has_no_fit_name_is_not_made(tmp_path):
    for name, why in ((EXAMPLE, "exists already"), ("Two Words", "is not a name"), ("../x", "is not a name")):
        script = [sys.executable, ROOT / "scripts" / "new_use_case.py", name]
        made = subprocess.run(script, capture_output=True, text=True, check=False)
        assert made.returncode == 1
        assert why in made.stderr


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
