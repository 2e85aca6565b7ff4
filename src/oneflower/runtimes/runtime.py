"""Runtimes: the local counterparts of appliance images.

A runtime is a virtual environment with one Flower release and one machine-learning framework, built once with uv and
kept in the user's cache under a name that follows from its content. Every package is pinned, with the hashes of its
wheels (locks/*.txt, written by `make lock`), and nothing with another hash is installed. A release without a list is
refused, unless ONEFLOWER_UNPINNED is set: then a list is made of what the registry has today, with its hashes.
The appliance's own code is copied beside it, into a folder named by its content, so that machines keep the code that
they were booted with.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import sys
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

import oneflower_appliance
from oneflower.runtimes.cache import APPS, COMPLETE, note_use, using
from oneflower.runtimes.package_index import find_links, local_torch, with_torch
from oneflower.runtimes.uv import Uv, wheels_only
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import private_directory, write_atomic
from oneflower_appliance.use_cases import FRAMEWORKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PINNED = Path(__file__).parent / "locks"
NO_FRAMEWORK = "none"  # Flower alone, which images have for apps that bring no framework
GPU = "-gpu"  # how the name of a list ends that is for images with NVIDIA's driver
# What these lists have in place of a framework's packages: the last PyTorch in the registry that is built for CUDA 12,
# which is what the driver of Debian 12 knows.
GPU_PACKAGES = {
    "pytorch": tuple({"torch": "torch==2.10.*"}.get(name, name) for name in FRAMEWORKS["pytorch"].packages),
}
UNPINNED = "ONEFLOWER_UNPINNED"
_HINT = "Check that the package registry can be reached and that there is disk space, then retry."


@dataclass(frozen=True)
class Runtime:
    """A complete runtime: its Python interpreter, and the folder that makes the appliance importable."""

    python: Path
    appliance: Path

    @property
    def bin(self) -> Path:
        """Where Flower's commands are."""
        return self.python.parent

    @property
    def app_packages(self) -> Path:
        """The folder with the packages that were installed for apps on top of this runtime. It may not exist."""
        folder = self.bin.parent
        return folder.parent / APPS / folder.name

    def packages(self) -> dict[str, str]:
        """Return the releases of the packages that are installed, by normalised name."""
        return installed(self._site)

    def needs(self, package: str) -> list[str]:
        """Return what a package needs, with its extras: lines of its metadata. None if it is not installed."""
        found = distributions(name=package, path=[str(self._site)])
        return [line for distribution in found for line in distribution.requires or ()]

    @property
    def _site(self) -> Path:
        return next(self.bin.parent.glob("lib/python*/site-packages"))


def installed(folder: Path) -> dict[str, str]:
    """Return the releases of the packages that are installed in a folder of packages, by normalised name."""
    found = (path.name.removesuffix(".dist-info").partition("-") for path in sorted(folder.glob("*.dist-info")))
    return {canonicalize_name(name): release for name, _, release in found}


def requirements(version: str, framework: str) -> str:
    """Return what to install: the pinned list if there is one, else Flower's release and the framework's packages."""
    pinned = pinned_list(version, framework)
    if pinned.is_file():
        return pinned.read_text(encoding="utf-8")
    return "\n".join([f"flwr=={version}", *FRAMEWORKS[framework].packages, ""])


def pinned_list(version: str, framework: str) -> Path:
    """Return the file with the pinned packages for a release and a framework. It may not exist."""
    return PINNED / f"flwr-{version}-{framework}.txt"


def pinned_releases() -> list[str]:
    """Return the releases of Flower for which there are pinned packages."""
    return sorted({path.name.split("-")[1] for path in PINNED.glob("flwr-*.txt")})


def pinned_packages(version: str, framework: str) -> str:
    """Return the pinned packages, with their hashes. Raises `OneflowerError` when nothing pins them."""
    pinned = pinned_list(version, framework)
    if not pinned.is_file():
        raise OneflowerError(
            f"There is no list of pinned packages for Flower {version} and {framework}.",
            f"Give --flower-version {' or '.join(pinned_releases())}, and a framework that there is.",
            ExitCode.NOT_FOUND,
        )
    return pinned.read_text(encoding="utf-8")


def is_pinned(version: str, framework: str) -> bool:
    """Return whether there is a list of pinned packages. Both may be any text: a machine publishes its release."""
    return pinned_list(version, framework) in PINNED.iterdir()


