"""Where packages come from."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from oneflower.runtimes import package_index, runtime, uv
from oneflower.runtimes.package_index import find_links, local_torch
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.parameters import FLOWER_MINORS, FLOWER_TESTED
from oneflower_appliance.use_cases import FRAMEWORKS, Framework


def test_what_pip_is_set_to_find_is_found(tmp_path):
    (tmp_path / ".config" / "pip").mkdir(parents=True)
    (tmp_path / ".config" / "pip" / "pip.conf").write_text(
        "[global]\nfind-links = /one\n  /two\n[install]\nno-color = 1\n"
    )
    home = {"HOME": str(tmp_path)}
    assert find_links(home) == ["/one", "/two"]
    (tmp_path / "mine.conf").write_text("[install]\nfind-links = /three\n")
    assert find_links(home | {"PIP_CONFIG_FILE": str(tmp_path / "mine.conf")}) == ["/three"]
    assert find_links(home | {"PIP_FIND_LINKS": "/four"}) == ["/four"]
    assert find_links(home | {"PIP_FIND_LINKS": ""}) == []
    (tmp_path / "bad.conf").write_bytes(b"\xff no settings")
    assert find_links(home | {"PIP_CONFIG_FILE": str(tmp_path / "bad.conf")}) == ["/one", "/two"]


def test_a_build_of_pytorch_that_lies_there_is_taken(tmp_path):
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    for name in ("2.9.1+cpu-{}-{}-linux_{}", "2.13.0+cpu-{}-{}-manylinux_2_28_{}", "2.14.0-cp27-cp27-linux_x86_64"):
        (tmp_path / f"torch-{name.format(python, python, platform.machine())}.whl").write_text(name)
    assert local_torch([str(tmp_path / "none"), "https://example.org/wheels"]) is None
    wheel = local_torch(["https://example.org/wheels", str(tmp_path)])
    assert wheel.name.startswith("torch-2.13.0+cpu")
    listed = package_index.with_torch((runtime.PINNED / f"flwr-{FLOWER_TESTED}-pytorch.txt").read_text(), wheel)
    assert not re.search(r"^(torch==|triton|nvidia|cuda)", listed, re.MULTILINE)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert f"\ntorch @ {wheel.as_uri()} --hash=sha256:{digest}\n" in listed
    assert "\ntransformers==" in listed


def test_every_package_of_every_list_has_its_hashes():
    lists = sorted(runtime.PINNED.glob("*.txt"))
    names = [*FRAMEWORKS, runtime.NO_FRAMEWORK, *(f"{name}-gpu" for name in runtime.GPU_PACKAGES)]
    assert [path.name for path in lists] == sorted(
        f"flwr-{minor}.0-{name}.txt" for minor in FLOWER_MINORS for name in names
    )
    for path in lists:
        packages = re.split(r"\n(?=\S)", path.read_text().strip())
        assert len(packages) > 50
        for package in packages:
            assert re.match(r"[\w.-]+==[\w.]+( ; [^\\]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+$", package), package


def test_a_list_for_a_gpu_differs_from_its_framework_s_in_pytorch_and_what_that_needs_of_cuda_12_only():
    for minor in FLOWER_MINORS:
        usual, gpu = (runtime.pinned_packages(f"{minor}.0", name) for name in ("pytorch", "pytorch-gpu"))
        assert package_index.torch_release(gpu).startswith("2.10.")
        names = [re.split(r"\s|;", line)[0] for line in gpu.splitlines() if line[:1].isalnum()]
        cuda = [name for name in names if name.startswith(("nvidia-", "cuda-")) and not name.startswith("nvidia-ml-py")]
        assert len(cuda) > 10
        assert [name for name in cuda if "-cu12==" not in name and not name.startswith("cuda-")] == []
        assert next(name for name in names if name.startswith("cuda-bindings")).startswith("cuda-bindings==12.")
        others = [
            {
                re.split(r"\s|;", line)[0]
                for line in package_index.without_torch(text).splitlines()
                if line[:1].isalnum()
            }
            for text in (usual, gpu)
        ]
        assert others[0] == others[1]


def wheel_of(folder, name, version):
    """Write a wheel with one module, and return its file and hash."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"]))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package registry with a Flower 9.9.9 and a scikit-learn of one empty module each; returns their hashes."""
    hashes = {}
    for name in ("flwr", "tiny"):
        folder = tmp_path / "index" / name
        folder.mkdir(parents=True)
        path, hashes[name] = wheel_of(folder, name, "9.9.9")
        (folder / "index.html").write_text(f'<a href="{path.name}#sha256={hashes[name]}">{path.name}</a>')
    monkeypatch.setenv("UV_DEFAULT_INDEX", (tmp_path / "index").as_uri())
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setattr(runtime, "PINNED", tmp_path / "lists")
    monkeypatch.setitem(FRAMEWORKS, "sklearn", Framework("tiny", ("tiny",), ()))
    (tmp_path / "lists").mkdir()
    return hashes


def test_a_list_with_one_wrong_hash_is_not_installed(tmp_path, index):
    home = tmp_path / "cache"
    listed = tmp_path / "lists" / "flwr-9.9.9-sklearn.txt"
    right = "".join(f"{name}==9.9.9 --hash=sha256:{digest}\n" for name, digest in index.items())
    for wrong, said in (
        (right.replace(index["tiny"], "0" * 64), "Hash mismatch for `tiny==9.9.9`"),
        (right.replace(f" --hash=sha256:{index['tiny']}", ""), "tiny==9.9.9"),
        (right.splitlines()[0], None),
    ):
        listed.write_text(wrong)
        if said is None:
            assert "tiny" not in runtime.ensure(home, "9.9.9", "sklearn").packages()
            continue
        with pytest.raises(OneflowerError, match="Cannot build the runtime for Flower 9.9.9 and sklearn") as caught:
            runtime.ensure(home, "9.9.9", "sklearn")
        assert said in caught.value.message
        assert runtime.find(home, "9.9.9", "sklearn") is None
    listed.write_text(right)
    assert {"flwr", "tiny"} <= set(runtime.ensure(home, "9.9.9", "sklearn").packages())


def test_a_release_that_is_not_pinned_is_refused_unless_switched_on(tmp_path, index, monkeypatch):
    home = tmp_path / "cache"
    monkeypatch.delenv("ONEFLOWER_UNPINNED", raising=False)
    (tmp_path / "lists" / "flwr-1.41.0-sklearn.txt").touch()
    with pytest.raises(OneflowerError, match=r"no list of pinned packages for Flower 9\.9\.9 and sklearn") as caught:
        runtime.ensure(home, "9.9.9", "sklearn")
    assert "Set FLOWER_VERSION to 1.41.0, or set ONEFLOWER_UNPINNED=1" in caught.value.hint
    monkeypatch.setenv("ONEFLOWER_UNPINNED", "1")
    assert {"flwr", "tiny"} <= set(runtime.ensure(home, "9.9.9", "sklearn").packages())


def test_a_framework_without_wheels_for_this_processor_is_refused_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(runtime, "Uv", lambda *_: pytest.fail("uv was asked"))
    with pytest.raises(
        OneflowerError, match=r"TensorFlow has no packages for .* \(aarch64\), only for x86-64"
    ) as caught:
        runtime.ensure(tmp_path / "cache", FLOWER_TESTED, "tensorflow")
    assert "sklearn, pytorch" in caught.value.hint
    assert "tensorflow" not in caught.value.hint
    assert not (tmp_path / "cache").exists()


def test_what_the_registry_tells_of_an_unpinned_release_must_be_what_it_gives(tmp_path, index, monkeypatch):
    monkeypatch.setenv("ONEFLOWER_UNPINNED", "1")
    wheel_of(tmp_path / "index" / "tiny", "tiny", "9.9.9")  # the same again, with another time in it
    with (tmp_path / "index" / "tiny" / "tiny-9.9.9-py3-none-any.whl").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(OneflowerError, match="Hash mismatch"):
        runtime.ensure(tmp_path / "cache", "9.9.9", "sklearn")


def test_pytorchs_own_registry_is_tried_first_for_what_is_not_pinned(tmp_path, monkeypatch):
    asked = []

    def run(command, *_):
        asked.append(command)
        if "--torch-backend" in command:
            raise OneflowerError("no route", "", ExitCode.ENVIRONMENT)
        return "flwr==1.41.9"

    monkeypatch.setattr(uv, "run", run)
    monkeypatch.setattr(runtime, "find_links", lambda: ["https://example.org/wheels"])
    monkeypatch.setenv("ONEFLOWER_UNPINNED", "1")
    runtime.ensure(tmp_path / "cache", "1.41.9", "pytorch")
    assert ["--torch-backend" in command for command in asked if "compile" in command] == [True, False]
    [install] = [command for command in asked if "install" in command]
    assert "--torch-backend" not in install
    assert {"--require-hashes", "--only-binary", "https://example.org/wheels"} <= set(install)


def test_a_release_that_is_not_pinned_is_resolved_with_what_the_use_cases_need():
    wanted = runtime.requirements("1.42.9", "pytorch").split()
    assert {"flwr==1.42.9", "torch", "peft", "scikit-learn", "pillow", "pyarrow"} <= set(wanted)
    for framework in FRAMEWORKS:
        for release in (f"{minor}.0" for minor in FLOWER_MINORS):
            pinned = f"\n{runtime.requirements(release, framework)}"
            assert f"\nflwr=={release} " in pinned
            assert all(f"\n{package}==" in pinned for package in FRAMEWORKS[framework].packages), framework


def test_the_default_release_is_pinned_and_the_one_that_the_tests_import():
    root = Path(__file__).parent.parent.parent
    project = tomllib.loads((root / "appliance" / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["flower"] == [f"flwr=={FLOWER_TESTED}"]
    assert FLOWER_TESTED in {f"{minor}.0" for minor in FLOWER_MINORS}


def test_uv_is_installed_by_hash_and_is_the_one_of_the_lock():
    root = Path(__file__).parent.parent.parent
    [package] = [p for p in tomllib.loads((root / "uv.lock").read_text())["package"] if p["name"] == "uv"]
    listed = (root / "scripts" / "uv.txt").read_text()
    assert listed.startswith(f"uv=={package['version']} ")
    files = [*package["wheels"], package["sdist"]]
    assert set(re.findall(r"sha256:[0-9a-f]{64}", listed)) == {file["hash"] for file in files}
    for build in ("manylinux_2_17_x86_64", "manylinux_2_28_aarch64", "macosx_11_0_arm64", "macosx_10_12_x86_64"):
        assert any(build in wheel["url"] for wheel in package["wheels"]), build


@pytest.fixture
def checkout(tmp_path):
    """A copy of what `scripts/uv` needs, with a uv of somebody else's first on PATH, which would leave a trace."""
    root = Path(__file__).parent.parent.parent
    (tmp_path / "checkout" / "scripts").mkdir(parents=True)
    for name in ("uv", "uv.txt"):
        shutil.copy(root / "scripts" / name, tmp_path / "checkout" / "scripts" / name)
    fake = tmp_path / "bin" / "uv"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\ntouch {tmp_path / 'fake-was-run'}\n")
    fake.chmod(0o755)

    def scripts_uv(*arguments, **environment):
        path = f"{fake.parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            [tmp_path / "checkout" / "scripts" / "uv", *arguments],
            env={**os.environ, "PATH": path, **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    yield scripts_uv
    assert not (tmp_path / "fake-was-run").exists()


@pytest.mark.e2e
def test_a_uv_on_path_is_not_run(tmp_path, checkout):
    # With a registry that has no uv, so that nothing is downloaded: the script fails rather than take the other one.
    (tmp_path / "nothing").mkdir()
    empty = (tmp_path / "nothing").as_uri()
    done = checkout(
        "--version", PIP_INDEX_URL=empty, PIP_EXTRA_INDEX_URL="", PIP_FIND_LINKS="", PIP_CONFIG_FILE="/dev/null"
    )
    assert done.returncode != 0
    assert "uv==" in done.stderr


@pytest.mark.e2e
def test_a_uv_of_another_hash_is_not_installed(tmp_path, checkout):
    root = Path(__file__).parent.parent.parent
    release = re.match(r"uv==(\S+)", (root / "scripts" / "uv.txt").read_text())[1]
    (tmp_path / "wheels").mkdir()
    wheel_of(tmp_path / "wheels", "uv", release)
    wheels = str(tmp_path / "wheels")
    done = checkout("--version", PIP_NO_INDEX="1", PIP_FIND_LINKS=wheels, PIP_CONFIG_FILE="/dev/null")
    assert done.returncode != 0
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "checkout" / ".tools" / "uv.txt").exists()
