"""Installs what FL_PACKAGES asks for, before Flower starts: into the machine's own folder, on top of its runtime.

A package that the runtime has stays as it is, and another version of it is refused. So whatever is asked for, the agent
and Flower run with the packages that they were tested with. What is installed is found at the end of Python's path: it
can hide nothing. Exactly the packages that are listed are installed. If one of them needs another, that must be listed
as well.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import shutil
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.markers import default_environment
from packaging.requirements import Requirement

from oneflower_appliance.agent.journal import Step
from oneflower_appliance.agent.systemd import alive
from oneflower_appliance.app_packages import excluded_by, release_of
from oneflower_appliance.attributes import PACKAGES
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import private_directory, write_atomic
from oneflower_appliance.packages import (
    ADDED,
    IMAGE,
    INSTEAD,
    Wanted,
    digest_of,
    is_folder,
    normalised,
    read_packages,
)
from oneflower_appliance.process import Child

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oneflower_appliance.agent.machine import Machine
    from oneflower_appliance.values import Settings

log = logging.getLogger(__name__)

PIP = Path("/usr/share/python-wheels")  # where Debian's python3-pip-whl has pip
_STAMP = "stamp"  # beside the packages: what is installed
_SITE = "sitecustomize.py"
_PATIENCE = ("15", "2")  # seconds for an answer of the index, and how often it is asked again
_PULSE = 20.0
_HOW = "Make the list with `oneflower bundle APP`: it has all that the app needs and the machines lack."


def steps(machine: Machine) -> list[Step]:
    """Return the step that installs packages, if any are asked for."""
    return [Step("packages", lambda: install(machine))] if machine.settings.text("FL_PACKAGES") else []


def environment(home: Path, settings: Settings) -> dict[str, str]:
    """Return what makes Flower's processes, and every Python that they start, find the packages."""
    if not settings.text("FL_PACKAGES"):
        return {}
    folder = home / "packages"
    write_atomic(folder / _SITE, f"import sys\n\nsys.path.append({str(folder / 'site')!r})\n")
    return {"PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(folder)]))}


def published(home: Path, settings: Settings) -> dict[str, str]:
    """Return what is to be published of what the machine has besides or instead of what its framework brings."""
    try:
        said = json.loads(IMAGE.read_text(encoding="utf-8"))
        lines = [*said.get(ADDED, ()), *said.get(INSTEAD, ())]
        found = [package.text for package in read_packages("\n".join(lines))]
    except (OSError, ValueError):
        found = []
    if settings.text("FL_PACKAGES"):
        found += [f"{name}=={version}" for name, version in _versions(home / "packages" / "site").items()]
    return {PACKAGES.name: PACKAGES.write("\n".join(sorted(found)))}


def install(machine: Machine, own: Path | None = None) -> str:
    """Install what is asked for, unless it is there. Raises `OneflowerError`, and then nothing was installed.

    `own` is the folder of the runtime's packages, if it is not that of this process.
    """
    settings = machine.settings
    index = settings.text("FL_PACKAGE_INDEX")
    hashes = settings.flag("FL_PACKAGE_HASHES")
    if is_folder(index) and not Path(index).is_dir():
        raise OneflowerError(
            f"FL_PACKAGE_INDEX: the folder {index} does not exist on this machine.",
            "Put the folder that `oneflower bundle` wrote on the data disk of each machine, the SuperLink's too.",
            ExitCode.ENVIRONMENT,
        )
    wanted = _read_lists(read_packages(settings.text("FL_PACKAGES")), index, hashes=hashes)
    runtime = _versions(own)
    missing = [package for package in wanted if not _has(runtime, package)]
    folder = machine.home / "packages"
    stamp = digest_of("\n".join([sys.version, *sorted(map(str, missing))]).encode())
    if _read(folder / _STAMP) == stamp:
        return f"{len(missing)} are there already"
    shutil.rmtree(folder, ignore_errors=True)
    site = private_directory(folder / "site")
    if missing:
        log.info("Installing %d packages from %s.", len(missing), index)
        _run_installer(missing, index, folder, hashes=hashes)
        _check_complete(site, runtime)
    write_atomic(folder / _STAMP, stamp)
    return f"{len(missing)} installed, {len(wanted) - len(missing)} are in the runtime"


def _read_lists(wanted: list[Wanted], index: str, *, hashes: bool) -> list[Wanted]:
    """Return the packages, with those of the lists in the folder `index` in place of the lists."""
    found: list[Wanted] = []
    for each in wanted:
        if not each.is_list:
            found.append(each)
            continue
        path = Path(index, each.text)
        try:
            content = path.read_bytes()
            listed = read_packages(content.decode())
        except (OSError, ValueError) as error:
            raise OneflowerError(
                f"FL_PACKAGES: the list {path} cannot be read: {error}.",
                "Put the folder that `oneflower bundle` wrote on the data disk of each machine, the SuperLink's too.",
                ExitCode.ENVIRONMENT,
            ) from error
        if each.hashes and digest_of(content) not in each.hashes:
            raise OneflowerError(
                f"FL_PACKAGES: {path} is not the list that was asked for: its SHA-256 is {digest_of(content)}.",
                "Set FL_PACKAGES to what `oneflower bundle` printed for this folder.",
                ExitCode.ENVIRONMENT,
            )
        if wrong := [package.text for package in listed if package.is_list or (hashes and not package.is_verified)]:
            raise OneflowerError(
                f"FL_PACKAGES: in {path}, {wrong[0]} has no version and hash.",
                f"{_HOW} Or set FL_PACKAGE_HASHES=NO.",
                ExitCode.ENVIRONMENT,
            )
        found += listed
    by_name: dict[str, Wanted] = {}
    for package in found:
        if (other := by_name.setdefault(package.name, package)).text != package.text:
            raise OneflowerError(f"FL_PACKAGES asks for {other.text} and for {package.text}.", "Leave one of them out.")
    return list(by_name.values())


def _has(runtime: dict[str, str], package: Wanted) -> bool:
    """Whether the runtime has the package. Raises `OneflowerError` if it has another version."""
    if found := excluded_by(Requirement(f"{package.name}{package.specifier}"), runtime):
        raise OneflowerError(
            f"FL_PACKAGES asks for {package.text}; the runtime of this machine has {found}, which Flower and the "
            "framework were tested with and which stays.",
            f"Use an image whose framework goes with {package.text}, or leave it out. {_HOW}",
        )
    return release_of(package.name, runtime) is not None


def _check_complete(site: Path, runtime: dict[str, str]) -> None:
    """Raise `OneflowerError` unless everything that the packages in `site` need is there, in a version that fits."""
    have = runtime | _versions(site)
    surroundings = {key: str(value) for key, value in default_environment().items()} | {"extra": ""}
    for found in importlib.metadata.distributions(path=[str(site)]):
        for line in found.requires or ():
            need = Requirement(line)
            if need.marker and not need.marker.evaluate(surroundings):
                continue
            other = excluded_by(need, have)
            if other or release_of(normalised(need.name), have) is None:
                has = f"has {other}" if other else "does not have it"
                why = f"{found.name}=={found.version} needs {need.name}{need.specifier}"
                raise OneflowerError(
                    f"FL_PACKAGES: {why}; this machine {has}.",
                    f"Add what fits to FL_PACKAGES. {_HOW}",
                )


def _run_installer(packages: Iterable[Wanted], index: str, folder: Path, *, hashes: bool) -> None:
    listed = folder / "wanted.txt"
    write_atomic(listed, "".join(f"{package}\n" for package in packages))
    source = ["--no-index", "--find-links", index] if is_folder(index) else ["--index-url", index]
    command = [
        *_installer(), "--target", str(folder / "site"), "--no-deps", "--only-binary", ":all:",
        *(["--require-hashes"] if hashes else []), *source, "--requirement", str(listed),
    ]  # fmt: skip
    seconds, again = _PATIENCE
    settings = {
        "PATH": os.defpath, "TMPDIR": str(folder), "NO_COLOR": "1",
        "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_CACHE_DIR": "1", "PIP_TIMEOUT": seconds, "PIP_RETRIES": again, "PIP_PROGRESS_BAR": "off",
        "UV_NO_CONFIG": "1", "UV_NO_CACHE": "1", "UV_COMPILE_BYTECODE": "1", "UV_SYSTEM_CERTS": "1",
        "UV_HTTP_TIMEOUT": seconds, "UV_HTTP_RETRIES": again, "UV_NO_PROGRESS": "1", "UV_LINK_MODE": "copy",
    }  # fmt: skip
    said: deque[str] = deque(maxlen=6)

    def keep(line: str) -> None:
        log.debug("%s", line)
        if line.strip():
            said.append(line.strip())

    child = Child(command, settings, keep)
    try:
        while not child.ended.wait(_PULSE):
            alive()
    finally:
        child.stop(1)
    if child.status:
        child.last_line()  # waits for the end of its output
        raise OneflowerError(
            f"FL_PACKAGES: the packages could not be installed from {index}: {' '.join(said)}",
            "See that the machine can reach FL_PACKAGE_INDEX, and that it has wheels with these hashes for Python "
            f"{sys.version_info.major}.{sys.version_info.minor}. {_HOW}",
            ExitCode.ENVIRONMENT,
        )


def _installer() -> list[str]:
    """Return uv of this machine's runtime, or pip: the image of a virtual machine has the smaller one."""
    uv = Path(sys.executable).with_name("uv")
    if uv.exists():
        return [str(uv), "pip", "install", "--python", sys.executable]
    for wheel in sorted(PIP.glob("pip-*.whl"), reverse=True):
        return [sys.executable, "-I", str(wheel / "pip"), "install"]
    raise OneflowerError(
        "FL_PACKAGES: this machine has neither pip nor uv to install packages with.",
        "Build a new image (`oneflower image build`), or leave FL_PACKAGES empty.",
        ExitCode.ENVIRONMENT,
    )


def _versions(folder: Path | None = None) -> dict[str, str]:
    """Return the packages in a folder, or of this process's runtime, by normalised name."""
    path = [str(folder)] if folder else sys.path
    # Of two with one name the first counts, as for Python.
    found = reversed(list(importlib.metadata.distributions(path=path)))
    return {normalised(one.name): one.version for one in found if one.name}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
