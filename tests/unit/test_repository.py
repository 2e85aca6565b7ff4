"""What may be in the repository, and that nothing that is started in it leaves its results there."""

from __future__ import annotations

import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from scripts import bench

from oneflower_appliance import __version__

ROOT = Path(__file__).parent.parent.parent
LIMIT = 150_000
FIGURES = {"docs/strategies.png"}


def tracked() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).exists()]


def test_no_results_and_no_large_binary_are_tracked():
    for name in tracked():
        assert "oneflower-results" not in Path(name).parts, name
        content = (ROOT / name).read_bytes()
        binary = b"\0" in content[:8192]  # as git tells
        assert not binary or len(content) <= LIMIT or name in FIGURES, name


def test_results_are_ignored_wherever_a_command_is_started():
    tracked()
    for folder in ("", "scripts/", "docs/deeper/"):
        asked = ["git", "check-ignore", "--quiet", f"{folder}oneflower-results/lab-1/model.npz"]
        assert subprocess.run(asked, cwd=ROOT, check=False).returncode == 0, folder


def test_a_benchmark_leaves_nothing_where_it_is_started(tmp_path, monkeypatch):
    """`oneflower run` saves beside the place where it is started: for a benchmark that is its temporary folder."""
    command = tmp_path / "bin" / "oneflower"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\nmkdir -p oneflower-results/lab-1 && touch oneflower-results/lab-1/model.npz\n")
    command.chmod(stat.S_IRWXU)
    monkeypatch.setattr(sys, "executable", str(command.parent / "python"))
    monkeypatch.setattr(bench.runtime, "ensure", lambda *_: None)
    started, folder = tmp_path / "started", tmp_path / "bench"
    started.mkdir()
    folder.mkdir()
    monkeypatch.chdir(started)
    bench.Bench(folder).oneflower("run", "app")
    assert not any(started.iterdir())
    assert (folder / "oneflower-results" / "lab-1" / "model.npz").exists()


def test_the_release_is_the_same_wherever_it_stands():
    appliance, operator = (
        tomllib.loads((ROOT / name).read_text())["project"] for name in ("appliance/pyproject.toml", "pyproject.toml")
    )
    assert appliance["version"] == operator["version"] == __version__
    assert f"oneflower-appliance=={__version__}" in operator["dependencies"]
