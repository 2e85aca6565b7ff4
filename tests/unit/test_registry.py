"""Where packages come from, and which GPUs apps may use."""

from __future__ import annotations

import pytest

from oneflower.runtimes import registry, runtime
from oneflower.runtimes.registry import find_links, torch_options
from oneflower_appliance.agent import gpu
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.settings import resolve


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
    assert torch_options([str(tmp_path)]) == [["--torch-backend", "auto"], []]
    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl").touch()
    assert torch_options(["https://example.org/wheels", str(tmp_path)]) == [[]]


def test_pytorchs_own_registry_is_tried_first_and_the_usual_one_after_it(tmp_path, monkeypatch):
    asked = []

    def run(command, *_):
        asked.append(command)
        if "--torch-backend" in command:
            raise OneflowerError("no route", "", ExitCode.ENVIRONMENT)

    monkeypatch.setattr(runtime, "run", run)
    monkeypatch.setattr(runtime, "find_links", lambda: ["/wheels"])
    runtime.ensure(tmp_path / "cache", "1.41.0", "pytorch")
    installs = [command for command in asked if "install" in command]
    assert ["--torch-backend" in command for command in installs] == [True, False]
    assert all("/wheels" in command for command in installs)
    asked.clear()
    monkeypatch.setattr(runtime, "torch_options", lambda links: [["--torch-backend", "auto"]])
    with pytest.raises(OneflowerError, match="no route"):
        runtime.ensure(tmp_path / "cache2", "1.41.0", "pytorch")
    assert registry.torch_options([])[-1] == []


def test_a_release_that_is_not_pinned_is_resolved_with_what_the_use_cases_need():
    wanted = runtime.requirements("1.42.0", "pytorch").split()
    assert {"flwr==1.42.0", "torch", "peft", "scikit-learn", "pillow", "pyarrow"} <= set(wanted)
    for framework in runtime.FRAMEWORKS:
        pinned = runtime.requirements("1.41.0", framework)
        assert all(f"\n{package}==" in f"\n{pinned}" for package in runtime.FRAMEWORKS[framework]), framework


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"CUDA_VISIBLE_DEVICES": ""}),
        ({"FL_GPU_ENABLED": "YES"}, {gpu.MEMORY_VARIABLE: "0.8"}),
        ({"FL_GPU_ENABLED": "YES", "FL_CUDA_VISIBLE_DEVICES": "0,2", "FL_GPU_MEMORY_FRACTION": "0.5"},
         {gpu.MEMORY_VARIABLE: "0.5", "CUDA_VISIBLE_DEVICES": "0,2"}),
    ],
)  # fmt: skip
def test_gpus_are_hidden_unless_asked_for(tmp_path, given, expected):
    (tmp_path / "nvidia0").touch()
    assert gpu.environment(resolve(given), tmp_path) == expected


def test_a_gpu_that_is_not_there_is_a_warning(tmp_path, caplog):
    gpu.environment(resolve({"FL_GPU_ENABLED": "YES"}), tmp_path)
    assert "this machine has no GPU: apps train on the CPU" in caplog.text
