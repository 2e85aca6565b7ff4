from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from oneflower.cli import shown
from oneflower.cloud import training
from oneflower.cloud.dependencies import compare
from oneflower.cloud.following import Observer
from oneflower.cloud.status import FederationStatus
from oneflower.cloud.surroundings import Installed
from oneflower.cloud.tunnel import SshOptions
from oneflower.clouds import OpenNebulaSurroundings
from oneflower_appliance.app_packages import Declaration, excluded_by
from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.parameters import FLOWER_TESTED

HAVE = {"flwr": "1.42.0", "numpy": "2.3.5", "torch": "2.9.1+cpu", "tensorflow-cpu": "2.20.0", "some-package": ""}


@pytest.mark.parametrize(
    ("line", "missing", "conflict"),
    [
        ("flwr[simulation]>=1.41", "", ""),
        ("NumPy", "", ""),
        ("torch==2.9.1", "", ""),
        ("tensorflow>=2", "", ""),  # machines have a build for the CPU
        ("xgboost", "xgboost", ""),
        ("Some_Package[extra]>=7", "", ""),  # of which release it is, is not known
        ("oneflower-appliance", "", ""),
        ("winsdk; sys_platform == 'win32'", "", ""),
        ("Tiny.Package[more]>=1,<2; python_version > '3'", "Tiny.Package[more]<2,>=1", ""),
        ("numpy<2", "", "numpy<2 (the app's pyproject.toml), numpy==2.3.5 (the machines)"),
        ("flwr[simulation]==1.13.1", "", "flwr==1.13.1 (the app's pyproject.toml), flwr==1.42.0 (the machines)"),
    ],
)
def test_a_line_of_an_app_is_there_is_missing_or_conflicts(line, missing, conflict):
    compared = compare([line], HAVE)
    assert ", ".join(compared.missing) == missing
    assert "".join(map(str, compared.conflicts)) == conflict


NEEDS = {
    "requests": ["idna>=2", "PySocks!=1.5.7,>=1.5.6; extra == 'socks'", "chardet<8; extra == 'old'"],
    "httpx": ["anyio", "requests[socks]; extra == 'all'", "winsdk; extra == 'all' and sys_platform == 'win32'"],
    "flwr": ["ray==2.51; extra == 'simulation'"],
}


@pytest.mark.parametrize(
    ("line", "missing", "conflict"),
    [
        ("requests[socks]", "PySocks!=1.5.7,>=1.5.6", ""),
        ("Requests[Socks,old]>=2", "PySocks!=1.5.7,>=1.5.6", "Requests[Socks,old], which needs chardet<8"),
        ("requests[no-such-extra]", "", ""),
        ("httpx[all]", "PySocks!=1.5.7,>=1.5.6", ""),  # the extra of another's extra
        ("other[more]", "other[more]", ""),  # what is missing comes with its extras
        ("flwr[simulation]", "", ""),
    ],
)
def test_the_extras_that_a_line_names_are_looked_for_too(line, missing, conflict):
    have = HAVE | {"requests": "2.34.0", "httpx": "0.28.1", "idna": "3.1", "chardet": "8.0"}
    compared = compare([line], have, lambda name: NEEDS.get(name, []))
    assert ", ".join(compared.missing) == missing
    asked = f"{conflict} (the app's pyproject.toml), chardet==8.0 (the machines)" if conflict else ""
    assert "".join(map(str, compared.conflicts)) == asked


def test_what_an_app_needs_and_the_machines_lack_is_named_with_the_remedy():
    with pytest.raises(OneflowerError, match="needs a>1, b, which the machines of lab do not have") as caught:
        compare(["b", "a>1", "flwr"], HAVE).refuse_missing("mine", "lab", "Do without.")
    assert caught.value.hint == "Do without."
    compare(["flwr"], HAVE).refuse_missing("mine", "lab", "")


def test_both_lines_of_a_conflict_are_named():
    with pytest.raises(OneflowerError, match="asks for other releases than the machines of lab have") as caught:
        compare(["numpy<2", "flwr>=2"], HAVE).refuse_conflicts("mine", "lab")
    assert caught.value.message.splitlines()[1:] == [
        "  flwr>=2 (the app's pyproject.toml), flwr==1.42.0 (the machines)",
        "  numpy<2 (the app's pyproject.toml), numpy==2.3.5 (the machines)",
    ]
    assert "--ignore-versions" in caught.value.hint