def find(runtimes: Path, version: str, framework: str) -> Runtime | None:
    """Return the runtime among those in the folder `runtimes`, if it is complete."""
    folder = _folder(runtimes, version, framework)
    if not runtimes.is_dir():
        return None
    with using(runtimes):
        if not (folder / COMPLETE).exists():
            return None
        note_use(folder / COMPLETE)
        return Runtime(folder / "bin" / "python", _lay_appliance(runtimes))


def ensure(runtimes: Path, version: str, framework: str, notify: Callable[[str], None] = lambda _: None) -> Runtime:
    """Return the runtime, building it first if necessary. Raises `OneflowerError` when it cannot be built."""
    if runtime := find(runtimes, version, framework):
        return runtime
    _check_processor(framework)
    if not pinned_list(version, framework).is_file() and os.environ.get(UNPINNED) != "1":
        raise OneflowerError(
            f"There is no list of pinned packages for Flower {version} and {framework}.",
            f"Set FLOWER_VERSION to {' or '.join(pinned_releases())}, or set {UNPINNED}=1 in the environment to "
            "install what the package registry has today.",
            ExitCode.ENVIRONMENT,
        )
    folder = _folder(runtimes, version, framework)
    private_directory(runtimes)
    with _locked(folder.with_name(f"{folder.name}.lock")):
        if find(runtimes, version, framework) is None:
            notify(f"building the runtime Flower {version} + {framework}, once")
            _build(folder, version, framework)
    runtime = find(runtimes, version, framework)
    assert runtime is not None  # noqa: S101 - just built
    return runtime


def _check_processor(framework: str) -> None:
    """Raise `OneflowerError` when this machine's processor is one for which the framework has no wheels."""
    known, processor = FRAMEWORKS.get(framework), platform.machine()
    if known and known.x86_only and processor.lower() not in {"x86_64", "amd64"}:
        others = ", ".join(name for name, other in FRAMEWORKS.items() if not other.x86_only)
        raise OneflowerError(
            f"{known.title} has no packages for the processor of this machine ({processor}), only for x86-64.",
            f"Set ML_FRAMEWORK to one of {others}, or use a machine with x86-64.",
            ExitCode.ENVIRONMENT,
        )


def folder_name(version: str, framework: str) -> str:
    """Return the name of a runtime's folder. Raises `KeyError` for a framework that there is not."""
    content = f"{sys.version}\n{sys.executable}\n{requirements(version, framework)}"
    return f"flwr-{version}-{framework}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def _folder(runtimes: Path, version: str, framework: str) -> Path:
    return runtimes / folder_name(version, framework)


def _build(folder: Path, version: str, framework: str) -> None:
    uv = Uv(folder.parent, f"build the runtime for Flower {version} and {framework}", _HINT)
    links = find_links()
    sources = wheels_only(links)
    on_torch = framework != NO_FRAMEWORK and "torch" in FRAMEWORKS[framework].packages
    torch = local_torch(links) if on_torch else None
    listed, way = requirements(version, framework), list[str]()
    if not pinned_list(version, framework).is_file():
        # PyTorch has a registry of its own, with a build for this machine's GPU or CPU. Not everybody can reach it.
        ways = [["--torch-backend", "auto"], []] if on_torch and not torch else [[]]
        resolve = ["pip", "compile", "--generate-hashes", "--python", sys.executable, *sources]
        listed, way = _resolve(uv, resolve, ways, listed)
    elif torch:
        listed = with_torch(listed, torch)
    with _written(listed) as path:
        uv("venv", "--clear", "--no-project", "--python", sys.executable, str(folder))
        python = str(folder / "bin" / "python")
        install = ["pip", "install", "--python", python, "--compile-bytecode", "--require-hashes", *sources, *way]
        uv(*install, "--requirement", path)
    write_atomic(folder / COMPLETE, "")


def _resolve(uv: Uv, command: list[str], ways: list[list[str]], wanted: str) -> tuple[str, list[str]]:
    """Return what the registry has today, with its hashes, and the first of the `ways` that worked."""
    with _written(wanted) as path:
        for way in ways[:-1]:
            with suppress(OneflowerError):
                return uv(*command, *way, path), way
        return uv(*command, *ways[-1], path), ways[-1]


@contextmanager
def _written(text: str) -> Iterator[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        yield stream.name


def _lay_appliance(runtimes: Path) -> Path:
    """Copy the appliance's package to a folder named by its content, unless it is there, and return that folder."""
    source = Path(oneflower_appliance.__file__).parent
    files = sorted(path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    digest = hashlib.sha256()
    for path in files:
        digest.update(str(path.relative_to(source)).encode() + b"\0" + path.read_bytes())
    target = runtimes / f"appliance-{digest.hexdigest()[:12]}"
    if target.exists():
        note_use(target)
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
