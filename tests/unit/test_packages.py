"""What FL_PACKAGES asks for: how it is read, what a machine refuses, and what it installs."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile

import pytest

from oneflower.cloud.reading import _packages
from oneflower_appliance.agent import packages
from oneflower_appliance.agent.journal import Journal
from oneflower_appliance.agent.machine import Machine
from oneflower_appliance.attributes import PACKAGES
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.packages import Wanted, read_packages
from oneflower_appliance.settings import resolve

ONE, TWO = "1" * 64, "2" * 64


def wheel(folder, name, version="1.0", needs=(), files=None):
    """Write a wheel and return its line in a list."""
    about = f"{name}-{version}.dist-info"
    content = {
        **(files or {f"{name}.py": "answer = 42\n"}),
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + "".join(f"Requires-Dist: {need}\n" for need in needs),
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},{_digest(text)},{len(text)}\n" for path, text in content.items())
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for each, text in {**content, f"{about}/RECORD": f"{record}{about}/RECORD,,\n"}.items():
            archive.writestr(each, text)
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def _digest(text):
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@pytest.fixture
def wheels(tmp_path):
    folder = tmp_path / "wheels"
    folder.mkdir()
    return folder


@pytest.fixture
def machine(tmp_path, wheels):
    def boot(wanted, **more):
        given = {"FL_PACKAGES": wanted, "FL_PACKAGE_INDEX": str(wheels), **more}
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        return Machine(home, {}, resolve(given), Journal("superlink", home / "status.json"), None)

    return boot


def imported(machine, code):
    """Run a line of Python as a process of Flower's would."""
    environment = {**os.environ, **packages.environment(machine.home, machine.settings)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_value_and_a_list_are_read_alike():
    text = f"# what the app needs\nPandas_Extra[io]==2.1 \\\n    --hash=sha256:{ONE} \\\n    --hash=sha256:{TWO}\nb>=1,<2\n"
    assert read_packages(text) == [Wanted("Pandas_Extra[io]==2.1", (ONE, TWO)), Wanted("b>=1,<2")]
    first, second = read_packages(f"Pandas_Extra[io]==2.1 --hash=sha256:{ONE} --hash=sha256:{TWO} b>=1,<2")
    assert (first.name, first.specifier, first.is_verified) == ("pandas-extra", "==2.1", True)
    assert (second.specifier, second.is_verified) == (">=1,<2", False)
    assert not read_packages(f"a==2.* --hash=sha256:{ONE}")[0].is_verified
    assert str(read_packages(str(first))[0]) == str(first)


@pytest.mark.parametrize(
    "word", ["-e", "--extra-index-url", "a;os_name=='x'", "a$(id)", "../a.txt", "a==1,", "file:///a"]
)
def test_a_list_cannot_hold_anything_but_packages(word):
    with pytest.raises(ValueError, match=r".+"):
        read_packages(f"b==1 {word}")


def test_another_version_of_what_the_runtime_has_is_refused_before_anything_is_installed(machine):
    have = importlib.metadata.version("flwr")
    with pytest.raises(OneflowerError) as refused:
        packages.install(machine(f"flwr==0.1 --hash=sha256:{ONE}"))
    assert f"asks for flwr==0.1; the runtime of this machine has flwr=={have}" in refused.value.message
    assert refused.value.code is ExitCode.INVALID_INPUT  # the agent does not try again


def test_what_the_runtime_has_is_not_installed_again(machine):
    booted = machine(f"numpy=={importlib.metadata.version('numpy')} --hash=sha256:{ONE}")
    assert packages.install(booted) == "0 installed, 1 are in the runtime"
    assert PACKAGES.read(packages.published(booted.home, booted.settings)) == ""


def test_what_an_image_has_besides_or_instead_of_what_its_framework_brings_is_published(machine, tmp_path, monkeypatch):
    booted = machine("")
    image = tmp_path / "image.json"
    monkeypatch.setattr(packages, "IMAGE", image)
    image.write_text(json.dumps({"added": [f"extra==1.0 --hash=sha256:{ONE}"], "instead": ["torch==2.10.0"]}))
    assert PACKAGES.read(packages.published(booted.home, booted.settings)) == "extra==1.0\ntorch==2.10.0"


def test_a_list_that_is_not_the_one_that_was_asked_for_is_refused(machine, wheels):
    (wheels / "packages.txt").write_text(f"evil==1 --hash=sha256:{ONE}\n")
    with pytest.raises(OneflowerError, match="is not the list that was asked for"):
        packages.install(machine(f"packages.txt --hash=sha256:{TWO}"))


def test_a_list_without_hashes_and_a_folder_that_is_not_there_are_refused(machine, wheels):
    text = "a==1\n"
    (wheels / "packages.txt").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    with pytest.raises(OneflowerError, match="a==1 has no version and hash"):
        packages.install(machine(f"packages.txt --hash=sha256:{digest}"))
    with pytest.raises(OneflowerError, match="the folder /not/there does not exist"):
        packages.install(machine(f"a==1 --hash=sha256:{ONE}", FL_PACKAGE_INDEX="/not/there"))


def test_two_releases_of_one_package_are_refused(machine):
    with pytest.raises(OneflowerError, match=r"asks for a-b==1 and for A\.B==2"):
        packages.install(machine(f"a-b==1 --hash=sha256:{ONE} A.B==2 --hash=sha256:{TWO}"))


def test_without_packages_nothing_is_done(machine):
    booted = machine("", FL_PACKAGE_INDEX="")
    assert packages.steps(booted) == []
    assert packages.environment(booted.home, booted.settings) == {}


def test_a_federation_has_the_packages_that_all_its_machines_have():
    told = [{PACKAGES.name: PACKAGES.write(text)} for text in ("a==1\nb==2", "b==2\nc==3")]
    assert _packages(told) == {"b": "2"}
    assert _packages([*told, {}]) == _packages([]) == {}


@pytest.mark.e2e
def test_packages_are_installed_once_and_hide_nothing(machine, wheels):
    files = {"extra.py": "answer = 42\n", "json.py": "1/0\n", "flwr/__init__.py": "1/0\n", "sitecustomize.py": "1/0\n"}
    lines = [wheel(wheels, "extra", needs=["helper>=1", "numpy"], files=files), wheel(wheels, "helper")]
    booted = machine(" ".join(lines))
    assert packages.install(booted) == "2 installed, 0 are in the runtime"
    assert imported(booted, "import json, flwr, extra, helper; print(extra.answer)") == "42"
    assert PACKAGES.read(packages.published(booted.home, booted.settings)) == "extra==1.0\nhelper==1.0"
    for path in wheels.iterdir():
        path.unlink()
    assert packages.install(booted) == "2 are there already"


@pytest.mark.e2e
def test_a_wheel_with_another_hash_is_not_installed(machine, wheels):
    wheel(wheels, "extra")
    booted = machine(f"extra==1.0 --hash=sha256:{ONE}")
    with pytest.raises(OneflowerError, match=f"could not be installed from {wheels}: .*{ONE}") as refused:
        packages.install(booted)
    assert refused.value.code is ExitCode.ENVIRONMENT
    unchecked = machine("extra", FL_PACKAGE_HASHES="NO")
    packages.install(unchecked)
    assert imported(unchecked, "import extra; print(extra.answer)") == "42"


@pytest.mark.e2e
def test_a_package_that_lacks_what_it_needs_is_said(machine, wheels):
    have = importlib.metadata.version("numpy")
    booted = machine(wheel(wheels, "extra", needs=["helper>=2", "other; os_name == 'nt'"]))
    with pytest.raises(OneflowerError, match="extra==1.0 needs helper>=2; this machine does not have it"):
        packages.install(booted)
    booted = machine(wheel(wheels, "extra", needs=["numpy<1"]))
    with pytest.raises(OneflowerError, match=f"extra==1.0 needs numpy<1; this machine has numpy=={have}"):
        packages.install(booted)