APP = """
[project]
name = "mine"
dependencies = ["numpy<2", "tiny>=1", "small"]
[tool.flwr.app.components]
serverapp = "mine.server:app"
clientapp = "mine.client:app"
"""
BEGUN = "no SuperLink that is ready"  # all that was checked before is well


class Machines:
    """Machines on which packages were installed for the app, or not yet."""

    def __init__(self, own):
        self.own, self.installed = own, []

    def flwr(self, version, framework, tell):
        return Path("flwr"), HAVE

    def needs(self, status, package):
        return []

    def app_packages(self, status, app, declaration):
        return self.own

    def install(self, status, app, declaration, missing):
        self.installed.append((declaration.app, missing))

    def remedy(self):
        return "Do without."


@pytest.mark.parametrize(
    ("own", "asked", "outcome", "installed"),
    [
        ({}, {}, "asks for other releases(.|\n)*numpy<2", []),
        ({}, {"install": True}, "asks for other releases", []),
        ({}, {"ignore_versions": True}, "needs small, tiny>=1, which", []),
        ({"small": "1"}, {"ignore_versions": True}, "needs tiny>=1, which", []),
        ({"small": "1", "tiny": "2"}, {"ignore_versions": True}, BEGUN, []),
        ({"small": "1", "tiny": "2"}, {"ignore_versions": True, "install": True}, BEGUN, []),
        ({}, {"ignore_versions": True, "install": True}, BEGUN, [("mine", ("small", "tiny>=1"))]),
    ],
)
def test_nothing_is_installed_that_was_not_asked_for_and_nothing_starts_without_it(
    own, asked, outcome, installed, tmp_path
):
    (tmp_path / "pyproject.toml").write_text(APP)
    machines = Machines(own)
    with pytest.raises(OneflowerError, match=outcome):
        training.train(
            machines, FederationStatus(1, "lab", "RUNNING", 2), training.Request(str(tmp_path), None, {}, Path(), **asked),
            Observer(print, print, print),
        )  # fmt: skip
    assert machines.installed == installed


def test_show_names_the_packages_that_people_ask_for_and_those_of_single_apps():
    variant = {"flwr": "1.42.0", "numpy": "2.3.5", "scikit-learn": "1.9.1", "click": "8.4.0", "idna": "3.20"}
    installed = Installed(variant, {"mine": {"small": "1", "tiny": "2"}})
    assert list(shown.package_lines(installed, "sklearn", {"added": "7"})) == [
        "Packages: flwr 1.42.0, numpy 2.3.5, scikit-learn 1.9.1, added 7 and 2 more (-o json lists all)",
        "Packages for mine alone: small 1, tiny 2",
    ]
    assert list(shown.package_lines(Installed({}), "none", {})) == []
    assert list(shown.package_lines(Installed({}), "none", {"added": "7"})) == ["Packages: added 7"]


@pytest.mark.parametrize("version", ["x/flwr-1.42.0", "../flwr-1.42.0", "1.42.0\0", "9" * 5000, ""])
def test_a_release_that_a_machine_publishes_names_no_other_file(version):
    surroundings = OpenNebulaSurroundings("flower", SshOptions())
    machines = FederationStatus(1, "lab", "RUNNING", 2, settings={"ML_FRAMEWORK": "sklearn"})
    assert surroundings.installed(replace(machines, version=version)).variant == {}
    assert surroundings.installed(replace(machines, version=FLOWER_TESTED)).variant["flwr"] == FLOWER_TESTED


def test_machines_that_boot_an_image_are_not_changed_for_an_app():
    surroundings, machines = OpenNebulaSurroundings("flower", SshOptions()), FederationStatus(1, "lab", "RUNNING", 2)
    declared = Declaration("mine", ("tiny",))
    assert surroundings.app_packages(machines, Path(), declared) == {}
    with pytest.raises(
        OneflowerError, match="tiny cannot be installed for the app mine: the machines of lab"
    ) as caught:
        surroundings.install(machines, Path(), declared, ["tiny"])
    assert "oneflower image build --app" in caught.value.hint


def test_a_build_for_the_cpu_counts_and_a_release_that_is_not_known_excludes_nothing():
    have = {"tensorflow-cpu": "2.20.0", "tiny": ""}
    assert excluded_by(Requirement("tensorflow<2"), have) == "tensorflow==2.20.0"
    assert excluded_by(Requirement("TensorFlow>=2"), have) == ""
    assert excluded_by(Requirement("Tiny>=7"), have) == excluded_by(Requirement("other>=7"), have) == ""
