"""Runtimes: the local counterparts of appliance images.

A runtime is a virtual environment with one Flower release and one machine-learning framework, built once with uv and
kept in the user's cache under a name that follows from its content. For the tested release every package is pinned
(locks/*.txt, written by `make lock`); another release is resolved when it is first asked for. The appliance's own
code is laid beside it, in a folder named by its content, so that machines keep the code they were booted with.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import oneflower_appliance
from oneflower.process import run
from oneflower.runtimes.registry import find_links, torch_options
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import private_directory, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_USUAL = ("scikit-learn", "pillow", "pyarrow")
FRAMEWORKS = {
    "sklearn": _USUAL,
    "pytorch": (*_USUAL, "torch", "transformers", "peft"),
    "tensorflow": (*_USUAL, "tensorflow-cpu"),
}
PINNED = Path(__file__).parent / "locks"


@dataclass(frozen=True)
class Runtime:
    """A complete runtime: its Python interpreter, and the folder that makes the appliance importable."""

    python: Path
    appliance: Path

    @property
    def bin(self) -> Path:
        """Where Flower's commands are."""
        return self.python.parent

    def packages(self) -> set[str]:
        """Return the normalised names of the packages that are installed."""
        folders = self.bin.parent.glob("lib/python*/site-packages/*.dist-info")
        return {folder.name.split("-")[0].lower().replace("_", "-") for folder in folders}


def requirements(version: str, framework: str) -> str:
    """Return what is installed: pinned for the tested release, else Flower's release and the framework's newest."""
    pinned = PINNED / f"flwr-{version}-{framework}.txt"
    if pinned.is_file():
        return pinned.read_text(encoding="utf-8")
    return "\n".join([f"flwr=={version}", *FRAMEWORKS[framework], ""])


def find(runtimes: Path, version: str, framework: str) -> Runtime | None:
    """Return the runtime among those in the folder `runtimes`, if it is complete."""
    folder = _folder(runtimes, version, framework)
    complete = (folder / ".complete").exists()
    return Runtime(folder / "bin" / "python", _lay_appliance(runtimes)) if complete else None


def ensure(runtimes: Path, version: str, framework: str, notify: Callable[[str], None] = lambda _: None) -> Runtime:
    """Return the runtime, building it first if need be. Raises `OneflowerError` when it cannot be built."""
    if runtime := find(runtimes, version, framework):
        return runtime
    folder = _folder(runtimes, version, framework)
    private_directory(runtimes)
    with _locked(folder.with_name(f"{folder.name}.lock")):
        if find(runtimes, version, framework) is None:
            notify(f"building the runtime Flower {version} + {framework}, once")
            _build(folder, version, framework)
    runtime = find(runtimes, version, framework)
    assert runtime is not None  # noqa: S101 - just built
    return runtime


def _folder(runtimes: Path, version: str, framework: str) -> Path:
    content = f"{sys.version}\n{sys.executable}\n{requirements(version, framework)}"
    return runtimes / f"flwr-{version}-{framework}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def _build(folder: Path, version: str, framework: str) -> None:
    from uv import find_uv_bin  # noqa: PLC0415 - only needed here

    hint = "Check that the package registry can be reached and that there is disk space, then try again."
    what = f"build the runtime for Flower {version} and {framework}"
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as listed:
        listed.write(requirements(version, framework))
        listed.flush()
        environment = {"UV_SYSTEM_CERTS": "1", **os.environ}
        # In a folder of ours, so that the settings of the project we happen to be called from do not count.
        uv = [find_uv_bin(), "--quiet", "--directory", str(folder.parent)]
        python = folder / "bin" / "python"
        run([*uv, "venv", "--clear", "--no-project", "--python", sys.executable, str(folder)], what, hint, environment)
        install = [*uv, "pip", "install", "--python", str(python), "--compile-bytecode", "--requirement", listed.name]
        links = find_links()
        install += [word for link in links for word in ("--find-links", link)]
        ways = torch_options(links) if framework == "pytorch" else [[]]
        for number, options in enumerate(ways, 1):
            try:
                run([*install, *options], what, hint, environment)
                break
            except OneflowerError:
                if number == len(ways):
                    raise
    write_atomic(folder / ".complete", "")


def _lay_appliance(runtimes: Path) -> Path:
    """Copy the appliance's package to a folder named by its content, unless it is there, and return that folder."""
    source = Path(oneflower_appliance.__file__).parent
    files = sorted(path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    digest = hashlib.sha256()
    for path in files:
        digest.update(str(path.relative_to(source)).encode() + b"\0" + path.read_bytes())
    target = runtimes / f"appliance-{digest.hexdigest()[:12]}"
    if target.exists():
        return target
    private_directory(runtimes)
    staging = Path(tempfile.mkdtemp(prefix=".appliance-", dir=runtimes))
    try:
        shutil.copytree(source, staging / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        staging.rename(target)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        if not target.exists():
            raise OneflowerError(
                f"Cannot write {target}: {error}.", "Free some disk space.", ExitCode.ENVIRONMENT
            ) from error
    return target


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
